"""What every model with an exact likelihood keeps: scipy's densities, Pyro's sums, marginals, weights, the M step."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from scipy import stats
from torch import nn

import pyrovae
from pyrovae import (
    PPCA,
    BernoulliMixture,
    FactorAnalysis,
    GaussianMixture,
    PPCAMixture,
    compare,
    exact_guide,
    fit,
)
from pyrovae.models import Program, TractableModel

D, K, L, N = 4, 3, 2, 12
GAUSSIANS = {
    "full mixture": lambda **options: GaussianMixture(K, D, "full", **options),
    "tied mixture": lambda **options: GaussianMixture(K, D, "tied", **options),
    "diag mixture": lambda **options: GaussianMixture(K, D, "diag", **options),
    "spherical mixture": lambda **options: GaussianMixture(K, D, "spherical", **options),
    "PPCA": lambda **options: PPCA(L, D, **options),
    "PPCA without latents": lambda **options: PPCA(0, D, **options),
    "PPCA of given noise": lambda **options: PPCA(L, D, noise_variance=0.7, **options),
    "factor analysis": lambda **options: FactorAnalysis(L, D, **options),
    "factor analysis without latents": lambda **options: FactorAnalysis(0, D, **options),
    "PPCA mixture": lambda **options: PPCAMixture(K, L, D, **options),
}
MODELS = {**GAUSSIANS, "Bernoulli mixture": lambda **options: BernoulliMixture(K, D, **options)}
IMPUTERS = [name for name in MODELS if name != "PPCA mixture"]
CLOSED = ["PPCA", "PPCA without latents", "PPCA of given noise"]
stock_pyro = pytest.mark.usefixtures("stock_pyro")
few_iterations = pytest.mark.filterwarnings(
    "ignore::pyrovae.fit.ConvergenceWarning", "ignore::pyrovae.fit.DegeneracyWarning"
)
every_model = pytest.mark.parametrize("name", MODELS)
every_imputer = pytest.mark.parametrize("name", IMPUTERS)


def build(name, **options):
    """The model at random parameters."""
    model = MODELS[name](**options)
    for parameter in model.model.parameters():
        nn.init.normal_(parameter)
    return model


def data_for(name, num_data=N, seed=0):
    """Data of the model's support, one cluster for each datum's number modulo K."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_data, D, generator=generator, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.5], [0.5, 0, 0, 0.3]], dtype=torch.float64
    )
    x += 3 * torch.randn(K, D, generator=generator, dtype=torch.float64)[torch.arange(num_data) % K]
    return (x > 0).to(x) if name == "Bernoulli mixture" else x


def with_holes(x, share=0.3, seed=0):
    """The data with values missing: datum 0 keeps nothing, datum 1 everything."""
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    holes[0], holes[1] = True, False
    return x.masked_fill(holes, math.nan)


@torch.no_grad()
def dense(model):
    """Weights (K,), means (K, D) and covariances (K, D, D) of the Gaussian mixture that the model is."""
    if isinstance(model, GaussianMixture):
        identity = torch.eye(D, dtype=torch.float64)
        shaped = {
            "full": lambda c: c,
            "tied": lambda c: c.expand(K, D, D),
            "diag": torch.diag_embed,
            "spherical": lambda c: c[:, None, None] * identity,
        }
        return model.weights, model.means, shaped[model.covariance](model.covariances)
    if isinstance(model, PPCAMixture):
        parts = [dense(model.component(k)) for k in range(K)]
        return model.weights, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    covariance = model.weight @ model.weight.T + model.noise_variance.expand(D).diag()
    return torch.ones(1, dtype=torch.float64), model.mean[None], covariance[None]


