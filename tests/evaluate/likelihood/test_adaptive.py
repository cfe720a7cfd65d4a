"""Importance weights that repair themselves: below log p(x) in expectation, and near it where the guide's are not."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, Gaussian, GaussianMixture, evaluate, exact_guide
from pyrovae.evaluate.likelihood import adaptive as room
from pyrovae.evaluate.likelihood.adaptive import StudentTs, moments
from pyrovae.evaluate.likelihood.best_gaussian import GaussianPosteriors
from pyrovae.models.base import LatentVariableModel, Program

STANDARD_ERRORS = 4  # a false failure in 16,000 for a normal statistic


def random_ppca(latent_dim=3, num_dims=6):
    torch.manual_seed(0)
    ppca = PPCA(latent_dim, num_dims, floor=0.1)
    for parameter in ppca.parameters():
        nn.init.normal_(parameter)
    return ppca


class Fixed(Program):
    """A q(z) that does not look at x."""

    def __init__(self, mean, scale):
        super().__init__()
        self.mean, self.scale = (torch.tensor(each, dtype=torch.float64) for each in (mean, scale))

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.mean, self.scale).expand([3]).to_event(1))


NARROW = Fixed(0.7, 0.2)  # and around the wrong place, so that its weights have heavy tails


def adapted(*args, **options):
    return evaluate.log_likelihood(*args, method="adaptive", progress=False, **options)


# ----------------------------------------------------------------------------------------------------------- identities


def test_with_the_posterior_as_guide_every_value_is_log_prob_and_nothing_is_adapted():
    ppca = random_ppca()
    x, _ = ppca.sample(30, seed=1)
    found = adapted(ppca, x, 50, guide=exact_guide(ppca))
    torch.testing.assert_close(found.values, ppca.log_prob(x), rtol=0, atol=1e-10)
    assert found.counts == {"by the guide": 30}


def test_a_student_t_draws_from_the_density_that_it_gives():
    torch.manual_seed(0)
    factor = torch.eye(2, dtype=torch.float64) + torch.tensor([[0.0, 0.0], [0.8, 0.0]], dtype=torch.float64)
    mean = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    z, log_q = StudentTs(GaussianPosteriors(mean, factor[None])).draw(20_000)
    wider = 1 + 0.8 / math.sqrt(2)
    witness = dist.MultivariateStudentT(torch.tensor(5.6, dtype=torch.float64), mean, wider * factor[None])
    torch.testing.assert_close(log_q, witness.log_prob(z))
    ratio = (dist.MultivariateNormal(mean, scale_tril=factor[None]).log_prob(z) - log_q).exp()  # its mean is one
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * ratio.std() / math.sqrt(len(ratio))


def test_moments_are_those_of_weighted_draws():
    torch.manual_seed(0)
    z, log_w = torch.randn(500, 1, 2, dtype=torch.float64), torch.randn(500, 1, dtype=torch.float64)
    found, weight = moments(z, log_w), log_w.softmax(0)[:, 0]
    torch.testing.assert_close(found.mean[0], weight @ z[:, 0])
    covariance = torch.cov(z[:, 0].T, aweights=weight, correction=0)
    torch.testing.assert_close((found.scale_tril @ found.scale_tril.mT)[0], covariance, rtol=2 * room.RIDGE, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- inequalities


@pytest.mark.parametrize("seed", range(3))
def test_a_guide_that_is_wrong_is_mended_to_the_exact_log_p(seed):
    ppca = random_ppca()
    x, _ = ppca.sample(40, seed=1)
    exact, options = ppca.log_prob(x), {"guide": NARROW, "seed": seed}
    guided, found = evaluate.log_likelihood(ppca, x, 1000, "importance", **options), adapted(ppca, x, 1000, **options)
    assert guided.k_hat_share > 0.5
    assert found.k_hat_share == 0
    assert found.counts["by a q of their own"] > 20
    told = ~found.standard_error.isnan()  # a datum that was annealed may not know its error
    error, off = found.standard_error[told], (found.values - exact)[told]
    assert told.sum() >= 36
    assert abs(off.mean()) < STANDARD_ERRORS * error.square().sum().sqrt() / told.sum()
    assert error.median() < 0.05
    assert found.mean > guided.mean


def test_draws_that_decide_do_not_count(monkeypatch):
    """With every datum on its guide, whatever pilots say, the weights that count are fresh, and average to p(x)."""
    ppca = random_ppca()
    x, _ = ppca.sample(1, seed=1)
    repeated = x.expand(4000, -1)

    monkeypatch.setattr(room, "PILOT", (20, 20))
    monkeypatch.setattr(room, "is_told", lambda log_w: log_w.logsumexp(0) > log_w.logsumexp(0).median())
    monkeypatch.setattr(room, "SEARCH", room.SearchOptions(2, 1))
    found = adapted(ppca, repeated, 20, guide=Fixed(0.0, 1.5))
    ratio = (found.values - ppca.log_prob(repeated)).exp()[found.treatment == 0]  # pilots chose the lucky half
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * ratio.std() / math.sqrt(len(ratio))


def test_what_no_gaussian_fits_is_matched_or_annealed(monkeypatch):
    monkeypatch.setattr(room, "ANNEALING", evaluate.AISOptions(num_chains=8, num_temperatures=10))
    monkeypatch.setattr(room, "is_told", lambda log_w: torch.zeros(log_w.shape[1], dtype=torch.bool))
    ppca = random_ppca()
    x, _ = ppca.sample(5, seed=1)
    found = adapted(ppca, x, 200, guide=NARROW)
    assert found.counts == {"by annealing": 5}
    assert found.k_hat.isnan().all()
    assert "5 by annealing" in found.meaning
    assert "5 by annealing" in repr(found)


# ------------------------------------------------------------------------------------------------------------- contract


class Rates(Program):
    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


class WrongRates(Program):
    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.LogNormal(2.5, 0.1).expand([1]).to_event(1))


class Counts(LatentVariableModel):
    data_shape = (1,)

    def __init__(self):
        super().__init__()
        self.register_buffer("like", torch.zeros(()))
        self.model, self.guide = Rates(), WrongRates()


def test_positive_latents_are_mended_where_they_are_free():
    x = torch.arange(5.0)[:, None]
    found = adapted(Counts(), x, 2000)
    exact = dist.NegativeBinomial(2, probs=torch.tensor(0.5)).log_prob(x[:, 0])  # a Gamma mixture of Poissons
    assert ((found.values - exact).abs() < 5 * found.standard_error).all()
    assert found.standard_error.max() < 0.1


def test_a_seed_gives_the_same_and_nothing_of_the_caller_changes():
    vae = VAE(2, 6, Gaussian("shared"), hidden=(8,))
    x = torch.randn(10, 6)
    before = torch.get_rng_state()
    first, again, other = (adapted(vae, x, 100, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert first.method == "adaptive"
    assert first.values.dtype == x.dtype


def test_a_discrete_z_is_refused():
    with pytest.raises(ValueError, match="must have continuous latents, got the discrete site"):
        adapted(GaussianMixture(2, 3), torch.zeros(4, 3), 10, guide=exact_guide(GaussianMixture(2, 3)))
