"""Floors: what is at them, and what the score becomes under a higher one, against densities by scipy and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pyrovae import PPCA, VAE, Bernoulli, FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, evaluate
from pyrovae.models import BernoulliMixture, DiscretizedLogistic, FactorAnalysis, PPCAMixture
from pyrovae.models.floors import AT_FLOOR, clipped, noise_variances, share_at_floor
from pyrovae.models.likelihoods import inverse_softplus

D, EPSILON = 3, 1e-4


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_a_datum(form="diag"):
    """Two components, one of them collapsed onto the first of four data; its three variances are ε, ε and 1."""
    x = randn(4, D)
    x[1:] += 20
    variances = torch.tensor([[EPSILON, EPSILON, 1.0], [1.0] * D], dtype=torch.float64)
    covariances = variances if form == "diag" else variances.diag_embed()
    means = torch.stack([x[0], x[1:].mean(0)])
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    return GaussianMixture.from_parameters(weights, means, covariances, form, EPSILON), x, variances


@pytest.mark.parametrize("form", ["diag", "full"])
def test_a_component_on_a_datum_is_flagged_with_its_numbers(form):
    gmm, x, variances = on_a_datum(form)
    report = evaluate.degeneracy_report(gmm, x)
    scores = []
    for lowest in (EPSILON, 10 * EPSILON):
        components = [
            multivariate_normal(mean, np.diag(np.maximum(v, lowest))).logpdf(x.numpy())
            for mean, v in zip(gmm.means.detach().numpy(), variances.numpy(), strict=True)
        ]
        scores.append(logsumexp(np.log([[0.25], [0.75]]) + components, axis=0))
    assert report.flagged
    np.testing.assert_allclose(report.at_floor, [2 / 3, 0, 0, 0], rtol=1e-12)
    assert (report.share_of_dimensions, report.share_of_data) == (pytest.approx(1 / 6), 1 / 4)
    np.testing.assert_allclose([report.score, report.raised_score], np.mean(scores, axis=1), rtol=1e-9)
    np.testing.assert_allclose(report.change, -math.log(10) / 4, rtol=1e-9)  # two dimensions of one datum of four
    change = scores[1] - scores[0]
    np.testing.assert_allclose(report.change_standard_error, change.std(ddof=1) / 2, rtol=1e-9)
    assert report.ceiling == pytest.approx(-D / 2 * math.log(2 * math.pi * EPSILON))
    assert "16.7% of the variances are at the floor, 0.0001, and 25.0% of the data have one there" in str(report)


def constant_vae(scale, raw):
    """A VAE whose decoder ignores z: μ = 0 and σ² = ε + softplus(raw)."""
    vae = VAE(2, (D,), Gaussian(scale, floor=EPSILON), hidden=(4,)).double()
    with torch.no_grad():
        head = vae.decoder.head
        for module in (head.loc, head.raw_variance):
            for parameter in module.parameters() if isinstance(module, torch.nn.Module) else ():
                parameter.zero_()
        bias = head.raw_variance.bias if isinstance(head.raw_variance, torch.nn.Module) else head.raw_variance
        bias.fill_(raw)
    return vae


@pytest.mark.parametrize("scale", ["shared", "per_dim", "decoder_scalar", "decoder"])
def test_a_decoder_at_the_floor_loses_what_the_floor_gave(scale):
    vae, x = constant_vae(scale, -60.0), randn(5, D) * 0.03
    report = evaluate.degeneracy_report(vae, x, num_particles=10)
    assert report.share_of_dimensions == report.share_of_data == 1
    change = -D / 2 * math.log(10) + 0.5 * x.square().sum(1) * (1 - 1 / 10) / EPSILON
    assert report.change == pytest.approx(change.mean().item(), rel=1e-9)
    assert report.raised_score - report.score == pytest.approx(report.change, rel=1e-9)
    at_its_best = evaluate.degeneracy_report(vae, 0 * x, num_particles=1)
    assert at_its_best.change == pytest.approx(-D / 2 * math.log(10), rel=1e-9)


@pytest.mark.parametrize(("above", "flagged"), [(0.09, True), (0.11, False)])
def test_a_tenth_above_the_floor_is_the_limit(above, flagged):
    raw = inverse_softplus(torch.tensor(above * EPSILON, dtype=torch.float64)).item()
    assert pytest.approx(1.1) == AT_FLOOR
    assert evaluate.degeneracy_report(constant_vae("shared", raw), randn(5, D), num_particles=1).flagged is flagged


def test_a_likelihood_with_its_own_variances_is_not_flagged():
    for model in (
        constant_vae("decoder", 0.0),
        PPCA(1, (D,), EPSILON),
        GaussianMixture(2, (D,), "tied", EPSILON),
        PPCAMixture(2, 1, (D,), EPSILON),
        FactorAnalysis(1, (D,), EPSILON),
    ):
        report = evaluate.degeneracy_report(model, randn(5, D), num_particles=3)
        assert not report.flagged
        assert report.change == pytest.approx(0, abs=1e-9)
        assert str(report) == "No variance is at the floor, 0.0001."


@pytest.mark.parametrize("likelihood", [LowRankGaussian(1, floor=EPSILON), FullGaussian(floor=EPSILON)])
@pytest.mark.parametrize("shape", [(D,), (1, 1, D)])
def test_correlated_noise_is_lifted_where_its_floor_binds(likelihood, shape):
    vae, z = VAE(2, shape, likelihood, hidden=(4,)).double(), randn(6, 2)
    with torch.no_grad():
        vae.decoder.head.loc.bias.copy_(randn(D))
        if isinstance(likelihood, LowRankGaussian):
            vae.decoder.head.raw_variance.bias.copy_(torch.tensor([-60.0, 0.0, 0.0]))
            vae.decoder.head.raw_variance.weight.zero_()
        else:
            vae.decoder.head.factor.bias.zero_()
            vae.decoder.head.factor.weight.mul_(1e-3)
        before, after = vae.decoder(z), vae.with_floor(10 * EPSILON).decoder(z)
        variances = noise_variances(before)
    assert share_at_floor(variances, EPSILON).max() > 0
    torch.testing.assert_close(noise_variances(after), variances.clamp_min(10 * EPSILON), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(after.mean, before.mean)
    assert after.event_shape == before.event_shape == shape
    shares = vae.share_at_floor(randn(4, *shape))
    assert shares.shape == (4,)
    assert (shares > 0).all()


def ppca_at_floor():
    ppca = PPCA(2, (5,), EPSILON)
    with torch.no_grad():
        ppca.model.weight.copy_(
            randn(5, 2) * torch.tensor([1.0, 1e-2])
        )  # one factor above the higher floor, one between
        ppca.model.noise_factor.zero_()
    return ppca


def test_of_probabilistic_pca_the_eigenvalues_are_lifted():
    ppca = ppca_at_floor()
    dense = ppca.weight @ ppca.weight.T + ppca.noise_variance * torch.eye(5, dtype=torch.float64)
    lifted = ppca.with_floor(10 * EPSILON)
    found = lifted.weight @ lifted.weight.T + lifted.noise_variance * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(found, clipped(dense, 10 * EPSILON), rtol=1e-9, atol=1e-12)
    assert (lifted.floor, ppca.floor) == (10 * EPSILON, EPSILON)
    assert ppca.share_at_floor(torch.zeros(2, 5)).tolist() == pytest.approx([3 / 5, 3 / 5])


def test_of_a_mixture_of_them_each_components():
    mixture = PPCAMixture(2, 2, (5,), EPSILON)
    with torch.no_grad():
        mixture.model.weight[0] = ppca_at_floor().weight
        mixture.model.means[1] = 100.0
        mixture.model.noise_factor[0] = 0.0
    x = torch.zeros(3, 5, dtype=torch.float64)
    x[2] = 100.0
    assert mixture.share_at_floor(x).tolist() == pytest.approx([3 / 5, 3 / 5, 0])
    lifted = mixture.with_floor(10 * EPSILON)
    for k in (0, 1):
        same = mixture.component(k).with_floor(10 * EPSILON)
        torch.testing.assert_close(lifted.component(k).log_prob(x), same.log_prob(x), rtol=1e-9, atol=1e-9)


def test_of_factor_analysis_the_noise():
    analysis = FactorAnalysis(1, (D,), EPSILON)
    with torch.no_grad():
        analysis.model.noise_factor[1] = 0.0
        analysis.model.weight.fill_(1.0)
    lifted = analysis.with_floor(10 * EPSILON)
    assert analysis.share_at_floor(torch.zeros(2, D)).tolist() == pytest.approx([1 / 3, 1 / 3])
    torch.testing.assert_close(lifted.noise_variance, analysis.noise_variance.clamp_min(10 * EPSILON))
    assert torch.equal(lifted.weight, analysis.weight)


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_a_mixture_with_a_higher_floor_is_that_of_its_lifted_covariances(form):
    gmm = GaussianMixture(2, (D,), form, EPSILON)
    with torch.no_grad():
        gmm.model.covariance_factor.mul_(0.02 * randn(*gmm.model.covariance_factor.shape, seed=2))
    before = gmm.covariances.detach().clone()
    lifted = gmm.with_floor(10 * EPSILON)
    matrices = form in ("full", "tied")
    expected = clipped(before, 10 * EPSILON) if matrices else before.clamp_min(10 * EPSILON)
    torch.testing.assert_close(lifted.covariances, expected, rtol=1e-9, atol=1e-15)
    assert torch.equal(gmm.covariances, before)
    assert lifted.config["floor"] == 10 * EPSILON


@pytest.mark.parametrize(
    "model",
    [
        VAE(1, (D,), Bernoulli(), hidden=(4,)),
        VAE(1, (D,), DiscretizedLogistic(2), hidden=(4,)),
        VAE(1, (D,), Gaussian(0.1), hidden=(4,)),
        BernoulliMixture(2, (D,)),
    ],
    ids=["Bernoulli", "logistic", "fixed", "mixture"],
)
def test_masses_and_a_given_noise_have_no_floor(model):
    assert evaluate.degeneracy_report(model, torch.zeros(2, D)) is None
    for ask in (lambda: model.share_at_floor(torch.zeros(2, D)), lambda: model.with_floor(1.0)):
        with pytest.raises(ValueError, match=r"`model` must have a covariance floor, got a \w+ without one"):
            ask()


def test_bad_factors_are_refused():
    with pytest.raises(ValueError, match=r"`factor` must be above 1, got 1"):
        evaluate.degeneracy_report(PPCA(1, (D,)), torch.zeros(2, D), factor=1)
