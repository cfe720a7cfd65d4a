"""Importance weights: exact where the answer is known, the same in any blocks, and bounds in the right order."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, AISOptions, Bernoulli, Gaussian, GaussianMixture, evaluate, exact_guide, fit
from pyrovae.data import Observations
from pyrovae.engine.seeding import block_seed
from pyrovae.evaluate.likelihood import annealed, estimate, importance
from pyrovae.models.base import Program
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

D, N = 4, 10


def random_parameters(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # no certain posteriors
    return model


def detuned_ppca():
    """PPCA whose q is near its posterior and not on it: the scales are 1.2 times too large, the means a little off."""
    ppca = random_parameters(PPCA(2, D, floor=0.5, encoder=LinearGaussianEncoder(D, 2, torch.float64)))
    with torch.no_grad():
        precision = torch.eye(2) + ppca.weight.T @ ppca.weight / ppca.noise_variance
        ppca.guide.encoder.start_at(ppca.weight, ppca.mean, torch.linalg.cholesky(precision), ppca.noise_variance)
        ppca.guide.encoder.log_diagonal.add_(math.log(1.2))
        ppca.guide.encoder.loc.bias.add_(0.1)
    return ppca


EXACT = {
    **{
        f"{covariance} mixture": lambda covariance=covariance: GaussianMixture(3, D, covariance, floor=0.1)
        for covariance in ("full", "tied", "diag", "spherical")
    },
    "PPCA": lambda: PPCA(2, D, floor=0.1),
}
AMORTIZED = {
    "amortized mixture": lambda: GaussianMixture(3, D, floor=0.1, encoder=CategoricalEncoder((D,), 3).double()),
    "PPCA": lambda: PPCA(2, D, floor=0.1, encoder=LinearGaussianEncoder(D, 2, torch.float64)),
    "Gaussian VAE": lambda: VAE(2, D, Gaussian("decoder"), hidden=(8,)).double(),
    "Bernoulli VAE": lambda: VAE(2, D, Bernoulli(), hidden=(8,)).double(),
    "image VAE": lambda: VAE(2, (1, 2, 2), Gaussian(), hidden=(8,)).double(),
}


@pytest.fixture(params=EXACT)
def tractable(request):
    return random_parameters(EXACT[request.param]())


@pytest.fixture(params=AMORTIZED)
def model(request):
    return random_parameters(AMORTIZED[request.param]())


def data_for(model, num_data=N):
    x = torch.randn(num_data, *model.data_shape, dtype=torch.float64)
    return (x > 0).double() if model.support == "boolean" else x


# ----------------------------------------------------------------------------------------------------------- identities


def test_every_weight_of_the_exact_posterior_is_log_prob(tractable):
    x = data_for(tractable)
    log_weights = evaluate.log_weights(tractable, x, 50, guide=exact_guide(tractable))
    assert log_weights.shape == (50, N)
    torch.testing.assert_close(log_weights, tractable.log_prob(x).expand(50, N).detach(), rtol=0, atol=1e-10)


def test_weights_are_the_three_densities_at_the_guides_z(model):
    """By hand, with torch.distributions, at the z of the same seed."""
    x, num_particles, seed = data_for(model), 5, 3
    log_weights = evaluate.log_weights(model, x, num_particles, seed=seed)
    terms = evaluate.elbo_terms(model, x, num_particles, seed=seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(block_seed(seed))
        q = model.guide.encoder(x)
        z = q.expand((num_particles, N)).sample()
    if isinstance(model, VAE):
        p_z = torch.distributions.Normal(torch.zeros(2, dtype=x.dtype), 1.0).log_prob(z).sum(-1)
        p_x = model.decoder(z).log_prob(x)
    elif isinstance(model, PPCA):
        p_z = torch.distributions.Normal(torch.zeros(2, dtype=x.dtype), 1.0).log_prob(z).sum(-1)
        p_x = (
            torch.distributions.Normal(z @ model.weight.T + model.mean, model.noise_variance.sqrt()).log_prob(x).sum(-1)
        )
    else:
        p_z = model.weights.log()[z]
        p_x = torch.distributions.MultivariateNormal(model.means[z], model.covariances[z]).log_prob(x)
    torch.testing.assert_close(log_weights, (p_x + p_z - q.log_prob(z)).detach(), rtol=1e-10, atol=1e-10)
    drawn, weights = evaluate.draws(model, x, num_particles, seed=seed)
    assert (drawn == z).all()
    assert (weights == log_weights).all()
    torch.testing.assert_close(terms.reconstruction, p_x.mean(0).detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms.kl, (q.log_prob(z) - p_z).mean(0).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 25, 10**6])
@pytest.mark.parametrize("pairs", [1, 15, 2**16])  # blocks of 1 datum; of 3 and a last one of 1; of all
def test_the_result_does_not_depend_on_the_chunks(model, chunk_size, pairs, monkeypatch):
    monkeypatch.setattr(importance, "PAIRS", pairs)
    x = data_for(model)
    whole, chunked = (evaluate.log_weights(model, x, 5, chunk_size=size) for size in (None, chunk_size))
    # matrix products of other shapes may round the last bits differently; no draw differs
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    parts = [evaluate.log_likelihood(model, x, 30, "importance", chunk_size=size) for size in (None, chunk_size)]
    for name in ("values", "standard_error", "ess", "k_hat"):
        values = [getattr(part, name) for part in parts]
        torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-9, equal_nan=True, msg=name)


def test_blocks_of_data_have_draws_of_their_own(monkeypatch):
    """The same datum three times, in three blocks: equal draws would give equal weights, and errors that add up."""
    monkeypatch.setattr(importance, "PAIRS", 5)
    log_weights = evaluate.log_weights(random_parameters(AMORTIZED["Gaussian VAE"]()), torch.zeros(3, D), 5)
    assert len(log_weights.unique()) == 15


def test_no_more_pairs_are_decoded_at_once_than_asked():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.pairs = nn.Linear(2, D), []

        def forward(self, z):
            self.pairs.append(math.prod(z.shape[:-1]))
            return dist.Normal(self.loc(z), 1.0).to_event(1)

    for chunk_size in (1, 4, 7, 23):
        decoder = Decoder()
        vae = VAE(2, D, hidden=(8,), decoder=decoder)
        decoder.pairs.clear()
        evaluate.log_weights(vae, torch.zeros(N, D), 5, chunk_size=chunk_size)
        assert max(decoder.pairs) <= chunk_size
        assert sum(decoder.pairs[1:]) == 5 * N  # the first shows the plates of the program


def test_elbo_and_likelihood_are_read_off_the_weights(model):
    x = data_for(model)
    log_weights = evaluate.log_weights(model, x, 40, seed=2)
    terms = evaluate.elbo_terms(model, x, 40, seed=2)
    likelihood = evaluate.log_likelihood(model, x, 40, "importance", seed=2)
    torch.testing.assert_close(terms.elbo, log_weights.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms.reconstruction - terms.kl, terms.elbo, rtol=0, atol=0)
    assert (evaluate.elbo(model, x, 40, seed=2) == terms.elbo).all()
    torch.testing.assert_close(likelihood.values, log_weights.logsumexp(0) - math.log(40), rtol=1e-12, atol=1e-12)
    assert likelihood.method == "importance"
    assert likelihood.num_particles == 40


def test_the_error_of_a_mean_is_that_of_other_particles_and_of_other_data(monkeypatch):
    """Over 200 seeds on the same data: the spread of the mean is the Monte-Carlo part, its shift the bias."""
    monkeypatch.setattr(estimate, "pareto_k", lambda log_w: torch.zeros(log_w.shape[1]))  # for speed
    ppca = detuned_ppca()
    x, _ = ppca.sample(40, seed=1000)
    runs = [evaluate.log_likelihood(ppca, x, 50, "importance", seed=seed) for seed in range(200)]
    means = torch.tensor([run.mean for run in runs])
    reported = torch.tensor([run.monte_carlo_standard_error for run in runs])
    assert abs((means.std() / reported.square().mean().sqrt()).item() - 1) < 4 / math.sqrt(2 * 200)
    shift, bias = means.mean().item() - ppca.score(x), sum(run.bias.mean().item() for run in runs) / 200
    assert bias < 0
    assert abs(shift - bias) < 4 * means.std().item() / math.sqrt(200)
    one = runs[0]
    assert one.data_standard_error == pytest.approx(
        math.sqrt(one.mean_standard_error**2 - one.monte_carlo_standard_error**2)
    )
    exact = evaluate.log_likelihood(ppca, x)
    assert (exact.monte_carlo_standard_error, exact.bias.abs().max().item()) == (0, 0)
    assert exact.data_standard_error == pytest.approx(exact.mean_standard_error)
    assert exact.meaning == "log p(x), exact."
    assert one.meaning == "A lower bound of log p(x) in expectation, by 50 importance weights a datum."


def test_statistics_of_the_weights_are_their_formulas(model):
    """Mean, its standard error by the delta method sd(w)/(mean(w)√S), and ESS, from the weights themselves in numpy."""
    x = data_for(model)
    log_weights = evaluate.log_weights(model, x, 40).numpy()
    likelihood = evaluate.log_likelihood(model, x, 40, "importance")
    w = np.exp(log_weights - log_weights.max(0))
    expected = {
        "values": np.log(w.mean(0)) + log_weights.max(0),
        "standard_error": w.std(0, ddof=1) / w.mean(0) / math.sqrt(40),
        "ess": w.sum(0) ** 2 / (w**2).sum(0),
    }
    threshold = evaluate.k_hat_threshold(40)
    k_hat = evaluate.pareto_k(torch.from_numpy(log_weights)).numpy()
    z, _ = evaluate.draws(model, x, 40)
    alike = (z == z[0]).flatten(2).all(2).all(0).numpy() if z.ndim > 2 else (z == z[0]).all(0).numpy()
    k_hat[alike] = math.nan  # of a discrete z of which one value was drawn
    trusted = np.where(np.isnan(k_hat), (expected["ess"] >= 5) & ~alike, k_hat <= threshold)
    expected["standard_error"][~trusted] = math.nan
    for name, value in expected.items():
        torch.testing.assert_close(
            getattr(likelihood, name), torch.from_numpy(value), rtol=1e-9, atol=1e-12, equal_nan=True
        )
    assert likelihood.k_hat.tolist() == pytest.approx(k_hat.tolist(), rel=1e-9, nan_ok=True)
    assert likelihood.mean == pytest.approx(expected["values"].mean(), rel=1e-12)
    assert likelihood.mean_standard_error == pytest.approx(expected["values"].std(ddof=1) / math.sqrt(N), rel=1e-12)
    known = k_hat[~np.isnan(k_hat)]
    share = (known > threshold).mean() if len(known) else math.nan
    assert likelihood.k_hat_share == pytest.approx(share, nan_ok=True)


def test_exact_likelihood_has_no_noise(tractable):
    x = data_for(tractable)
    for method in ("auto", "exact"):
        likelihood = evaluate.log_likelihood(tractable, x, method=method)
        assert (likelihood.values == tractable.log_prob(x)).all()
        assert (likelihood.method, likelihood.num_particles, likelihood.k_hat_share) == ("exact", 0, 0.0)
        assert likelihood.standard_error.tolist() == [0.0] * N
        assert likelihood.ess.tolist() == [math.inf] * N
        assert likelihood.k_hat.tolist() == [-math.inf] * N
        assert not likelihood.values.requires_grad


def test_importance_with_the_exact_posterior_says_that_it_is_perfect(tractable):
    x = data_for(tractable)
    likelihood = evaluate.log_likelihood(tractable, x, 50, "importance", guide=exact_guide(tractable))
    torch.testing.assert_close(likelihood.values, tractable.log_prob(x).detach(), rtol=0, atol=1e-10)
    assert likelihood.standard_error.max() < 1e-10
    torch.testing.assert_close(likelihood.ess, torch.full((N,), 50.0, dtype=torch.float64))
    assert likelihood.k_hat.tolist() == [-math.inf] * N


def test_one_particle_has_a_value_and_no_standard_error(model):
    likelihood = evaluate.log_likelihood(model, data_for(model), 1, "importance")
    assert likelihood.values.isfinite().all()
    assert likelihood.standard_error.isnan().all()
    assert (likelihood.ess == 1).all()


# --------------------------------------------------------------------------------------------------------- inequalities


def test_weights_are_unbiased_for_the_likelihood():
    """E[w] = p(x): the mean of w/p(x) is 1, within 5 standard errors for each datum."""
    ppca = detuned_ppca()
    x = ppca.sample(N)[0]
    ratio = (evaluate.log_weights(ppca, x, 5000) - ppca.log_prob(x)).detach().exp()
    assert ((ratio.mean(0) - 1).abs() <= 5 * ratio.std(0) / math.sqrt(5000)).all()


def test_elbo_is_below_the_importance_weighted_bound_and_that_below_log_prob():
    """The first always, by Jensen's inequality; the second in expectation, at 5 standard errors over 500 replicates."""
    ppca, num_replicates = detuned_ppca(), 500
    x = ppca.sample(N)[0]
    log_weights = evaluate.log_weights(ppca, x, 10 * num_replicates).reshape(10, num_replicates, N)
    elbo, bound = log_weights.mean(0), log_weights.logsumexp(0) - math.log(10)
    assert (elbo <= bound + 1e-12).all()
    gap = (ppca.log_prob(x) - bound).mean(1).detach()
    assert gap.mean() >= -5 * gap.std() / math.sqrt(num_replicates)
    below = (ppca.log_prob(x) - elbo).mean(1).detach()
    assert below.mean() >= 5 * below.std() / math.sqrt(num_replicates)


