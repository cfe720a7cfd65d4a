"""Probabilistic PCA against the dense Gaussian that it is."""

import math

import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import nn

from pyrovae import PPCA, exact_guide, fit
from pyrovae.models.networks import LinearGaussianEncoder

D, L, N = 5, 2, 7


def random_parameters(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def dense_covariance(ppca):
    """WWᵀ + σ²I."""
    identity = torch.eye(ppca.num_dims, dtype=torch.float64)
    return (ppca.weight @ ppca.weight.T + ppca.noise_variance * identity).detach()


@pytest.fixture
def ppca():
    return random_parameters(PPCA(L, D, floor=0.1))


@pytest.fixture
def x():
    return 2 * torch.randn(N, D, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("noise", [0.3, 1e-8])
def test_log_prob_is_the_dense_gaussian(ppca, noise):
    ppca = random_parameters(PPCA(L, D, floor=noise))
    with torch.no_grad():
        ppca.model.noise_factor.zero_()
    x, _ = ppca.sample(N)
    dense = stats.multivariate_normal(ppca.mean.detach(), dense_covariance(ppca), allow_singular=False)
    # The condition number of the dense covariance, up to 1e9, is what limits the witness.
    rounding = max(1e-12, 1e-16 / noise)
    torch.testing.assert_close(ppca.log_prob(x), torch.from_numpy(dense.logpdf(x)), rtol=100 * rounding, atol=1e-10)


def test_posterior_is_the_conditional_of_the_joint_gaussian(ppca, x):
    """(z, x) has covariance [[I, Wᵀ], [W, C]], so z given x ~ Normal(WᵀC⁻¹(x − μ), I − WᵀC⁻¹W)."""
    weight, gain = ppca.weight.detach(), torch.linalg.solve(dense_covariance(ppca), ppca.weight.detach()).T
    posterior = ppca.posterior(x)
    torch.testing.assert_close(posterior.mean, (x - ppca.mean) @ gain.T, rtol=1e-10, atol=1e-10)
    covariance = (torch.eye(L, dtype=x.dtype) - gain @ weight).expand(N, L, L)
    torch.testing.assert_close(posterior.covariance_matrix, covariance, rtol=1e-10, atol=1e-10)


def test_posterior_kl_is_that_of_torch(ppca, x):
    prior = torch.distributions.MultivariateNormal(torch.zeros(L, dtype=x.dtype), torch.eye(L, dtype=x.dtype))
    posterior = torch.distributions.MultivariateNormal(ppca.posterior(x).mean, ppca.posterior(x).covariance_matrix)
    expected = torch.distributions.kl_divergence(posterior, prior)
    torch.testing.assert_close(ppca.posterior_kl(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("stock_pyro")
def test_pyros_elbo_with_the_exact_guide_is_log_prob_from_one_particle(ppca, x):
    loss = Trace_ELBO().loss(ppca.model, exact_guide(ppca), x)
    assert loss == pytest.approx(-ppca.log_prob(x).sum().item(), rel=1e-12)


@pytest.mark.parametrize("encoder", [None, LinearGaussianEncoder(D, L, torch.float64)], ids=["exact", "linear"])
@pytest.mark.parametrize("parameters", ["start", "closed form", "em"])
def test_the_guide_is_the_posterior_where_the_parameters_are_known(encoder, parameters):
    ppca, x = PPCA(L, D, floor=0.1, encoder=encoder), torch.randn(30, D, dtype=torch.float64) + 3
    if parameters == "start":
        ppca.initialize(x)
    else:
        ppca = (fit.closed_form if parameters == "closed form" else fit.em)(ppca, x).model
    guide, posterior = ppca.guide.encoder(x), ppca.posterior(x)
    torch.testing.assert_close(guide.mean, posterior.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(guide.covariance_matrix, posterior.covariance_matrix, rtol=1e-10, atol=1e-10)


def test_num_free_parameters_is_the_dimension_of_the_set_of_gaussians(ppca):
    """The rank of d(mean, covariance)/d(W, μ, s): rotations of W move nothing."""

    def gaussian(weight, mean, s):
        return torch.cat([mean, (weight @ weight.T + s.square() * torch.eye(D, dtype=s.dtype)).flatten()])

    parameters = (ppca.weight.detach(), ppca.mean.detach(), ppca.noise_variance.detach().sqrt())
    jacobian = torch.autograd.functional.jacobian(gaussian, parameters)
    rank = torch.linalg.matrix_rank(torch.cat([part.reshape(D + D * D, -1) for part in jacobian], dim=1))
    assert rank == ppca.num_free_parameters


# ----------------------------------------------------------------------------------------------------------- the M step


def expected_complete_log_likelihood(ppca, x, posterior):
    """E_q[log p(x, z)], by |a − Wz|² averaged over Normal(m, V): |a − Wm|² + tr WVWᵀ; the term log p(z) is constant."""
    loc, covariance = posterior.mean.detach(), posterior.covariance_matrix[0].detach()
    squares = (x - ppca.mean - loc @ ppca.weight.T).square().sum(1) + (ppca.weight @ covariance @ ppca.weight.T).trace()
    return (-0.5 * (squares / ppca.noise_variance + D * ppca.noise_variance.log())).sum().detach()


@pytest.mark.parametrize("floor", [1e-3, 5.0])  # the second binds
def test_m_step_is_not_improved_by_any_feasible_parameters(floor):
    ppca = random_parameters(PPCA(L, D, floor=floor))
    x = torch.randn(40, D, dtype=torch.float64)
    posterior = ppca.posterior(x)
    before = expected_complete_log_likelihood(ppca, x, posterior)
    ppca.maximize(ppca.expected_statistics(x))
    best = expected_complete_log_likelihood(ppca, x, posterior)
    assert best > before
    optimum = [parameter.detach().clone() for parameter in ppca.model.parameters()]
    for size in torch.logspace(-4, 0, 60):
        with torch.no_grad():
            for parameter, value in zip(ppca.model.parameters(), optimum, strict=True):
                parameter.copy_(value + size * torch.randn_like(value))
        assert expected_complete_log_likelihood(ppca, x, posterior) <= best + 1e-9


# ------------------------------------------------------------------------------------------------------------- contract


def test_samples_have_the_moments_of_the_gaussian(ppca):
    num_samples = 20_000
    x, z = ppca.sample(num_samples)
    mean, weight = ppca.mean.detach(), ppca.weight.detach()
    deviations = x - mean
    exact = {"mean": (x, mean), "latent": (z.square(), torch.ones(L, dtype=torch.float64))}
    exact["covariance"] = deviations[:, :, None] * deviations[:, None], dense_covariance(ppca)
    exact["cross-covariance"] = deviations[:, :, None] * z[:, None], weight
    for name, (drawn, expected) in exact.items():
        standard_error = drawn.std(0) / math.sqrt(num_samples)
        assert ((drawn.mean(0) - expected).abs() <= 5 * standard_error).all(), name  # 42 checks: 1 seed in 40,000 fails


def test_noise_is_never_below_the_floor(ppca):
    with torch.no_grad():
        ppca.model.noise_factor.zero_()
    assert ppca.noise_variance.item() == 0.1


def test_gradients_reach_every_parameter_of_the_model(ppca, x):
    ppca.log_prob(x).sum().backward()
    for name, parameter in ppca.model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_parameters_are_float64_unless_asked():
    assert {p.dtype for p in PPCA(L, D).parameters()} == {torch.float64}
    single = PPCA(L, D, dtype=torch.float32)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert single.log_prob(torch.zeros(4, D, dtype=torch.float64)).dtype == torch.float32


def test_start_has_the_mean_and_the_total_variance_of_the_data(ppca):
    x = torch.randn(30, D, dtype=torch.float64) + 3
    ppca.initialize(x)
    torch.testing.assert_close(ppca.mean.detach(), x.mean(0))
    assert ppca.noise_variance.item() == pytest.approx((x - x.mean(0)).square().mean().item() / 2)


def test_amortized_guide_needs_data(ppca):
    with pytest.raises(ValueError, match=r"`x` must be given to an amortized guide, got None"):
        ppca.guide()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": -1}, r"`latent_dim` must be a whole number from 0 to 4, got -1"),
        ({"latent_dim": 5}, r"`latent_dim` must be .* got 5; .*use a one-component GaussianMixture"),
        ({"latent_dim": 1.5}, r"`latent_dim` must be a whole number"),
        ({"data_shape": (5, 5)}, r"`data_shape` must be \(D,\)"),
        ({"floor": 0.0}, r"`floor` must be a positive variance"),
        ({"floor": 1e-6, "noise_variance": 1e-7}, r"`noise_variance` must be at least the floor, 1e-06, got 1e-07"),
        ({"noise_variance": math.inf}, r"`noise_variance` must be a positive number, got inf"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PPCA(**{"latent_dim": 2, "data_shape": (5,), **arguments})