@torch.no_grad()
def brute_log_joint(model, x):
    """log π_k + log p(the observed entries|k), datum by datum, by scipy; (N, K)."""

    def component(k, datum):
        seen = ~datum.isnan()
        if not seen.any():
            return 0.0
        if isinstance(model, BernoulliMixture):
            return stats.bernoulli(model.probs[k, seen].numpy()).logpmf(datum[seen].numpy()).sum()
        return stats.multivariate_normal(means[k, seen], covariances[k][seen][:, seen]).logpdf(datum[seen])

    if isinstance(model, BernoulliMixture):
        weights = model.weights
    else:
        weights, means, covariances = dense(model)
    joint = [[float(component(k, datum)) for k in range(len(weights))] for datum in x]
    return weights.log() + torch.tensor(joint, dtype=torch.float64)


def conditioned(mean, covariance, datum):
    """Mean (D,) and covariance (D, D) of a Gaussian vector given its observed entries, by the textbook's formula."""
    seen, unseen = ~datum.isnan(), datum.isnan()
    gain = covariance[unseen][:, seen] @ covariance[seen][:, seen].inverse()
    full_mean, full_covariance = datum.clone(), torch.zeros(D, D, dtype=torch.float64)
    full_mean[unseen] = mean[unseen] + gain @ (datum[seen] - mean[seen])
    rest = covariance[unseen][:, unseen] - gain @ covariance[seen][:, unseen]
    full_covariance[unseen.nonzero(), unseen.nonzero().T] = rest
    return full_mean, full_covariance


def stock_elbo(model):
    return TraceEnum_ELBO(max_plate_nesting=1) if hasattr(model, "num_components") else Trace_ELBO()


# ------------------------------------------------------------------------------------------------------------ densities


@every_model
def test_log_prob_is_scipys(name):
    model, x = build(name), data_for(name)
    torch.testing.assert_close(model.log_prob(x), brute_log_joint(model, x).logsumexp(1), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model.score_samples(x), model.log_prob(x), rtol=0, atol=0)


@every_model
@stock_pyro
def test_the_pyro_program_summed_over_z_is_log_prob(name):
    """Enumerated where z is discrete; with the exact posterior as guide, one draw is the integral over z."""
    model, x = build(name), data_for(name)
    for guide in (model.guide, exact_guide(model)):
        loss = stock_elbo(model).loss(model.model, guide, x)
        assert loss == pytest.approx(-model.log_prob(x).sum().item(), rel=1e-9)


@every_model
def test_as_distribution_is_log_prob(name):
    model, x = build(name), data_for(name)
    distribution = model.as_distribution()
    assert distribution.event_shape == (D,)
    torch.testing.assert_close(distribution.log_prob(x), model.log_prob(x), rtol=1e-9, atol=1e-10)
    distribution.log_prob(x).sum().backward()
    for parameter, gradient in model.model.named_parameters():
        assert gradient.grad is not None or gradient.numel() == 0, parameter


@pytest.mark.parametrize(
    "name", ["full mixture", "diag mixture", "PPCA", "PPCA without latents", "PPCA mixture", "Bernoulli mixture"]
)
@stock_pyro
def test_as_distribution_is_a_prior_in_a_program_of_ones_own(name):
    prior, binary = build(name), name == "Bernoulli mixture"
    decoder, encoder = nn.Linear(D, 6).double(), nn.Linear(6, 2 * D).double()
    x = torch.randn(40, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior.as_distribution())
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        if not binary:  # draws of bits have no gradient, so that only the decoder descends
            pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", (dist.Bernoulli(logits=loc) if binary else dist.Normal(loc, log_scale.exp())).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    losses = []
    for _ in range(20):  # at one noise and in small steps, the loss falls whatever the start and the data
        with torch.random.fork_rng():
            torch.manual_seed(1)
            losses.append(svi.step(x))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@every_model