def test_gap_of_the_elbo_is_the_kl_to_the_posterior():
    """log p(x) − ELBO = KL(q ‖ p(z|x)), known between Gaussians; within 5 standard errors for each datum."""
    ppca, num_particles = detuned_ppca(), 4000
    x = ppca.sample(N)[0]
    log_weights = evaluate.log_weights(ppca, x, num_particles)
    gap = ppca.log_prob(x) - log_weights.mean(0)
    exact = torch.distributions.kl_divergence(ppca.guide.encoder(x), ppca.posterior(x))
    assert (exact > 0).all()
    assert ((gap - exact).abs() <= 5 * log_weights.std(0) / math.sqrt(num_particles)).all()


def test_kl_term_is_the_analytic_one():
    """Within 5 standard errors for each datum, from 40 independent estimates."""
    vae = random_parameters(AMORTIZED["Gaussian VAE"]())
    x = data_for(vae)
    estimates = torch.stack([evaluate.elbo_terms(vae, x, 100, seed=seed).kl for seed in range(40)])
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2, dtype=x.dtype), 1.0), 1)
    exact = torch.distributions.kl_divergence(vae.encoder(x), prior)
    # Student's t with 39 degrees of freedom: 10 data at 6 standard errors fail once in 200,000
    assert ((estimates.mean(0) - exact).abs() <= 6 * estimates.std(0) / math.sqrt(40)).all()


