"""Gaps of the ELBO: closed forms where the posterior is known, the optimised q close to them, EM in two steps."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, FactorAnalysis, Gaussian, GaussianMixture, evaluate
from pyrovae.data import Observations
from pyrovae.evaluate import SearchOptions
from pyrovae.evaluate.gaps import elbo_gap as gaps
from pyrovae.evaluate.gaps.closed_form import exact_kl
from pyrovae.evaluate.likelihood.best_gaussian import GaussianPosteriors, as_gaussian
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

STANDARD_ERRORS = 4
L, D = 3, 6


def detuned(kind=PPCA, seed=0):
    """A linear VAE whose q is near its posterior and not on it."""
    torch.manual_seed(seed)
    model = kind(L, D, floor=0.3, encoder=LinearGaussianEncoder(D, L, torch.float64))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        model.match_guide()
        model.guide.encoder.log_diagonal.add_(math.log(1.3))
        model.guide.encoder.loc.bias.add_(0.2)
    return model


def posterior_precision(model):
    weight = model.weight.detach()
    return torch.eye(L, dtype=weight.dtype) + weight.T @ (weight / model.noise_variance.detach().expand(D)[:, None])


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("kind", [PPCA, FactorAnalysis])
def test_the_kl_of_a_linear_vae_is_its_closed_form(kind):
    """½(tr ΛS + dᵀΛd − L − log|ΛS|), with Λ and the posterior mean straight from W and Ψ."""
    model = detuned(kind)
    x, _ = model.sample(7)
    q, precision = model.guide.encoder(x), posterior_precision(model)
    scaled = (x - model.mean.detach()) / model.noise_variance.detach()
    mean = torch.linalg.solve(precision, (scaled @ model.weight.detach()).T).T
    covariance = q.covariance_matrix.detach()
    difference = q.mean.detach() - mean
    expected = 0.5 * (
        torch.einsum("ij,nji->n", precision, covariance)
        + torch.einsum("ni,ij,nj->n", difference, precision, difference)
        - L
        - torch.linalg.slogdet(precision @ covariance)[1]
    )
    assert (expected > 0.05).all()
    torch.testing.assert_close(evaluate.posterior_gap(model, x), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(evaluate.elbo_gap(model, x).gap, expected, rtol=0, atol=1e-8)


def test_the_elbo_of_the_gap_is_that_of_its_definition():
    """E_q[log p(x|z)] − KL(q ‖ p(z)), both in closed form: no posterior in it."""
    model = detuned()
    x, _ = model.sample(7)
    q, weight, noise = model.guide.encoder(x), model.weight.detach(), model.noise_variance.item()
    covariance = q.covariance_matrix.detach()
    residual = x - model.mean.detach() - q.mean.detach() @ weight.T
    squares = residual.square().sum(1) + torch.einsum("di,nij,dj->n", weight, covariance, weight)
    reconstruction = -0.5 * (squares / noise + D * math.log(2 * math.pi * noise))
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    kl = 0.5 * (trace + q.mean.detach().square().sum(1) - L - torch.linalg.slogdet(covariance)[1])
    torch.testing.assert_close(evaluate.elbo_gap(model, x).elbo, reconstruction - kl, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["exact", "optimized"])
@pytest.mark.parametrize("family", ["diag", "full"])
def test_the_terms_sum(family, method):
    model = detuned()
    x, _ = model.sample(4)
    found = evaluate.elbo_gap(model, x, family, method=method, num_particles=10, search=SearchOptions(max_steps=20))
    assert found.method == method
    total = found.elbo + found.amortization_gap + found.approximation_gap
    torch.testing.assert_close(total, model.log_prob(x).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.gap, found.amortization_gap + found.approximation_gap, rtol=0, atol=1e-10)


def test_a_diagonal_q_is_exact_in_the_principal_rotation_and_in_no_other():
    model = detuned()
    x, _ = model.sample(3)
    with torch.no_grad():
        u, s, _ = torch.linalg.svd(model.weight, full_matrices=False)
        model.model.weight.copy_(u * s)
        assert evaluate.elbo_gap(model, x, "diag").approximation_gap.abs().max() < 1e-12
        rotation, _ = torch.linalg.qr(torch.randn(L, L, dtype=torch.float64))
        model.model.weight.copy_(u * s @ rotation)
    found = evaluate.elbo_gap(model, x, "diag")
    precision = posterior_precision(model)
    expected = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert expected > 0.01
    torch.testing.assert_close(found.approximation_gap, expected.expand(3).clone(), rtol=0, atol=1e-12)
    assert evaluate.elbo_gap(model, x, "full").approximation_gap.abs().max() == 0


def test_the_closed_form_of_the_best_diagonal_q_is_a_minimum():
    """No diagonal q, its scales moved a little, is nearer to the posterior."""
    model = detuned()
    x, _ = model.sample(2)
    posterior = as_gaussian(model.posterior(x))
    exact = torch.distributions.MultivariateNormal(posterior.mean, scale_tril=posterior.scale_tril)
    deviations = posterior_precision(model).diagonal().rsqrt()
    for factor in (1.0, 0.95, 1.05):
        q = torch.distributions.MultivariateNormal(posterior.mean, scale_tril=(factor * deviations).diag())
        kl = torch.distributions.kl_divergence(q, exact).detach()
        smallest = evaluate.elbo_gap(model, x).approximation_gap
        torch.testing.assert_close(kl, smallest) if factor == 1 else None
        assert (kl >= smallest - 1e-12).all()


def test_an_amortized_mixture_loses_to_amortization_alone():
    """Σ_k q_k log(q_k / r_k), r the responsibilities; a categorical q has no approximation gap."""
    gmm = GaussianMixture(3, 2, floor=0.1, encoder=CategoricalEncoder((2,), 3).double())
    for parameter in gmm.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(6, 2, dtype=torch.float64)
    q, r = gmm.guide.encoder(x).probs.detach(), gmm.predict_proba(x)
    found = evaluate.elbo_gap(gmm, x)
    torch.testing.assert_close(found.gap, (q * (q / r).log()).sum(1), rtol=0, atol=1e-10)
    assert found.approximation_gap.abs().max() == 0


# ------------------------------------------------------------------------------------------------ optimised, and bounds


@pytest.mark.parametrize("family", ["diag", "full"])
def test_the_search_finds_the_best_q(family):
    model = detuned()
    x, _ = model.sample(20)
    exact = evaluate.elbo_gap(model, x, family)
    found = evaluate.elbo_gap(model, x, family, method="optimized")
    assert found.num_steps > 50
    for name in ("elbo", "best_elbo"):
        error = getattr(found, f"{name}_standard_error").square().sum().sqrt() / 20
        missed = getattr(exact, name).mean() - getattr(found, name).mean()
        assert missed.abs() < STANDARD_ERRORS * error + 1e-3, name  # the search's own tolerance
    assert (found.amortization_gap > -STANDARD_ERRORS * found.amortization_standard_error).all()
    if family == "full":  # the weights of the posterior itself have no noise
        assert found.approximation_gap.abs().max() < 1e-3
        assert found.best_elbo_standard_error.max() < 1e-3


def test_a_nonlinear_model_between_its_bounds():
    """ELBO ≤ that of the best diagonal q ≤ that of the best full one ≤ log p(x) by quadrature, with their errors."""
    torch.manual_seed(3)
    vae = VAE(2, 4, Gaussian(0.4), hidden=(8,), activation="tanh").double()
    for parameter in vae.decoder.parameters():
        nn.init.normal_(parameter, std=0.6)
    x, _ = vae.sample(4)
    truth = evaluate.quadrature(vae, x, tolerance=1e-4).values
    likelihood = evaluate.log_likelihood(vae, x, 500)
    gaps_of = {
        family: evaluate.elbo_gap(
            vae, x, family, log_prob=likelihood, num_particles=300, search=SearchOptions(max_steps=200)
        )
        for family in ("diag", "full")
    }
    diag, full = gaps_of["diag"], gaps_of["full"]
    for lower, upper, error in (
        (diag.elbo, diag.best_elbo, diag.amortization_standard_error),
        (diag.best_elbo, full.best_elbo, diag.best_elbo_standard_error + full.best_elbo_standard_error),
        (full.best_elbo, truth, full.best_elbo_standard_error),
    ):
        assert (lower <= upper + STANDARD_ERRORS * error + 1e-3).all()
    assert diag.amortization_gap.mean() > 0.1  # of an encoder never trained
    torch.testing.assert_close(full.log_prob_standard_error, likelihood.standard_error, rtol=0, atol=0, equal_nan=True)
    known = ~likelihood.standard_error.isnan()
    assert (full.approximation_standard_error >= likelihood.standard_error)[known].all()
    assert full.approximation_standard_error[~known].isnan().all()
    assert "amortization gap" in str(full)


def test_the_search_does_not_depend_on_the_chunks_and_repeats_itself():
    model = detuned()
    x, _ = model.sample(3)
    state = torch.get_rng_state()
    options = {"method": "optimized", "num_particles": 20, "search": SearchOptions(max_steps=10)}
    whole, chunked = (evaluate.elbo_gap(model, x, chunk_size=size, **options) for size in (None, 5))
    torch.testing.assert_close(chunked.best_elbo, whole.best_elbo, rtol=0, atol=1e-9)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_conditional_model_is_taken_at_its_labels():
    vae = VAE(1, 3, Gaussian(0.7), hidden=(5,), activation="tanh", num_classes=2).double()
    x = Observations(vae.sample(8, labels=1)[0], labels=torch.ones(8, dtype=torch.long))
    truth = evaluate.quadrature(vae, x).values
    found = evaluate.elbo_gap(vae, x, log_prob=truth, search=SearchOptions(max_steps=10), num_particles=400)
    assert found.log_prob_standard_error.abs().max() == 0
    elbo = evaluate.log_weights(vae, x, 400)
    error = (found.elbo_standard_error.square() + elbo.var(0) / 400).sqrt()
    assert ((found.elbo - elbo.mean(0)).abs() < STANDARD_ERRORS * error).all()
    assert (found.approximation_gap > -STANDARD_ERRORS * found.best_elbo_standard_error).all()


def test_a_likelihood_below_an_elbo_is_called_too_low():
    """By any amount that is more than chance, whatever it comes from, and only then."""
    model = detuned()
    x, _ = model.sample(10)
    exact = model.log_prob(x).detach()
    vae = VAE(L, D, Gaussian(0.5), hidden=(6,)).double()
    options = {"search": SearchOptions(max_steps=60), "num_particles": 200}
    optimum = evaluate.elbo_gap(vae, x, log_prob=exact, **options).best_elbo
    for below in (0.5, 3.0):
        found = evaluate.elbo_gap(vae, x, log_prob=optimum - below, **options)
        said = f"log p(x) as given lies {below:.3f} nats below the ELBO of the best diag q, a lower bound"
        assert found.too_low == f"{said}; take a tighter one."
        assert found.too_low in str(found)
        assert f"− approximation gap    {-below:12.4f} ± " in str(found)
    few = evaluate.log_likelihood(vae, x, 2, seed=3)  # whose own error is not known
    assert few.mean < optimum.mean() - 0.5
    assert "nats below the ELBO" in evaluate.elbo_gap(vae, x, log_prob=few, **options).too_low
    for right in (optimum, optimum + 1):
        assert evaluate.elbo_gap(vae, x, log_prob=right, **options).too_low == ""
    assert evaluate.elbo_gap(model, x).too_low == ""


def test_a_gap_is_the_same_in_every_space():
    model = detuned()
    x, _ = model.sample(5)
    found, log_abs_det = evaluate.elbo_gap(model, x), torch.arange(5.0)
    moved = found.in_reference(log_abs_det)
    for name in ("log_prob", "elbo", "best_elbo"):
        torch.testing.assert_close(getattr(moved, name), getattr(found, name) + log_abs_det, rtol=0, atol=1e-12)
    for name in ("gap", "approximation_gap", "amortization_gap"):
        torch.testing.assert_close(getattr(moved, name), getattr(found, name), rtol=0, atol=1e-12)


def test_blocks_of_data_each_have_their_search(monkeypatch):
    monkeypatch.setattr(gaps, "BLOCK", 2)
    model = detuned()
    x = model.sample(1)[0].expand(5, -1)
    found = evaluate.elbo_gap(model, x, method="optimized", num_particles=400, search=SearchOptions(max_steps=20))
    exact = evaluate.elbo_gap(model, x)
    assert found.elbo.shape == found.best_elbo.shape == (5,)
    assert ((found.elbo - exact.elbo).abs() < STANDARD_ERRORS * found.elbo_standard_error).all()
    assert len(found.elbo.unique()) == 5  # no two with the same noise


# ------------------------------------------------------------------------------------------------------------------- EM


def test_the_kl_of_responsibilities_that_underflow_is_finite():
    """A probability below the least float64 still has a logarithm."""
    logits = torch.tensor([0.0, -800.0], dtype=torch.float64)
    q, p = dist.Categorical(probs=torch.tensor([0.8, 0.2], dtype=torch.float64)), dist.Categorical(logits=logits)
    expected = 0.8 * math.log(0.8) + 0.2 * (math.log(0.2) + 800.0)
    assert exact_kl(q, p).item() == pytest.approx(expected, rel=1e-12)
    assert exact_kl(p, p).item() == 0.0
    assert exact_kl(p, q).item() == pytest.approx(-math.log(0.8), rel=1e-12)


@pytest.mark.parametrize("make", [lambda: GaussianMixture(3, 2, floor=1e-3), lambda: PPCA(1, 2), lambda: PPCA(0, 2)])
def test_em_is_two_steps(make):
    """The M step raises the bound, the next E step closes the KL; together they are the change of log p(x)."""
    before = make()
    x = torch.randn(60, 2, dtype=torch.float64) @ torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    before.initialize(x)
    for _ in range(4):
        after = before.copy()
        after.maximize(after.expected_statistics(x))
        found = evaluate.em_decomposition(before, after, x)
        change = (after.log_prob(x) - before.log_prob(x)).detach()
        torch.testing.assert_close(found.raised + found.closed, change, rtol=0, atol=1e-10)
        assert found.raised.mean() >= -1e-12
        assert (found.closed >= -1e-12).all()
        before = after
    assert "KL closed" in str(found)


def test_the_bound_of_em_is_the_expected_complete_log_likelihood():
    """Σ_k r_k (log π'_k p'(x given k) − log π_k p(x|k)), by torch's densities, is what the M step raised."""
    before = GaussianMixture(3, 2, floor=1e-3)
    x = torch.randn(40, 2, dtype=torch.float64)
    before.initialize(x)
    after = before.copy()
    after.maximize(after.expected_statistics(x))

    def log_joint(gmm):
        components = torch.distributions.MultivariateNormal(gmm.means, gmm.covariances)
        return (components.log_prob(x[:, None]) + gmm.weights.log()).detach()

    raised = (before.predict_proba(x) * (log_joint(after) - log_joint(before))).sum(1)
    torch.testing.assert_close(evaluate.em_decomposition(before, after, x).raised, raised, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "banded"}, r'`family` must be "diag" or "full", got \'banded\''),
        ({"method": "best"}, r'`method` must be "auto", "exact" or "optimized", got \'best\''),
        ({"num_particles": 1}, r"`num_particles` must be a whole number of at least 2, got 1"),
        ({}, r"`log_prob` must be given for a model without an exact one, got None"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.elbo_gap(VAE(2, 4, hidden=(6,)), torch.zeros(3, 4), **options)


def test_estimates_of_other_data_and_unknown_posteriors_are_refused():
    vae, x = VAE(2, 4, hidden=(6,)), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"`log_prob` must be of the same 3 data, got shape \(2,\)"):
        evaluate.elbo_gap(vae, x, log_prob=evaluate.log_likelihood(vae, x[:2], 10))
    with pytest.raises(TypeError, match=r"`model` must have a posterior in closed form, got VAE"):
        evaluate.posterior_gap(vae, x)
    with pytest.raises(TypeError, match=r"`model` must have a posterior in closed form, got VAE"):
        evaluate.elbo_gap(vae, x, method="exact")
    with pytest.raises(ValueError, match=r"`guide` must sample a latent, got none"):
        evaluate.posterior_gap(GaussianMixture(2, 4), x.double())
    with pytest.raises(
        TypeError, match=r"`guide` must sample z from a Gaussian of event shape \(L,\), got Independent"
    ):
        as_gaussian(torch.distributions.Independent(torch.distributions.Laplace(x, x + 1), 1))