def test_posterior_kl_and_posterior_give_log_prob_back(name):
    """E_q log p(x|z) − KL = log p(x), for the exact q: by the sum over z, or by the moments of a Gaussian z."""
    model, x = build(name), data_for(name)
    if hasattr(model, "num_components"):
        joint, r = brute_log_joint(model, x), model.posterior(x).probs
        reconstruction = (r * (joint - model.weights.log())).sum(1)
    else:
        posterior = model.posterior(x)
        loc = posterior.mean
        covariance = posterior.covariance_matrix if model.latent_dim else loc.new_zeros(N, 0, 0)
        noise = model.noise_variance.expand(D)
        residual = (x - model.inverse_transform(loc)).square() + (model.weight @ covariance @ model.weight.T).diagonal(
            dim1=-2, dim2=-1
        )
        reconstruction = -0.5 * (residual / noise + noise.log() + math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(reconstruction - model.posterior_kl(x), model.log_prob(x), rtol=1e-9, atol=1e-9)


@every_model
def test_predict_is_the_largest_responsibility(name):
    model = build(name)
    if not hasattr(model, "num_components"):
        pytest.skip("z is not discrete")
    with torch.no_grad():
        model.model.logits.zero_()
    x, _ = model.sample(30)
    expected = brute_log_joint(model, x).softmax(1)
    torch.testing.assert_close(model.predict_proba(x), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(model.predict(x), expected.argmax(1))
    assert len(set(model.predict(x).tolist())) > 1


@every_model
def test_information_criteria_are_their_formulas(name):
    model, x = build(name), data_for(name)
    total = brute_log_joint(model, x).logsumexp(1).sum().item()
    parameters = {
        "full mixture": 2 + K * D + K * 10,
        "tied mixture": 2 + K * D + 10,
        "diag mixture": 2 + K * D + K * D,
        "spherical mixture": 2 + K * D + K,
        "PPCA": D + (D * L - 1) + 1,
        "PPCA without latents": D + 1,
        "PPCA of given noise": D + (D * L - 1),
        "factor analysis": D + 10,  # of a full Gaussian: 15 by W and Ψ is over Ledermann's bound
        "factor analysis without latents": D + D,
        "PPCA mixture": 2 + K * (D + (D * L - 1) + 1),
        "Bernoulli mixture": 2 + K * D - 1,  # Goodman's unidentified case
    }[name]
    assert model.num_free_parameters == parameters
    assert model.bic(x) == pytest.approx(-2 * total + parameters * math.log(N), rel=1e-9)
    assert model.aic(x) == pytest.approx(-2 * total + 2 * parameters, rel=1e-9)


@pytest.mark.parametrize("name", ["factor analysis", "PPCA mixture", "Bernoulli mixture"])
def test_samples_have_the_moments_of_the_model(name):
    model, number = build(name), 20_000
    x, _ = model.sample(number)
    if name == "Bernoulli mixture":
        means = model.probs.detach()
        weights, covariances = model.weights.detach(), torch.diag_embed(means * (1 - means))
    else:
        weights, means, covariances = dense(model)
    second = (weights[:, None, None] * (covariances + means[:, :, None] * means[:, None])).sum(0)
    for drawn, exact in ((x, weights @ means), (x[:, :, None] * x[:, None], second)):
        error = drawn.std(0) / math.sqrt(number)
        assert ((drawn.mean(0) - exact).abs() <= 5 * error + 1e-12).all()  # 20 checks: fails once in 80,000 seeds


# ------------------------------------------------------------------------------------------------------- missing values


@every_imputer
def test_the_likelihood_of_what_is_observed_is_scipys_marginal(name):
    model, x = build(name, missing="nan"), with_holes(data_for(name))
    torch.testing.assert_close(model.log_prob(x), brute_log_joint(model, x).logsumexp(1), rtol=1e-8, atol=1e-8)
    assert model.log_prob(x)[0].item() == pytest.approx(0.0, abs=1e-12)  # nothing observed
    model.log_prob(x).sum().backward()
    for name, parameter in model.model.named_parameters():
        assert parameter.grad.isfinite().all() if parameter.numel() else True, name


@every_imputer
def test_the_posterior_given_what_is_observed_is_brute_forces(name):
    model, x = build(name, missing="nan"), with_holes(data_for(name))
    if hasattr(model, "num_components"):
        expected = brute_log_joint(model, x).softmax(1)
        torch.testing.assert_close(model.posterior(x).probs, expected, rtol=1e-8, atol=1e-12)
        kl = (torch.special.xlogy(expected, expected) - expected * model.weights.log()).sum(1)
    else:
        posterior, gaussians = model.posterior(x), []
        if not model.latent_dim:
            assert posterior.mean.shape == (N, 0)
            assert (model.posterior_kl(x) == 0).all()
            return
        for datum in x:  # (z, x) has covariance [[I, Wᵀ], [W, C]]
            seen = ~datum.isnan()
            weight, covariance = model.weight.detach()[seen], dense(model)[2][0][seen][:, seen]
            gain = torch.linalg.solve(covariance, weight).T
            loc = gain @ (datum - model.mean.detach())[seen]
            gaussians.append((loc, torch.eye(model.latent_dim, dtype=torch.float64) - gain @ weight))
        locs, covariances = (torch.stack(parts) for parts in zip(*gaussians, strict=True))
        torch.testing.assert_close(posterior.mean, locs, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(posterior.covariance_matrix, covariances, rtol=1e-8, atol=1e-9)
        prior = torch.distributions.MultivariateNormal(torch.zeros_like(locs[0]), torch.eye(model.latent_dim).double())
        kl = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(locs, covariances), prior)
    torch.testing.assert_close(model.posterior_kl(x), kl, rtol=1e-8, atol=1e-9)
    assert model.posterior_kl(x)[0].item() == pytest.approx(0.0, abs=1e-10)


@every_imputer
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_imputation_is_brute_force_conditioning(name, share):
    model, x = build(name, missing="nan"), data_for(name)
    x = with_holes(x, share) if share else x
    mean, variance = model.impute(x)
    r = brute_log_joint(model, x).softmax(1)
    if name == "Bernoulli mixture":
        p = r @ model.probs.detach()
        expected = torch.where(x.isnan(), p, x), torch.where(x.isnan(), p * (1 - p), 0.0)
    else:
        _, means, covariances = dense(model)
        parts = [[conditioned(m, c, datum) for m, c in zip(means, covariances, strict=True)] for datum in x]
        component_mean = torch.stack([torch.stack([m for m, _ in part]) for part in parts])  # (N, K, D)
        component_variance = torch.stack([torch.stack([c.diag() for _, c in part]) for part in parts])
        first = (r[..., None] * component_mean).sum(1)
        second = (r[..., None] * (component_variance + component_mean.square())).sum(1)
        expected = first, second - first.square()
    torch.testing.assert_close(mean, expected[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(variance, expected[1], rtol=1e-8, atol=1e-8)
    assert (variance[~x.isnan()] == 0).all()
    assert torch.equal(mean[~x.isnan()], x[~x.isnan()])


@every_imputer
@few_iterations
def test_all_observed_is_as_if_nothing_could_be_missing(name):
    x, start = data_for(name, 30), build(name)
    allowed = MODELS[name](missing="nan")
    allowed.load_state_dict(start.state_dict())
    options = {"warm_start": True, "max_iterations": 10, "accelerate": False}
    plain, other = fit.em(start, x, **options), fit.em(allowed, x, **options)
    torch.testing.assert_close(other.trace, plain.trace, rtol=1e-10, atol=1e-10)
    # One datum that counts for nothing, in which nothing is observed, sends all of them the long way.
    holed = torch.cat([x, torch.full((1, D), math.nan, dtype=torch.float64)])
    weight = torch.ones(31)
    weight[-1] = 0
    assert_same_fit(fit.em(allowed, holed, sample_weight=weight, **options), plain)


@every_imputer
@few_iterations
def test_a_dimension_never_observed_does_not_break_a_fit(name):
    x = data_for(name, 40)
    x[:, 2] = math.nan
    result = fit.em(MODELS[name](missing="nan", floor=0.05), x, max_iterations=30)
    assert (result.trace.diff() >= -1e-9 * result.trace[1:].abs()).all()
    assert all(parameter.isfinite().all() for parameter in result.model.parameters())
    assert all(part.isfinite().all() for part in result.model.impute(x))
    without = fit.em(MODELS[name](missing="nan", floor=0.05), x, max_iterations=1).model
    assert without.log_prob(x).isfinite().all()


@every_imputer
def test_a_model_that_does_not_impute_refuses(name):
    model, x = build(name), with_holes(data_for(name))
    with pytest.raises(ValueError, match=r"`x` must be finite, got NaN or infinity in \d+ of 12 data, first in row 0"):
        model.log_prob(x)
    with pytest.raises(ValueError, match=r'`missing` must be "nan" for a model that imputes, got "error"'):
        model.impute(x)
    with pytest.raises(ValueError, match=r'`missing` must be "error" or "nan", got \'drop\''):
        MODELS[name](missing="drop")


# ------------------------------------------------------------------------------------------------------- sample weights


@every_model
@few_iterations
@pytest.mark.parametrize("holes", [False, True])
def test_a_weight_of_two_is_the_datum_twice_and_of_none_is_none(name, holes):
    if holes and name not in IMPUTERS:
        pytest.skip("takes no missing values")
    model, x = build(name, **({"missing": "nan"} if holes else {})), data_for(name, 40)
    x = with_holes(x) if holes else x
    weight = torch.arange(40) % 3
    options = {"warm_start": True, "max_iterations": 6, "accelerate": False}
    weighted = fit.em(model, x, sample_weight=weight, **options)
    repeated = fit.em(model, x.repeat_interleave(weight, 0), **options)
    assert_same_fit(weighted, repeated)


@few_iterations
@pytest.mark.parametrize("name", [*CLOSED, "full", "tied", "diag", "spherical"])
def test_weights_in_the_closed_form(name):
    model = MODELS[name]() if name in MODELS else GaussianMixture(1, D, name)
    for num_data in (40, 3):  # the second through the Gram matrix
        x, weight = data_for(name, num_data), torch.arange(num_data) % 3
        weighted = fit.closed_form(model, x, sample_weight=weight)
        repeated = fit.closed_form(model, x.repeat_interleave(weight, 0))
        torch.testing.assert_close(weighted.trace, repeated.trace, rtol=1e-9, atol=1e-9)
        point = data_for(name, 5, seed=1)
        torch.testing.assert_close(weighted.model.log_prob(point), repeated.model.log_prob(point), rtol=1e-7, atol=1e-9)


def assert_same_fit(result, expected, tolerance=1e-9):
    torch.testing.assert_close(result.trace, expected.trace, rtol=tolerance, atol=tolerance)
    for (key, value), other in zip(
        result.model.state_dict().items(), expected.model.state_dict().values(), strict=True
    ):
        if key.endswith("logits"):  # of a component that died, only the weight means anything: none
            value, other = value.softmax(0), other.softmax(0)
        torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance, msg=key)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(11), r"`sample_weight` must have shape \(12,\), one entry a datum, got \(11,\)"),
        (torch.ones(12, 1), r"`sample_weight` must have shape \(12,\), one entry a datum, got \(12, 1\)"),
        (torch.tensor([-1.0] + 11 * [1]), r"`sample_weight` must be finite and not negative, and not all of them zero"),
        (torch.tensor([math.nan] + 11 * [1]), r"`sample_weight` must be finite and not negative"),
        (torch.tensor([math.inf] + 11 * [1]), r"`sample_weight` must be finite and not negative"),
        (torch.zeros(12), r"`sample_weight` must be finite and not negative, and not all of them zero"),
    ],
)
@pytest.mark.parametrize("method", [fit.em, fit.closed_form])
def test_bad_weights_are_refused(method, weight, message):
    with pytest.raises(ValueError, match=message):
        method(PPCA(L, D), data_for("PPCA"), sample_weight=weight)