def test_kl_term_of_the_exact_posterior_is_its_closed_form():
    """As above."""
    ppca = random_parameters(EXACT["PPCA"]())
    x, guide = data_for(ppca), exact_guide(ppca)
    estimates = torch.stack([evaluate.elbo_terms(ppca, x, 100, guide=guide, seed=seed).kl for seed in range(40)])
    exact = ppca.posterior_kl(x).detach()
    assert ((estimates.mean(0) - exact).abs() <= 6 * estimates.std(0) / math.sqrt(40)).all()


def test_standard_error_is_the_spread_of_the_estimates():
    """Over 400 replicates of 200 particles, whose standard deviation is known to 1/√800, 3.5 %: 5 of these."""
    ppca, num_replicates = detuned_ppca(), 400
    x = ppca.sample(1)[0]
    log_weights = evaluate.log_weights(ppca, x, 200 * num_replicates).reshape(200, num_replicates)
    values, standard_error, _, _ = estimate.summarize(log_weights)
    assert values.std() == pytest.approx(standard_error.mean().item(), rel=5 / math.sqrt(2 * num_replicates))


# ------------------------------------------------------------------------------------------------------------- contract


def test_data_may_be_observations_of_any_floating_type(model):
    x = data_for(model).float()
    expected = evaluate.log_weights(model, x, 3)
    assert (evaluate.log_weights(model, Observations(x.double()), 3) == expected).all()
    assert expected.dtype == torch.float64


