"""Parameters of two fits, up to the order of components and the rotation of latents."""

import pytest
import torch

from pyrovae import PPCA, GaussianMixture, evaluate, fit
from pyrovae.models.networks import LinearGaussianEncoder


def test_a_permutation_of_components_is_undone():
    means, order = torch.randn(6, 3), torch.randperm(6)
    assert torch.equal(means[order][evaluate.match_components(means[order], means)], means)


def test_the_matching_is_the_best_of_all_not_a_greedy_one():
    """Greedy takes 1 for 0.9 and leaves -9 for 2: 121; crossed, 0.9 to 2 and -9 to 1 cost less together than that."""
    reference, means = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.9], [-9.0]])
    costs = {
        order: sum((means[k] - r).square().item() for k, r in zip(order, reference, strict=True))
        for order in ((0, 1), (1, 0))
    }
    assert tuple(evaluate.match_components(means, reference).tolist()) == min(costs, key=costs.get)


def test_angles_between_planes_at_known_angles():
    angle = torch.tensor(0.3, dtype=torch.float64)
    turned = torch.tensor([[1.0, 0.0], [0.0, angle.cos()], [0.0, angle.sin()], [0.0, 0.0]], dtype=torch.float64)
    flat = torch.eye(4, dtype=torch.float64)[:, :2]
    torch.testing.assert_close(evaluate.principal_angles(turned, flat), torch.tensor([0.3, 0.0]).double())
    mixing = torch.randn(2, 2, dtype=torch.float64)
    torch.testing.assert_close(evaluate.principal_angles(turned @ mixing, flat), torch.tensor([0.3, 0.0]).double())


def test_a_linear_autoencoder_finds_the_subspace_of_the_closed_form():
    x = torch.randn(400, 2, dtype=torch.float64) @ torch.randn(2, 5, dtype=torch.float64)
    x = 2 * x + 0.1 * torch.randn_like(x)
    exact = fit.closed_form(PPCA(2, 5), x).model
    encoder = LinearGaussianEncoder(5, 2, torch.float64)
    learned = fit.svi(PPCA(2, 5, encoder=encoder), x, num_epochs=400, batch_size=400, lr=0.03).model
    # At a maximum the score is zero; W is then known up to a rotation, and its span without error.
    assert evaluate.principal_angles(learned.weight, exact.weight).max() < 1e-2


def test_a_mixture_fitted_by_svi_has_the_means_of_em():
    x = torch.randn(300, 2, dtype=torch.float64) + 8 * torch.eye(3, 2, dtype=torch.float64)[torch.arange(300) % 3]
    em = fit.em(GaussianMixture(3, 2, floor=0.01), x).model
    svi = fit.svi(GaussianMixture(3, 2, floor=0.01), x, num_epochs=300, batch_size=300, lr=0.03, seed=1).model
    matched = svi.means[evaluate.match_components(svi.means, em.means)]
    assert (matched - em.means).abs().max() < 0.02  # a tenth of the standard error of a mean of 100 data


@pytest.mark.parametrize("compare", [evaluate.match_components, evaluate.principal_angles])
def test_shapes_that_do_not_fit_are_refused(compare):
    with pytest.raises(ValueError, match=r"`(means|weight)` and `reference` must .*got \(3, 2\) and \(4, 2\)"):
        compare(torch.zeros(3, 2), torch.zeros(4, 2))