# ----------------------------------------------------------------------------------------------------------- the M step


def expected_complete_log_likelihood(model, old, x, weight):
    """Σ weight E[log p(what is complete; new parameters)], the expectation at the old ones; by formulas of its own."""
    if isinstance(model, BernoulliMixture):
        r = brute_log_joint(old, x).softmax(1)
        seen = (~x.isnan()).double()
        filled, probs = x.nan_to_num(0.0), model.probs
        given = filled @ probs.log().T + (seen - filled) @ (1 - probs).log().T
        return (weight[:, None] * r * (model.weights.log() + given)).sum()
    if isinstance(model, GaussianMixture):
        r, (_, means, covariances) = brute_log_joint(old, x).softmax(1), dense(old)
        shaped = {
            "full": lambda c: c,
            "tied": lambda c: c.expand(K, D, D),
            "diag": torch.diag_embed,
            "spherical": lambda c: c[:, None, None] * torch.eye(D, dtype=torch.float64),
        }
        new = shaped[model.covariance](model.covariances)
        precisions, log_dets = new.inverse(), new.logdet()
        total = 0.0
        for n, datum in enumerate(x):
            for k in range(K):
                filled, rest = conditioned(means[k], covariances[k], datum)
                scatter = torch.outer(filled - model.means[k], filled - model.means[k]) + rest
                value = model.weights[k].log() - 0.5 * ((precisions[k] @ scatter).trace() + log_dets[k])
                total = total + weight[n] * r[n, k] * value
        return total
    if isinstance(model, PPCAMixture):
        r, total = brute_log_joint(old, x).softmax(1), 0.0
        for k in range(K):
            variance = model.model.noise_variance()[k].expand(D)
            parts = (old.component(k), model.model.weight[k], model.means[k], variance)
            total = (
                total
                + factor_likelihood(*parts, x, weight * r[:, k])
                + (weight * r[:, k]).sum() * (model.weights[k].log())
            )
        return total
    return factor_likelihood(old, model.weight, model.mean, model.noise_variance.expand(D), x, weight)


