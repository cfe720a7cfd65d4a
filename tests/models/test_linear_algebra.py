"""Products in blocks are the dense products, for any number of blocks and a last one that is short."""

import pytest
import torch

from pyrovae import GaussianMixture
from pyrovae.models import linear_algebra


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(linear_algebra, "BLOCK", 3)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_triangular_and_symmetric_products_are_the_dense_ones(size):
    lower, x = torch.randn(size, size, dtype=torch.float64).tril(), torch.randn(size, 11, dtype=torch.float64)
    torch.testing.assert_close(linear_algebra.lower_triangular_product(lower, x), lower @ x, rtol=1e-12, atol=1e-12)
    weighted = x * torch.rand(11, dtype=torch.float64)
    torch.testing.assert_close(linear_algebra.symmetric_product(weighted, x), weighted @ x.T, rtol=1e-12, atol=1e-12)


def test_a_mixture_of_many_blocks_has_its_dense_density_and_second_moments():
    x = torch.randn(30, 8, dtype=torch.float64)
    gmm = GaussianMixture(2, 8, floor=0.1)
    for parameter in gmm.parameters():
        torch.nn.init.normal_(parameter)
    dense = gmm.as_distribution().log_prob(x)
    torch.testing.assert_close(gmm.log_prob(x), dense, rtol=1e-10, atol=1e-10)
    r, deviations = gmm.posterior(x).probs.T.detach(), (x - gmm.means[:, None]).detach()
    expected = torch.einsum("kn,kni,knj->kij", r, deviations, deviations)
    torch.testing.assert_close(gmm.expected_statistics(x)["second"], expected, rtol=1e-10, atol=1e-10)


def test_of_scores_that_differ_by_rounding_the_first_is_chosen():
    rounding = 1 + 4 * torch.finfo(torch.float64).eps
    scores = torch.tensor([[-3.0, -1.0, -1 / rounding], [0.0, 0.0, -1.0], [2.0, 3.0, 5.0]], dtype=torch.float64)
    assert scores[0].argmax() == 2  # by a bit
    assert linear_algebra.first_largest(scores, 1).tolist() == [1, 0, 2]
    assert linear_algebra.first_largest(scores[2], 0) == 2
    assert linear_algebra.first_largest(1e-9 * scores, 1).tolist() == [1, 0, 2]
