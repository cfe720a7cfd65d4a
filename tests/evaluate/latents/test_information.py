"""Mutual information, marginal KL, and the forecast of a linear model: exact sums, known truths, bounds."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, FactorAnalysis, Gaussian, GaussianMixture, evaluate
from pyrovae.engine.seeding import block_seed
from pyrovae.models.base import Program

STANDARD_ERRORS = 4


def random_parameters(model, std=0.7):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


class Codes(Program):
    """q(z|x) = Normal(x, s): every datum its own code."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(x[:, :1], self.scale).to_event(1))


# ---------------------------------------------------------------------------------------------------------- information


def test_of_a_mixture_all_is_exact():
    gmm = random_parameters(GaussianMixture(3, 2, floor=0.1), std=1.5)
    x = torch.randn(30, 2, dtype=torch.float64) * 2
    information = evaluate.latent_information(gmm, x)
    r = gmm.predict_proba(x)
    mean = r.mean(0)
    entropies = -(r * r.log()).sum(1)
    assert information.exact
    assert information.mean_kl == pytest.approx(gmm.posterior_kl(x).mean().item(), abs=1e-10)
    assert information.mutual_information == pytest.approx(
        (-(mean * mean.log()).sum() - entropies.mean()).item(), abs=1e-10
    )
    assert information.marginal_kl == pytest.approx((mean * (mean / gmm.weights).log()).sum().item(), abs=1e-10)
    assert information.mutual_information_upper > information.mutual_information > 0.1


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_aggregate_posterior_is_the_mean_over_all_data(num_particles, monkeypatch):
    """Against loops over every pair of data at the same draws; and the same in small blocks."""
    ppca = random_parameters(PPCA(2, 3, floor=0.2))
    x, _ = ppca.sample(6)
    monkeypatch.setattr("pyrovae.evaluate.latents.encoding.ENCODED_FLOATS", 12)  # blocks of 4 data and 2
    with torch.random.fork_rng():
        torch.manual_seed(block_seed(3))
        z = torch.cat([ppca.posterior(part).sample((num_particles,)) for part in x.split(4)], dim=1)
    q = [ppca.posterior(x[m : m + 1]) for m in range(6)]
    own = torch.stack([q[n].log_prob(z[:, n, None])[:, 0] for n in range(6)], dim=1)
    every = [[q[m].log_prob(z[:, n, None])[:, 0].exp() for m in range(6)] for n in range(6)]
    mixed = torch.stack([sum(each) / 6 for each in every], dim=1)
    others = torch.stack([sum(each[:n] + each[n + 1 :]) / 5 for n, each in enumerate(every)], dim=1)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected = {
        "mean_kl": own - prior,
        "mutual_information": own - mixed.log(),
        "mutual_information_upper": own - others.log(),
        "marginal_kl": mixed.log() - prior,
    }
    for densities in (2**22, 7):
        monkeypatch.setattr("pyrovae.evaluate.latents.information.DENSITIES", densities)
        information = evaluate.latent_information(ppca, x, num_particles=num_particles, seed=3)
        for name, value in expected.items():
            assert getattr(information, name) == pytest.approx(value.mean().item(), abs=1e-10), name
            error = (value.mean(0).std() / math.sqrt(6)).item()
            assert information.standard_errors[name] == pytest.approx(error, abs=1e-10), name


def test_the_parts_sum_and_the_mean_kl_is_the_analytic_one():
    ppca = random_parameters(PPCA(2, 4, floor=0.5))
    x, _ = ppca.sample(400)
    information = evaluate.latent_information(ppca, x, num_particles=4)
    both = information.mutual_information + information.marginal_kl
    assert both == pytest.approx(information.mean_kl, abs=1e-12)
    error = information.standard_errors["mean_kl"]
    assert abs(information.mean_kl - ppca.posterior_kl(x).mean().item()) < STANDARD_ERRORS * error
    assert not information.exact


def test_of_a_linear_model_the_information_is_between_the_bounds():
    """On data of the model itself, I(x; z) = ½ log|I + WᵀW/σ²|, and q(z) is the prior."""
    ppca = random_parameters(PPCA(2, 4, floor=0.5))
    x, _ = ppca.sample(1500)
    information = evaluate.latent_information(ppca, x)
    gram = ppca.weight.T @ ppca.weight / ppca.noise_variance
    truth = 0.5 * torch.logdet(torch.eye(2, dtype=gram.dtype) + gram).item()
    errors = information.standard_errors
    assert information.mutual_information - STANDARD_ERRORS * errors["mutual_information"] < truth
    assert truth < information.mutual_information_upper + STANDARD_ERRORS * errors["mutual_information_upper"]
    assert information.mutual_information < information.mutual_information_upper
    biased = 0.1  # N draws of q(z) stand for all of it
    assert abs(information.marginal_kl) < STANDARD_ERRORS * errors["marginal_kl"] + biased
    assert abs(information.mutual_information - truth) < STANDARD_ERRORS * errors["mutual_information"] + biased


def test_codes_that_never_overlap_tell_all_there_is():
    vae = VAE(1, 2, hidden=(4,)).double()
    x = torch.arange(8, dtype=torch.float64)[:, None].expand(8, 2) * 10
    information = evaluate.latent_information(vae, x, guide=Codes(0.01))
    assert information.mutual_information == pytest.approx(math.log(8), abs=1e-12)
    assert information.ceiling == math.log(8)
    assert information.mutual_information_upper > 1e4
    assert "log N" in str(information)