def factor_likelihood(old, loading, mean, noise, x, weight):
    """Σ weight E[log Normal(observed x; loading z + mean, noise)], z from the old linear-Gaussian model's posterior."""
    total = 0.0
    for n, datum in enumerate(x):
        seen = ~datum.isnan()
        w, covariance = old.weight.detach()[seen], dense(old)[2][0][seen][:, seen]
        gain = torch.linalg.solve(covariance, w).T
        loc = gain @ (datum - old.mean.detach())[seen]
        spread = torch.eye(old.latent_dim, dtype=torch.float64) - gain @ w
        squares = (datum - mean - loading @ loc)[seen].square() + (loading @ spread @ loading.T).diagonal()[seen]
        total = total - 0.5 * weight[n] * (squares / noise[seen] + (2 * math.pi * noise[seen]).log()).sum()
    return total


@every_model
@pytest.mark.parametrize("holes", [False, True])
def test_the_m_step_is_a_stationary_point(name, holes):
    """The gradient of the expected complete-data log-likelihood vanishes at what ``maximize`` sets."""
    if holes and name not in IMPUTERS:
        pytest.skip("takes no missing values")
    options = {"missing": "nan"} if holes else {}
    model, x = build(name, floor=1e-6, **options), data_for(name, 60)
    x = build(name).sample(60)[0] if name == "Bernoulli mixture" else x
    x, weight = with_holes(x) if holes else x, torch.linspace(0.5, 2, 60, dtype=torch.float64)
    if isinstance(model, GaussianMixture):  # wide, so that every component has enough data for its covariance
        with torch.no_grad():
            model.model.covariance_factor.mul_(4)
    old = model.copy()
    model.maximize(model.expected_statistics(model.as_input(x), weight))
    value = expected_complete_log_likelihood(model, old, x, weight)
    assert value > expected_complete_log_likelihood(old, old, x, weight)
    gradients = torch.autograd.grad(value, list(model.model.parameters()), allow_unused=True)
    for (parameter, _), gradient in zip(model.model.named_parameters(), gradients, strict=True):
        if gradient.numel():
            assert gradient.abs().max() < 1e-7, parameter