def test_a_gaussian_is_read_from_its_diagonal_and_low_rank_forms():
    mean, factor, diagonal = torch.randn(4, 2), torch.randn(4, 2, 1), torch.rand(4, 2) + 0.5
    low_rank = torch.distributions.LowRankMultivariateNormal(mean, factor, diagonal)
    for q in (low_rank, torch.distributions.Independent(torch.distributions.Normal(mean, diagonal), 1)):
        read = as_gaussian(q)
        z = torch.randn(5, 4, 2)
        torch.testing.assert_close(read.log_prob(z), q.log_prob(z), rtol=1e-4, atol=1e-4)
    q = GaussianPosteriors(mean, torch.linalg.cholesky(low_rank.covariance_matrix)).diagonal()
    torch.testing.assert_close(q.scale_tril.diagonal(dim1=1, dim2=2).square(), low_rank.variance)


def test_a_search_out_of_range_is_refused_and_its_old_keywords_name_their_new_place():
    with pytest.raises(ValueError, match=r"`max_steps` must be a whole number of at least 1, got 0"):
        SearchOptions(max_steps=0)
    with pytest.raises(TypeError, match=r"pass search=SearchOptions\(max_steps=...\)"):
        evaluate.elbo_gap(detuned(), torch.zeros(3, D, dtype=torch.float64), max_steps=5)
