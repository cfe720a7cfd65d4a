"""Quadrature over one latent or two: equal to closed forms, to scipy's rules, and normalised."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, evaluate
from pyrovae.evaluate.likelihood.quadrature import _steepness


def random_ppca(latent_dim, num_dims, noise_variance, std=0.7):
    ppca = PPCA(latent_dim, num_dims, noise_variance=noise_variance)
    for parameter in ppca.parameters():
        nn.init.normal_(parameter, std=std)
    return ppca


class Square(nn.Module):
    """z → Normal(z², σ): a posterior of two modes for x > 0."""

    def __init__(self, sigma):
        super().__init__()
        self.sigma = nn.Parameter(torch.tensor([sigma], dtype=torch.float64), requires_grad=False)

    def forward(self, z):
        return dist.Normal(z.square(), self.sigma.expand(z.shape)).to_event(1)


def smooth_vae(latent_dim, likelihood, std=0.8):
    vae = VAE(latent_dim, 3, likelihood, hidden=(8,), activation="tanh").double()
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=std)
    return vae


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("noise_variance", [1.0, 1e-2, 1e-6])
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_ppca_is_integrated_to_its_log_prob(latent_dim, noise_variance):
    """Wide posteriors and narrow ones, and two data 30 standard deviations of z out."""
    ppca = random_ppca(latent_dim, 5, noise_variance)
    x, _ = ppca.sample(6)
    x[0], x[1] = (ppca.mean + side * ppca.weight.sum(1) for side in (30, -30))
    x = x.detach()
    result = evaluate.quadrature(ppca, x, tolerance=1e-9)
    torch.testing.assert_close(result.values, ppca.log_prob(x).detach(), rtol=1e-12, atol=1e-8)
    assert (result.error <= 1e-8).all()
    posterior = ppca.posterior(x)
    assert ((posterior.mean - 6 * posterior.stddev > result.low) & (posterior.mean < result.high)).all()
    assert (result.high - result.low < 60 * posterior.stddev).all()  # a box that fits, not the prior's


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_grid_holds_the_normalised_posterior(latent_dim):
    ppca = random_ppca(latent_dim, 4, 0.1)
    x, _ = ppca.sample(3)
    grid = evaluate.posterior_grid(ppca, x, 41, tolerance=1e-9)
    assert grid.z.shape == (*(41,) * latent_dim, 3, latent_dim)
    torch.testing.assert_close(
        grid.log_density, ppca.posterior(x).log_prob(grid.z).detach(), rtol=1e-10, atol=1e-7, check_stride=False
    )
    around = evaluate.posterior_grid(ppca, x, 5, low=torch.full((latent_dim,), -1.0), high=torch.ones(latent_dim))
    first = around.z[0] if latent_dim == 1 else around.z[0, 0]
    assert (first == -1).all()


def test_the_result_does_not_depend_on_the_chunks(monkeypatch):
    vae = smooth_vae(2, Gaussian(0.5))
    x, _ = vae.sample(5)
    whole, chunked = (evaluate.quadrature(vae, x, chunk_size=size, tolerance=1e-4) for size in (None, 777))
    monkeypatch.setattr("pyrovae.evaluate.likelihood.quadrature.NODES_AT_ONCE", 2 * 65**2)
    in_blocks = evaluate.quadrature(vae, x, tolerance=1e-4)
    for other in (chunked, in_blocks):
        torch.testing.assert_close(other.values, whole.values, rtol=0, atol=1e-12)


def test_steepness_is_the_largest_step_to_a_neighbour():
    height = torch.tensor([[0.0, 1.0, 4.0], [10.0, 1.5, 4.0]])[..., None]
    assert _steepness(height)[..., 0].tolist() == [[10.0, 3.0, 3.0], [10.0, 8.5, 2.5]]


# ------------------------------------------------------------------------------------------------------------ witnesses


@pytest.mark.parametrize("likelihood", [Gaussian(0.3), Bernoulli()])
def test_a_nonlinear_decoder_of_one_latent_against_scipy(likelihood):
    vae = smooth_vae(1, likelihood)
    x, _ = vae.sample(3)

    def density(z, datum):
        with torch.no_grad():
            code = torch.tensor([[z]], dtype=torch.float64)
            return (vae.decoder(code).log_prob(datum).exp() * dist.Normal(0, 1).log_prob(code).exp().squeeze()).item()

    truth = [
        math.log(scipy.integrate.quad(density, -10, 10, args=(x[n],), epsabs=1e-13, epsrel=1e-11, limit=500)[0])
        for n in range(3)
    ]
    assert evaluate.quadrature(vae, x).values.tolist() == pytest.approx(truth, abs=1e-8)


def test_a_nonlinear_decoder_of_two_latents_against_gauss_and_hermite():
    vae = smooth_vae(2, Gaussian(1.0), std=0.4)
    x, _ = vae.sample(4)
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(120))
    z = torch.cartesian_prod(nodes, nodes)
    log_weights = torch.cartesian_prod(weights, weights).log().sum(1) - math.log(2 * math.pi)
    with torch.no_grad():
        truth = (vae.decoder(z[:, None]).log_prob(x) + log_weights[:, None]).logsumexp(0)
    torch.testing.assert_close(evaluate.quadrature(vae, x).values, truth, rtol=0, atol=1e-8)


def test_both_of_two_narrow_modes_are_found():
    vae = VAE(1, 1, decoder=Square(0.001)).double()
    x = torch.tensor([[1.0], [2.3], [0.0]], dtype=torch.float64)
    values = evaluate.quadrature(vae, x).values

    def density(z, datum):
        return scipy.stats.norm.pdf(datum, z * z, 0.001) * scipy.stats.norm.pdf(z)

    for datum, value in zip(x[:, 0].tolist(), values.tolist(), strict=True):
        root, reach = math.sqrt(datum), 0.02 if datum else 0.2
        one = scipy.integrate.quad(density, max(0, root - reach), root + reach, args=(datum,), epsabs=0, epsrel=1e-12)
        assert value == pytest.approx(math.log(2 * one[0]), abs=1e-8)


def test_a_positive_latent_beside_a_real_one_against_scipy(two_sites):
    x = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64)

    def density(tau):  # with z integrated out by hand
        given_tau = scipy.stats.multivariate_normal.pdf(x[0].numpy(), np.zeros(3), np.eye(3) / tau + 1)
        return given_tau * scipy.stats.gamma.pdf(tau, 3, scale=0.5)

    truth = math.log(scipy.integrate.quad(density, 0, 40, epsabs=0, epsrel=1e-11)[0])
    assert evaluate.quadrature(two_sites, x).values.item() == pytest.approx(truth, abs=1e-8)


# ------------------------------------------------------------------------------------------------------------- contract


def test_a_rule_that_has_not_settled_says_so():
    vae = VAE(1, 3, Gaussian(0.1), hidden=(20,), activation="relu").double()
    x, _ = vae.sample(4)
    with pytest.warns(RuntimeWarning, match=r"of 4 values are not stable to 1e-12 nats at `max_nodes` = 65"):
        rough = evaluate.quadrature(vae, x, tolerance=1e-12, max_nodes=65)
    fine = evaluate.quadrature(vae, x, tolerance=1e-5)
    assert rough.num_nodes.tolist() == [65] * 4
    assert ((rough.values - fine.values).abs() <= 4 * rough.error + 1e-5).all()


def test_single_precision_settles_at_its_own_rounding():
    vae = VAE(1, 3, Gaussian(0.5), hidden=(8,), activation="tanh")
    x, _ = vae.sample(3)
    single = evaluate.quadrature(vae, x).values
    torch.testing.assert_close(single, evaluate.quadrature(vae.double(), x).values, rtol=0, atol=1e-4)


def test_what_cannot_be_integrated_is_refused():
    x = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"`model` must have one latent or two for quadrature, got 3; use evaluate.ais"
    ):
        evaluate.quadrature(PPCA(3, 4), x)
    with pytest.raises(ValueError, match=r"`model` must have continuous latents, got the discrete site 'z'"):
        evaluate.quadrature(GaussianMixture(2, 4), x)
    with pytest.raises(ValueError, match=r"`tolerance` must be a positive number, got 0"):
        evaluate.quadrature(PPCA(1, 4), x, tolerance=0)
    with pytest.raises(ValueError, match=r"`num_nodes` must be a whole number of at least 2, got 1"):
        evaluate.posterior_grid(PPCA(1, 4), x, 1)