# ----------------------------------------------------------------------------------------- files, copies and stock SVI


@every_model
@pytest.mark.parametrize("missing", ["error", "nan"])
def test_a_saved_model_is_the_same_to_the_last_bit(name, missing, tmp_path):
    if missing == "nan" and name not in IMPUTERS:
        pytest.skip("takes no missing values")
    model, x = build(name, **({"missing": "nan"} if missing == "nan" else {})), data_for(name)
    x = with_holes(x) if missing == "nan" else x
    again = pyrovae.load(pyrovae.save(model, tmp_path / "model.pt"))
    assert again.config == model.config
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert again.num_free_parameters == model.num_free_parameters


@every_model
def test_a_copy_is_independent(name):
    model, x = build(name), data_for(name)
    expected, copied = model.log_prob(x).detach(), model.copy()
    copied.initialize(copied.as_input(data_for(name, seed=3)))
    assert torch.equal(model.log_prob(x), expected)
    assert not torch.equal(copied.log_prob(x), expected)
    posterior = copied.posterior(x)
    assert torch.equal(exact_guide(copied).encoder(x).mean, posterior.mean) or hasattr(model, "num_components")


@pytest.mark.parametrize("name", ["factor analysis", "PPCA of given noise", "PPCA mixture", "Bernoulli mixture"])
@stock_pyro
@pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
def test_stock_svi_comes_near_to_em(name):
    """Adam on the ELBO, which with these guides is log p(x); both start at the same parameters."""
    model, x = MODELS[name](floor=0.05), data_for(name, 30)
    model.initialize(x)
    start, goal = model.score(x), fit.em(model, x, warm_start=True).trace[-1].item()
    noise = model.noise_variance.item() if name == "PPCA of given noise" else None
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.1}), stock_elbo(model))
    for _ in range(40):
        svi.step(x)
    assert start + 0.8 * (goal - start) < model.score(x)
    if noise is not None:
        assert model.noise_variance.item() == noise == pytest.approx(0.7, rel=1e-12)


