"""The closed forms that a model with latents is to beat."""

import numpy as np
import torch
from scipy import stats

from pyrovae.models.reference import independent_bernoullis, one_gaussian


def test_one_gaussian_is_that_of_scipy():
    x = torch.randn(200, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 5
    peer = stats.multivariate_normal(x.mean(0).numpy(), np.cov(x.T.numpy(), bias=True))
    log_prob = one_gaussian(x, 1e-9).log_prob(x[:7]).detach()
    torch.testing.assert_close(log_prob, torch.as_tensor(peer.logpdf(x[:7].numpy())), rtol=1e-6, atol=1e-6)


def test_independent_bernoullis_are_the_means():
    x = torch.bernoulli(torch.full((500, 3), 0.3, dtype=torch.float64))
    peer = stats.bernoulli(x.mean(0).numpy()).logpmf(x[:7].numpy().astype(int)).sum(1)
    torch.testing.assert_close(independent_bernoullis(x).log_prob(x[:7]).detach(), torch.as_tensor(peer))