def test_what_is_evaluated_stays_as_it_was(model):
    x, state = data_for(model), torch.get_rng_state()
    model.train()
    first, second, third = (evaluate.log_weights(model, x, 100, seed=seed) for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != third).any()
    assert (torch.get_rng_state() == state).all()
    assert not pyro.get_param_store().keys()
    assert all(module.training for module in model.modules())
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_runs_in_evaluation_mode():
    """Dropout would make the weights those of another model."""
    decoder = nn.Sequential(nn.Linear(2, D), nn.Dropout(0.5))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = decoder

        def forward(self, z):
            return dist.Normal(self.net(z), 1.0).to_event(1)

    vae = VAE(2, D, hidden=(8,), decoder=Decoder()).train()
    dropping = evaluate.log_weights(vae, torch.zeros(N, D), 5)
    decoder[1].p = 0.0
    assert (evaluate.log_weights(vae, torch.zeros(N, D), 5) == dropping).all()


def with_programs(model, guide):
    """A model of D numbers with other programs than its own."""
    vae = VAE(2, D, hidden=(8,))
    vae.register_buffer("like", torch.zeros(()))
    vae.model, vae.guide = model, guide
    return vae


def test_every_latent_site_is_weighed():
    """z and u, both sampled by the guide from their prior; as x does not depend on them, every weight is p(x)."""

    def latents():
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("u", dist.Normal(0.0, 2.0))

    class Model(Program):
        def forward(self, x=None, *, num_data=1):
            with pyro.plate("data", num_data if x is None else len(x), dim=-1):
                latents()
                return pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x)

    class Guide(Program):
        def forward(self, x=None, *, num_data=1):
            with pyro.plate("data", len(x), dim=-1):
                latents()

    x = torch.randn(N, D)
    log_weights = evaluate.log_weights(with_programs(Model(), Guide()), x, 5)
    torch.testing.assert_close(log_weights, torch.distributions.Normal(0, 1).log_prob(x).sum(1).expand(5, N))