# ------------------------------------------------------------------------------------------------ models of one's own


class ShiftProgram(Program):
    """z ~ Normal(m, I);  x ~ Normal(z, I), in any shape."""

    def __init__(self, shape):
        super().__init__()
        self.location = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    def forward(self, x=None, *, num_data=1):
        event = self.location.ndim
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.location, 1.0).to_event(event))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(event), obs=x)


class Shift(TractableModel):
    """What must be given, and no more."""

    def __init__(self, shape=(D,)):
        super().__init__()
        self.data_shape, self.model, self.guide = shape, ShiftProgram(shape), exact_guide(self)

    def log_prob(self, x):
        density = dist.Normal(self.model.location, math.sqrt(2)).log_prob(self.as_input(x))
        return density.flatten(1).sum(1)

    def posterior(self, x):
        mean = (self.as_input(x) + self.model.location) / 2
        return dist.Normal(mean, math.sqrt(0.5)).to_event(len(self.data_shape))

    def posterior_kl(self, x):
        squares = (self.posterior(x).mean - self.model.location).square().flatten(1).sum(1)
        return 0.5 * (squares + math.prod(self.data_shape) * (0.5 - 1 - math.log(0.5)))


class ShiftByEM(Shift):
    """And the steps of EM, as one writes them first: E[z] summed."""

    def initialize(self, x, weight=None):
        nn.init.zeros_(self.model.location)

    def expected_statistics(self, x, weight=None):
        weight = torch.ones(len(x), dtype=x.dtype) if weight is None else weight
        return {
            "log_prob": self.log_prob(x) @ weight,
            "count": weight.sum(),
            "z": torch.tensordot(weight, self.posterior(x).mean, 1),
        }

    @torch.no_grad()
    def maximize(self, statistics):
        self.model.location.copy_(statistics["z"] / statistics["count"])


def of_shape(shape, num_data=50):
    return 3 + torch.randn(num_data, *shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(D,), (2, 3), (1, 2, 2)])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: x.numpy(), lambda x: list(x.split(20))])
