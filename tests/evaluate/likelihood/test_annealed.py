"""Annealed importance sampling: weights of the right mean in both directions, so bounds on both sides of log p(x)."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, AISOptions, Bernoulli, Gaussian, GaussianMixture, PPCAMixture, evaluate, exact_guide
from pyrovae.data import Observations
from pyrovae.engine.isolation import evaluating
from pyrovae.evaluate.likelihood import annealed
from pyrovae.evaluate.likelihood.hmc import Path, transition
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.plates import Plates
from pyrovae.evaluate.likelihood.tiles import Tiles
from pyrovae.models.base import Program
from pyrovae.models.networks import LinearGaussianEncoder

STANDARD_ERRORS = 4  # a false failure in 16,000 for a normal statistic


@pytest.fixture(autouse=True)
def short_pilot(monkeypatch):
    """Tests are small, and a pilot run that has not settled only costs acceptance."""
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 20)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 10)


def random_ppca(latent_dim, num_dims, floor=0.5, std=0.5, seed=0):
    torch.manual_seed(seed)
    ppca = PPCA(latent_dim, num_dims, floor=floor)
    for parameter in ppca.parameters():
        nn.init.normal_(parameter, std=std)
    return ppca


def density_at(ppca, x, beta):
    """f_β of PPCA from the prior, normalised: the posterior at β times the precision of the noise."""
    weight, noise = ppca.weight.detach(), ppca.noise_variance.detach()
    precision = torch.eye(ppca.latent_dim, dtype=x.dtype) + beta * weight.T @ weight / noise
    mean = beta * torch.linalg.solve(precision, weight.T @ (x - ppca.mean.detach()).T / noise).T
    return torch.distributions.MultivariateNormal(mean, precision_matrix=precision), precision


def excess(ratio):
    """How many standard errors the mean of independent ratios is above one."""
    return ((ratio.mean() - 1) / (ratio.std() / math.sqrt(ratio.numel()))).item()


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("num_temperatures", [1, 2, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_from_the_exact_posterior_every_weight_is_log_prob(num_temperatures, reverse):
    ppca = random_ppca(3, 5)
    x, z = ppca.sample(4)
    estimate = evaluate.ais(
        ppca,
        x,
        AISOptions(start="guide", num_chains=3, num_temperatures=num_temperatures, num_leapfrog=2),
        guide=exact_guide(ppca),
        reverse_from=z if reverse else None,
    )
    exact = ppca.log_prob(x).detach()
    assert estimate.bound == ("upper" if reverse else "lower")
    torch.testing.assert_close(estimate.log_weights, exact.expand(3, 4), rtol=0, atol=1e-10)
    torch.testing.assert_close(estimate.values, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(estimate.ess, torch.full((4,), 3.0, dtype=torch.float64))


def test_a_transition_leaves_its_density_as_it_is():
    """Exact draws of f_β, moved by steps that are rejected often, are draws of f_β still."""
    ppca = random_ppca(2, 4, floor=0.2)
    x, beta = ppca.sample(3)[0], 0.4
    q, precision = density_at(ppca, x, beta)
    with torch.no_grad(), evaluating(ppca):
        path = Path(Joint(ppca.model, (x,), Tiles(10**6), Plates()), None)
        point, acceptances = path.at(q.sample((3000,))), []
        for _ in range(5):
            point, probability = transition(path, point, beta, torch.full((3,), 0.9, dtype=x.dtype), 3)
            acceptances.append(probability.mean())
    assert 0.3 < torch.stack(acceptances).mean() < 0.9
    deviation = point.z - q.mean
    squares = torch.einsum("snl,lm,snm->sn", deviation, precision, deviation).flatten()  # χ² of 2
    assert abs(squares.mean().item() - 2) < STANDARD_ERRORS * math.sqrt(2 * 2 / len(squares))
    standard = deviation.flatten(0, 1).mean(0) @ torch.linalg.cholesky(precision)
    assert standard.abs().max() < (STANDARD_ERRORS + 1) / math.sqrt(len(squares))


def test_the_path_is_the_geometric_one_with_its_gradient():
    ppca = random_ppca(3, 5)
    x, beta = ppca.sample(4)[0], 0.3
    q, _ = density_at(ppca, x, beta)
    with evaluating(ppca):
        point = Path(Joint(ppca.model, (x,), Tiles(10**6), Plates()), None).at(torch.randn(6, 4, 3, dtype=x.dtype))
    offset = point.log_density(beta) - q.log_prob(point.z)
    torch.testing.assert_close(offset, offset[:1].expand(6, 4).clone(), rtol=0, atol=1e-10)  # one constant a datum
    z = point.z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(q.log_prob(z).sum(), z)
    torch.testing.assert_close(point.gradient(beta), gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_a_positive_latent_is_on_the_path_by_its_logarithm(two_sites, start):
    """log Gamma(τ) + log τ + log Normal(z) at β = 0, by torch; and log p(x, z) at β = 1, volume included."""
    x, z = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 4, 2, dtype=torch.float64)
    with evaluating(two_sites):
        joint = Joint(two_sites.model, (x,), Tiles(7), Plates())
        point = Path(joint, two_sites.guide if start == "guide" else None).at(z)
    log_tau, real = z.unbind(-1)
    tau = log_tau.exp()
    shape, rate = torch.tensor([3.0, 2.0], dtype=torch.float64)
    prior = dist.Gamma(shape, rate).log_prob(tau) + log_tau + dist.Normal(0.0, 1.0).log_prob(real)
    noise = dist.Normal(real[..., None], tau.rsqrt()[..., None]).log_prob(x).sum(-1)
    torch.testing.assert_close(point.log_density(0), prior, rtol=0, atol=1e-10)
    torch.testing.assert_close(point.log_density(1), prior + noise, rtol=0, atol=1e-10)


def with_a_guide_of_its_own(ppca):
    """A linear q, far from the posterior."""
    ppca.guide.encoder = LinearGaussianEncoder(ppca.num_dims, ppca.latent_dim, torch.float64)
    nn.init.normal_(ppca.guide.encoder.loc.weight, std=0.1)
    return ppca


OPTIONS = {"num_temperatures": 4, "num_leapfrog": 3}


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_weights_have_mean_p(schedule, start):
    """Of 4 temperatures and 1,000 chains: no tight bound, but the identity that makes it one."""
    ppca = with_a_guide_of_its_own(random_ppca(2, 3))
    x, _ = ppca.sample(3, seed=4)
    log_weights = evaluate.ais(ppca, x, AISOptions(1000, start=start, schedule=schedule, **OPTIONS)).log_weights
    ratios = (log_weights - ppca.log_prob(x).detach()).exp()
    assert all(abs(excess(column)) < STANDARD_ERRORS for column in ratios.T)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_reciprocals_of_reverse_weights_have_mean_one_over_p(start):
    """Over draws of the posterior, one for each chain; of a posterior near the prior, or 1/w has no variance."""
    ppca = with_a_guide_of_its_own(random_ppca(2, 3, floor=1.0, std=0.4))
    x = (ppca.mean + torch.tensor([0.3, -0.2, 0.1])).detach().expand(3000, -1)
    draws = ppca.posterior(x).sample()
    estimate = evaluate.ais(ppca, x, AISOptions(1, start=start, **OPTIONS), reverse_from=draws)
    ratios = (ppca.log_prob(x).detach() - estimate.log_weights).exp()
    assert ratios.std() > 0.1
    assert abs(excess(ratios)) < STANDARD_ERRORS


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_the_result_does_not_depend_on_the_chunks(chunk_size):
    vae = VAE(2, 4, Bernoulli(), hidden=(6,)).double()
    x = (torch.rand(3, 4) > 0.5).double()
    whole, chunked = (
        evaluate.ais(vae, x, AISOptions(3, 2, num_leapfrog=2), chunk_size=size, seed=5) for size in (None, chunk_size)
    )
    torch.testing.assert_close(chunked.log_weights, whole.log_weights, rtol=1e-9, atol=1e-9)


def test_blocks_of_data_have_draws_of_their_own(monkeypatch):
    monkeypatch.setattr(annealed, "PAIRS", 4)
    vae = VAE(2, 4, Gaussian(1.0), hidden=(6,)).double()
    x = torch.zeros(5, 4, dtype=torch.float64)  # two blocks of two and one of one
    estimate = evaluate.ais(vae, x, AISOptions(2, 2, num_leapfrog=1))
    assert estimate.values.shape == estimate.acceptance.shape == (5,)
    assert len(estimate.log_weights.unique()) == 10


# --------------------------------------------------------------------------------------------------------- inequalities


def assert_between(both, tractable):
    """Of so few chains the errors may not be known; over data, those of the bounds from the truth have a spread."""
    exact = tractable.log_prob(both.data).detach()
    for above in (exact - both.lower.values, both.upper.values - exact):
        assert above.mean() > -STANDARD_ERRORS * above.std() / math.sqrt(len(above))


def test_ppca_of_twenty_latents_is_sandwiched_from_the_prior():
    ppca = random_ppca(20, 30, floor=0.5, std=0.3)
    gaps = []
    for num_temperatures in (8, 60):
        both = evaluate.sandwich(ppca, 16, AISOptions(6, num_temperatures, num_leapfrog=3))
        assert_between(both, ppca)
        gaps.append(both.gap)
    assert 0 < gaps[1] < 0.3 * gaps[0]
    assert "gap" in str(both)


def test_a_component_of_a_mixture_is_sandwiched():
    torch.manual_seed(1)
    mixture = PPCAMixture(2, 3, 6)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter, std=0.7)
    component = mixture.component(1)
    both = evaluate.sandwich(component, 20, AISOptions(8, 30, num_leapfrog=3))
    assert_between(both, component)


def test_a_pilot_run_brings_the_acceptance_to_what_is_asked(monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 50)
    ppca = random_ppca(10, 12)
    options = AISOptions(8, 40, num_leapfrog=3, acceptance=0.8, schedule="linear")
    estimate = evaluate.ais(ppca, ppca.sample(20)[0], options)
    assert 0.7 < estimate.acceptance.mean() < 0.9


# ------------------------------------------------------------------------------------------------------ other programs


def test_several_sites_with_constraints_are_annealed_together(two_sites):
    """Against p(x) by quadrature, which scipy's agrees with in its own test."""
    both = evaluate.sandwich(two_sites, 30, AISOptions(60, 6, num_leapfrog=3))
    assert set(both.latents) == {"tau", "z"}
    exact = evaluate.quadrature(two_sites, both.data).values
    for ratios in ((both.lower.log_weights - exact).exp(), (exact - both.upper.log_weights).exp()):
        assert abs(excess(ratios.mean(0))) < STANDARD_ERRORS  # chains of one datum share the z they start down from


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_a_conditional_model_is_annealed_at_the_labels_of_the_data(start):
    torch.manual_seed(2)
    vae = VAE(1, 3, Gaussian(0.7), hidden=(5,), activation="tanh", num_classes=2).double()
    both = evaluate.sandwich(vae, 4, AISOptions(300, 3, start, num_leapfrog=3), labels=torch.tensor([0, 1, 1, 0]))
    assert both.data.labels.tolist() == [0, 1, 1, 0]
    exact = evaluate.quadrature(vae, both.data).values
    flipped = evaluate.quadrature(vae, Observations(both.data.x, labels=1 - both.data.labels)).values
    ratios = (both.lower.log_weights - exact).exp()
    assert all(abs(excess(column)) < STANDARD_ERRORS for column in ratios.T)
    assert (exact - flipped).abs().min() > 1e-3