def test_a_guide_that_leaves_z_unsampled_is_refused():
    gmm = GaussianMixture(2, D)
    with pytest.raises(ValueError, match=r"`guide` must sample every latent site of the model, got none for \['z'\]"):
        evaluate.log_weights(gmm, torch.zeros(3, D))


def test_a_site_outside_the_plate_is_refused():
    class Model(Program):
        def forward(self, x=None, *, num_data=1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("data", num_data if x is None else len(x), dim=-1):
                return pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), torch.ones(D)).to_event(1), obs=x)

    class Guide(Program):
        def forward(self, x=None, *, num_data=1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"`model` must have every site inside the plate over data, got site 'z'"):
        evaluate.log_weights(with_programs(Model(), Guide()), torch.zeros(3, D), 5)


@pytest.mark.parametrize("function", [evaluate.log_weights, evaluate.elbo_terms, evaluate.elbo])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 0}, r"`num_particles` must be a whole number of at least 1, got 0"),
        ({"num_particles": 2.5}, r"`num_particles` must be a whole number of at least 1, got 2\.5"),
        ({"chunk_size": 0}, r"`chunk_size` must be a whole number of at least 1, or None, got 0"),
    ],
)
def test_options_out_of_range_are_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(VAE(2, D, hidden=(8,)), torch.zeros(3, D), **options)


def test_methods_that_a_model_has_not_are_refused():
    vae, x = VAE(2, D, hidden=(8,)), torch.zeros(3, D)
    with pytest.raises(ValueError, match=r'`method` must be "auto", .*, "adaptive" or "ais", got \'guess\''):
        evaluate.log_likelihood(vae, x, method="guess")
    with pytest.raises(ValueError, match=r'`method` "exact" needs a model with log_prob, got VAE; use "importance"'):
        evaluate.log_likelihood(vae, x, method="exact")
    with pytest.raises(ValueError, match=r"`num_particles` must be a whole number of at least 1, got 0"):
        evaluate.log_likelihood(vae, x, 0)