def test_em_fits_a_model_that_says_no_more_than_it_must(shape, wrap):
    """The maximum of Normal(m, 2 I) is the mean of the data; from 0, EM halves the distance at every step."""
    x = of_shape(shape)
    result = fit.em(ShiftByEM(shape), wrap(x), tolerance=1e-12)
    torch.testing.assert_close(result.model.model.location, x.mean(0), rtol=1e-4, atol=1e-4)
    assert (result.trace.diff() >= -1e-12).all()
    first = fit.em(ShiftByEM(shape), wrap(x), max_iterations=2, tolerance=1e3)
    torch.testing.assert_close(first.model.model.location, x.mean(0) * (1 - 0.5 ** (len(first.trace) - 1)))


def test_its_sums_hold_no_graph():
    """The parameters require gradients, and nobody has said no_grad in the E step."""
    seen = []

    class Watched(ShiftByEM):
        def maximize(self, statistics):
            seen.extend(statistics.values())
            super().maximize(statistics)

    fit.em(Watched(), of_shape((D,)), tolerance=1e-3)
    assert not any(each.requires_grad for each in seen)


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_no_one_counts_the_free_parameters_of_a_model_for_it(criterion):
    x = of_shape((D,))
    message = r"`model` must say its num_free_parameters for BIC and AIC, got ShiftByEM, which does not"
    with pytest.raises(TypeError, match=message):
        getattr(ShiftByEM(), criterion)(x)
    with pytest.raises(TypeError, match=message):
        fit.select([ShiftByEM()], lambda model: fit.em(model, x), x, criterion=criterion)

    class Counted(ShiftByEM):
        num_free_parameters = D

    model, charge = Counted(), {"bic": math.log(50), "aic": 2}[criterion]
    assert getattr(model, criterion)(x) == pytest.approx(D * charge - 2 * model.log_prob(x).sum().item())


def test_a_scoreboard_leaves_out_what_it_does_not_say():
    x = of_shape((D,))
    board = compare({"shift": fit.em(ShiftByEM(), x), "PPCA": fit.closed_form(PPCA(1, D), x)}, x)
    assert {row.name: row.num_free_parameters for row in board.rows} == {"shift": None, "PPCA": 2 * D + 1}
    row = next(row for row in board.rows if row.name == "shift")
    assert row.reconstruction - row.kl == pytest.approx(row.mean, rel=1e-9)
    assert "shift" in str(board)
    assert board.to_dataframe()["num_free_parameters"].isna().sum() == 1


def test_steps_that_are_not_written_are_asked_for():
    x = of_shape((D,))
    with pytest.raises(TypeError, match=r"`model` must have an E and an M step to be fitted by EM, got Shift; use"):
        fit.em(Shift(), x)
    with pytest.raises(TypeError, match=r"`model` must have a closed-form maximum, got Shift; fit it by fit.em or"):
        fit.closed_form(Shift(), x)
    with pytest.raises(NotImplementedError, match=r"`model` must have a method initialize\(x\).*, got Shift without"):
        fit.svi(Shift(), x)
    assert fit.svi(Shift(), x, warm_start=True, num_epochs=2).trace.isfinite().all()


class NoStart(ShiftByEM):
    initialize = TractableModel.initialize


class NoLikelihood(ShiftByEM):
    def expected_statistics(self, x, weight=None):
        return {name: each for name, each in super().expected_statistics(x, weight).items() if name != "log_prob"}


class NoShape(ShiftByEM):
    def __init__(self):
        super().__init__()
        del self.data_shape


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NoStart, r"`model` must have a method initialize\(x, weight\) .*, got NoStart without one; write it, or pass"),
        (NoLikelihood, r"`model` must give 'log_prob' among its expected_statistics, got count, z; .log_prob. is the"),
        (NoShape, r"`model` must say its data_shape to be fitted by EM, got None from NoShape"),
    ],
)
def test_what_em_misses_is_named(model, message):
    with pytest.raises(TypeError, match=message):
        fit.em(model(), of_shape((D,)))


def test_em_goes_on_from_a_model_without_a_start():
    x = of_shape((D,))
    result = fit.em(NoStart(), x, warm_start=True, tolerance=1e-12)
    torch.testing.assert_close(result.model.model.location, x.mean(0), rtol=1e-4, atol=1e-4)