def test_a_collapsed_q_tells_nothing():
    vae = VAE(1, 2, hidden=(4,)).double()
    information = evaluate.latent_information(vae, torch.zeros(9, 2, dtype=torch.float64), guide=Codes(1.0))
    assert information.mean_kl == pytest.approx(0, abs=1e-12)
    assert information.mutual_information == pytest.approx(0, abs=1e-12)
    assert information.mutual_information_upper == pytest.approx(0, abs=1e-12)


def test_what_has_no_aggregate_is_refused(two_sites):
    ppca = PPCA(1, 3)
    with pytest.raises(ValueError, match=r"`data` must hold at least 2 data for an aggregate posterior, got 1"):
        evaluate.latent_information(ppca, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"`num_particles` must be a whole number of at least 1, got 0"):
        evaluate.latent_information(ppca, torch.zeros(4, 3), num_particles=0)
    with pytest.raises(ValueError, match=r"`model` must have one latent site, got \['tau', 'z'\]"):
        evaluate.latent_information(two_sites, torch.zeros(4, 3))


# ------------------------------------------------------------------------------------------------------------- collapse


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_forecast_is_the_maximum_of_a_linear_model(beta):
    """Fitted in closed form at a given σ²: the latents in use, the variance of their means, and their KL."""
    x = torch.randn(200, 5, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.2, 0.6, 0.3])  # the fourth below any β
    ppca = PPCA(4, 5, noise_variance=1.0)
    ppca.maximum_likelihood(x, beta=beta)
    forecast = evaluate.linear_forecast(x, 1.0, 4, beta=beta)
    signal = ppca.weight.square().sum(0)  # W has orthogonal columns
    assert forecast.num_active == (signal > 0).sum() < 4
    torch.testing.assert_close(forecast.active, signal > 0)
    torch.testing.assert_close(forecast.kl, 0.5 * torch.log1p(signal / beta).detach(), rtol=0, atol=1e-10)
    if beta == 1:
        report = evaluate.latent_report(evaluate.encode(ppca, x))
        torch.testing.assert_close(forecast.kl, report.kl, rtol=0, atol=1e-10)
        torch.testing.assert_close(forecast.mean_variance, report.mean_variance, rtol=0, atol=1e-10)
        assert forecast.kl.sum().item() == pytest.approx(ppca.posterior_kl(x).mean().item(), abs=1e-10)


@pytest.mark.parametrize("shape", [(50, 4), (3, 6)])  # more data than dimensions, and fewer
def test_eigenvalues_are_those_of_the_covariance(shape):
    x = torch.randn(shape, dtype=torch.float64) + 5
    values = evaluate.linear_forecast(x, 0.1, 4).eigenvalues
    expected = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)[:4]
    torch.testing.assert_close(values, expected.clamp_min(0), rtol=0, atol=1e-12)


def test_a_report_sets_what_is_found_beside_the_forecast():
    x = torch.randn(200, 5, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.2, 0.9, 0.3])
    ppca = PPCA(3, 5, noise_variance=0.6)
    ppca.maximum_likelihood(x)
    report = evaluate.collapse_report(ppca, x)
    assert report.linear.noise_variance == pytest.approx(0.6, abs=1e-12)
    assert (report.found.num_active, report.linear.num_active, report.unexplained) == (3, 3, 0)
    with torch.no_grad():
        ppca.model.weight[:, 0] = 0  # a latent lost, which the linear optimum uses
    lost = evaluate.collapse_report(ppca, x)
    assert lost.unexplained == 1
    assert "a linear model of sigma^2 = 0.6 and beta = 1 would use 3" in str(lost)


def test_the_noise_of_a_report_is_the_mean_over_dimensions():
    factors = random_parameters(FactorAnalysis(2, 4, floor=0.1))
    x, _ = factors.sample(20)
    report = evaluate.collapse_report(factors, x)
    assert report.linear.noise_variance == pytest.approx(factors.noise_variance.mean().item(), abs=1e-12)
    vae = VAE(2, (1, 2, 2), Gaussian(0.5), hidden=(4,)).double()
    images = evaluate.collapse_report(vae, x.reshape(20, 1, 2, 2), beta=4.0)
    assert images.linear.threshold == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 2), r"`noise_variance` must be a positive number, got 0\.0"),
        ((1.0, 0), r"`latent_dim` must be a whole number of at least 1, got 0"),
        ((1.0, 2, -1.0), r"`beta` must be a positive number, got -1\.0"),
    ],
)
def test_forecasts_out_of_range_are_refused(arguments, message):
    noise, latent_dim, *beta = arguments
    with pytest.raises(ValueError, match=message):
        evaluate.linear_forecast(torch.zeros(3, 4), noise, latent_dim, **({"beta": beta[0]} if beta else {}))


def test_an_error_of_what_is_infinite_is_not_available():
    """Two data whose codes have no mass under one another's: the upper bound has no error, and says so."""
    names = ("mean_kl", "mutual_information", "mutual_information_upper", "marginal_kl")
    errors = dict(zip(names, (0.1, 0.1, math.nan, 0.1), strict=True))
    said = str(evaluate.LatentInformation(1.0, 0.5, math.inf, 0.5, errors, math.log(2), True)).splitlines()
    assert said[2].endswith("inf ± n/a nats")
    assert said[0].endswith("1.0000 ± 0.1000 nats")