def test_data_that_do_not_fit_are_refused():
    vae = VAE(2, D, Bernoulli(), hidden=(8,))
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, 4\), got \(3, 5\)"):
        evaluate.log_weights(vae, torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"`x` must hold only 0 and 1 for a Bernoulli likelihood"):
        evaluate.log_likelihood(vae, torch.full((3, D), 0.5))
    with pytest.raises(ValueError, match=r"`x` must be finite"):
        evaluate.elbo(vae, torch.full((3, D), math.nan))


def test_data_and_particles_of_one_seed_share_no_noise():
    """A single draw from the exact posterior by the seed that made the data is not nearer to the true z than others."""
    ppca = fit.closed_form(PPCA(2, 5), torch.randn(60, 5, dtype=torch.float64)).model
    x, z = ppca.sample(4000, seed=3)
    drawn = evaluate.draws(ppca, x, 1, guide=exact_guide(ppca), seed=3)[0].reshape(-1)
    z = z.reshape(-1)
    posterior = ppca.posterior(x).mean.reshape(-1)
    correlation = torch.corrcoef(torch.stack([drawn - posterior, z - posterior]))[0, 1].abs().item()
    assert correlation < 5 / len(z) ** 0.5  # five standard errors of a correlation of zero


@pytest.mark.parametrize("guide", [None, "exact"])
def test_annealing_is_one_of_the_methods(guide, monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 1)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 1)
    ppca, x = PPCA(2, (D,)), torch.zeros(3, D, dtype=torch.float64)
    guide = None if guide is None else exact_guide(ppca)
    found = evaluate.log_likelihood(ppca, x, method="ais", guide=guide, ais=AISOptions(4, 10), seed=1)
    start = "prior" if guide is None else "guide"
    expected = evaluate.ais(ppca, x, AISOptions(4, 10, start), guide=guide, seed=1)
    assert torch.equal(found.values, expected.values)
    assert (found.method, found.num_particles) == ("annealed", 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: fit.svi(model, torch.zeros(3, D)),
        lambda model: evaluate.log_weights(model, torch.zeros(3, D)),
        lambda model: evaluate.elbo_terms(model, torch.zeros(3, D)),
        lambda model: evaluate.log_likelihood(model, torch.zeros(3, D)),
        lambda model: evaluate.ais(model, torch.zeros(3, D)),
    ],
)
def test_a_pyro_program_by_itself_is_refused_with_what_to_do(call):
    def lines(x):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    for model, name in ((lines, "lines"), (nn.Linear(2, 2), "Linear")):
        with pytest.raises(TypeError, match=f"`model` must be a LatentVariableModel, got {name}; a VAE takes any"):
            call(model)


def test_a_likelihood_says_in_one_line_what_it_is():
    torch.manual_seed(0)
    vae, ppca = VAE(2, D, hidden=(8,)), detuned_ppca()
    bound = repr(evaluate.log_likelihood(ppca, torch.randn(20, D).double(), 50, "importance", guide=exact_guide(ppca)))
    assert re.fullmatch(
        r"log p\(x\) -\d+\.\d{3} ± \d\.\d{3} nats per datum, N = 20; ± \d\.\d{3} of it Monte Carlo; a lower bound of "
        r"log p\(x\) in expectation, by 50 importance weights a datum; k̂ over its threshold for \d+% of the data",
        bound,
    )
    few = repr(evaluate.log_likelihood(vae, torch.randn(20, D), 4))
    assert "; no Monte-Carlo error can be given, for 20 of the 20 data: there is no k̂, and fewer than 5 effec" in few
    assert few.endswith(
        "; a lower bound of log p(x) in expectation, by 4 importance weights a datum; k̂ is not available"
    )
    exact = repr(evaluate.log_likelihood(ppca, torch.randn(20, D, dtype=torch.float64)))
    assert re.fullmatch(r"log p\(x\) -\d+\.\d{3} ± \d\.\d{3} nats per datum, N = 20, exact", exact)


def test_a_guide_that_observes_the_data_is_refused():
    """With the model as its own guide every weight would be 1."""
    ppca, x = PPCA(1, (3,)), torch.randn(5, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="`guide` must not observe for log p\\(x\\), got the observed site 'x'"):
        evaluate.log_likelihood(ppca, x, 10, "importance", guide=ppca.model)