def test_a_trajectory_that_runs_away_is_rejected(two_sites):
    """At a step of 1,000, τ = exp(z) leaves what a number can hold, and NaN follows; the chains stay where they are."""
    with torch.no_grad(), evaluating(two_sites):
        path = Path(Joint(two_sites.model, (torch.randn(3, 3, dtype=torch.float64),), Tiles(10**6), Plates()), None)
        assert path.joint.farthest.tolist() == [60, 1e6]
        start = path.at(path.start(5))
        for step, farthest in ((1e3, path.joint.farthest), (0.1, torch.zeros(2))):
            path.joint.farthest = farthest
            point, probability = transition(path, start, 1.0, torch.full((3,), step, dtype=torch.float64), 3)
            assert torch.equal(point.z, start.z)
            assert probability.max() == 0


# ------------------------------------------------------------------------------------------------------------- contract


def test_the_world_and_the_model_are_left_as_they_were():
    vae = VAE(2, 4, Gaussian(), hidden=(6,)).train()
    vae.decoder.body.append(nn.Dropout(0.5))
    state, x = torch.get_rng_state(), torch.randn(3, 4)
    torch.set_rng_state(state)
    one, two = (evaluate.ais(vae, x, AISOptions(2, 3, num_leapfrog=2), seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training
    assert vae.decoder.training
    assert torch.equal(one.log_weights, two.log_weights)
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert not one.values.requires_grad


def test_what_an_estimate_says_of_itself():
    ppca = random_ppca(2, 4)
    both = evaluate.sandwich(ppca, 3, AISOptions(4, 3, start="guide", num_leapfrog=2), guide=exact_guide(ppca))
    assert both.lower.meaning.startswith("A lower bound of log p(x) in expectation, by 4 annealed chains of 3")
    assert both.upper.meaning.startswith("An upper bound of log p(x) in expectation")
    assert (both.lower.bias <= 0).all()
    assert (both.upper.bias >= 0).all()
    assert both.lower.num_temperatures == 3
    assert both.lower.num_particles == 4


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_inverse_temperatures_rise_from_zero_to_one(schedule):
    betas = AISOptions(num_temperatures=50, schedule=schedule).inverse_temperatures
    assert (betas[0], betas[-1], len(betas)) == (0, 1, 51)
    assert all(a < b for a, b in itertools.pairwise(betas))
    logistic = [1 / (1 + math.exp(-4 * (2 * t / 50 - 1))) for t in range(51)]
    expected = [(each - logistic[0]) / (logistic[-1] - logistic[0]) for each in logistic]
    assert betas == pytest.approx(expected if schedule == "sigmoid" else [t / 50 for t in range(51)], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, r"`num_chains` must be a whole number of at least 1, got 0"),
        ({"num_temperatures": 1.5}, r"`num_temperatures` must be a whole number"),
        ({"num_leapfrog": 0}, r"`num_leapfrog` must be a whole number"),
        ({"start": "posterior"}, r'`start` must be "prior" or "guide", got \'posterior\''),
        ({"schedule": "cubic"}, r'`schedule` must be "sigmoid" or "linear", got \'cubic\''),
        ({"acceptance": 1.0}, r"`acceptance` must be a number between 0 and 1, got 1\.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AISOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, r"`chunk_size` must be a whole number of at least 1, or None, got 0"),
        ({"reverse_from": torch.zeros(2, 2)}, r"`reverse_from` must hold one z for each of the 3 data"),
        ({"reverse_from": {"y": torch.zeros(3, 2)}}, r"`reverse_from` must hold every latent site of the model"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.ais(VAE(2, 4, hidden=(6,)), torch.zeros(3, 4), AISOptions(num_temperatures=2), **options)


def test_models_that_cannot_be_annealed_are_refused(two_sites):
    with pytest.raises(ValueError, match=r"`model` must have continuous latents, got the discrete site 'z'"):
        evaluate.ais(GaussianMixture(2, 3), torch.zeros(2, 3, dtype=torch.float64))

    class Outside(Program):
        def forward(self, x=None, *, num_data=1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("x", dist.Normal(z, torch.ones_like(x)).to_event(1), obs=x)

    two_sites.model = Outside()
    with pytest.raises(ValueError, match=r"`model` must have every site inside the plate over data, got site 'z'"):
        evaluate.ais(two_sites, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("call", [evaluate.ais, evaluate.sandwich, evaluate.log_likelihood])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"num_chains": 3}, r"now a field of AISOptions: pass (options|ais)=AISOptions\(num_chains=...\)"),
        ({"distributed": True}, r"now a field of Execution: pass execution=Execution\(distributed=...\)"),
    ],
)
def test_old_keywords_name_their_new_place(call, old, new):
    with pytest.raises(TypeError, match=new):
        call(random_ppca(2, 4), torch.zeros(3, 4, dtype=torch.float64), **old)
