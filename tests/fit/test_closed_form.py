"""The closed forms, where each is the global maximum that its docstring says."""

import math
from itertools import pairwise

import pytest
import sklearn.decomposition
import torch
from scipy import stats
from torch import nn

from pyrovae import PPCA, VAE, GaussianMixture, data, fit

COVARIANCES = ("full", "tied", "diag", "spherical")


def correlated(num_data, num_dims):
    x = torch.randn(num_data, num_dims, dtype=torch.float64)
    return x @ torch.randn(num_dims, num_dims, dtype=torch.float64) / num_dims**0.5 + 3


def perturbed_scores(model, x, num_trials=60):
    """Scores of the model at random feasible parameters around its own, at distances from 1e-4 to 1."""
    optimum = [parameter.detach().clone() for parameter in model.model.parameters()]
    for size in torch.logspace(-4, 0, num_trials):
        with torch.no_grad():
            for parameter, value in zip(model.model.parameters(), optimum, strict=True):
                parameter.copy_(value + size * torch.randn_like(value))
        yield model.score(x)


# --------------------------------------------------------------------------------------------------------- inequalities


@pytest.mark.parametrize("floor", [1e-6, 0.5, 10.0])  # never binds, may bind, is above every eigenvalue
@pytest.mark.parametrize(("num_data", "num_dims"), [(50, 4), (6, 10), (2, 10)])
def test_nothing_near_the_closed_form_of_ppca_is_better(num_data, num_dims, floor):
    x = correlated(num_data, num_dims)
    model = fit.closed_form(PPCA(3, num_dims, floor), x).model
    best = model.score(x)
    assert all(score <= best + 1e-9 for score in perturbed_scores(model, x))


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("floor", [1e-6, 0.5])
def test_nothing_near_the_closed_form_of_a_gaussian_is_better(covariance, floor):
    x = correlated(50, 4)
    model = fit.closed_form(GaussianMixture(1, 4, covariance, floor), x).model
    best = model.score(x)
    assert all(score <= best + 1e-9 for score in perturbed_scores(model, x))


@pytest.mark.parametrize("floor", [1e-6, 1.0])
def test_em_from_any_start_ends_at_the_closed_form_of_ppca(floor):
    x = correlated(100, 5)
    best = fit.closed_form(PPCA(2, 5, floor), x).model.score(x)
    for seed in range(3):
        reached = fit.em(PPCA(2, 5, floor), x, seed=seed, tolerance=1e-9, max_iterations=5000).model.score(x)
        assert best - 1e-6 <= reached <= best + 1e-10


def test_more_latents_never_fit_worse():
    x = correlated(100, 6)
    scores = [fit.closed_form(PPCA(latent_dim, 6), x).model.score(x) for latent_dim in range(1, 6)]
    assert all(more >= fewer - 1e-12 for fewer, more in pairwise(scores))


# ------------------------------------------------------------------------------------------------------------ witnesses


def test_the_gaussian_is_the_mean_and_the_covariance_over_n():
    x = correlated(50, 4)
    model = fit.closed_form(GaussianMixture(1, 4, floor=1e-9), x).model
    torch.testing.assert_close(model.means[0].detach(), x.mean(0))
    torch.testing.assert_close(model.covariances[0].detach(), torch.cov(x.T, correction=0))


def test_ppca_with_fewer_data_than_dimensions():
    """scikit-learn's PCA divides by n − 1 and, for n < D, averages the noise over the wrong count: nats are lost."""
    x = torch.randn(30, 100, dtype=torch.float64)
    model = fit.closed_form(PPCA(5, 100), x).model
    covariance = (model.weight @ model.weight.T + model.noise_variance * torch.eye(100, dtype=x.dtype)).detach()
    dense = stats.multivariate_normal(model.mean.detach(), covariance).logpdf(x).mean()
    assert model.score(x) == pytest.approx(dense, rel=1e-10)
    assert model.score(x) > sklearn.decomposition.PCA(5).fit(x.numpy()).score(x.numpy()) + 10
    reached = fit.em(PPCA(5, 100), x, tolerance=1e-9, max_iterations=5000).model.score(x)
    assert reached == pytest.approx(model.score(x), abs=1e-6)
    assert all(score <= model.score(x) for score in list(perturbed_scores(model.copy(), x)))


def test_ppca_with_many_data_is_scikit_learns():
    """scikit-learn's covariance divides by n − 1, so that it finds the maximum on data scaled by √((n − 1)/n)."""
    num_data, num_dims = 200, 6
    x = correlated(num_data, num_dims)
    scale = ((num_data - 1) / num_data) ** 0.5
    centred = (x - x.mean(0)).numpy()
    peer = sklearn.decomposition.PCA(2).fit(centred * scale)
    model = fit.closed_form(PPCA(2, num_dims), x).model
    assert model.score(x) == pytest.approx(peer.score(centred), rel=1e-10)


@pytest.fixture(scope="module")
def mnist(data_folder):
    """The pixels of all 60,000 training digits, / 255."""
    return data.load("mnist", dequantize=False, num_valid=0, dtype=torch.float64).train


@pytest.mark.parametrize(("latent_dim", "published"), [(10, 182.15), (50, 507.91)])
def test_ppca_of_mnist(mnist, latent_dim, published):
    assert len(mnist) == 60_000
    result = fit.closed_form(PPCA(latent_dim, 784), mnist)
    assert result.trace[-1].item() == pytest.approx(published, abs=0.01)


# ------------------------------------------------------------------------------------ given noise, and the β-ELBO


@pytest.mark.parametrize("floor", [1e-6, 0.5])
@pytest.mark.parametrize(("num_data", "num_dims"), [(50, 4), (3, 10)])
def test_no_latents_leave_one_spherical_gaussian(num_data, num_dims, floor):
    x = correlated(num_data, num_dims)
    model = fit.closed_form(PPCA(0, num_dims, floor), x).model
    variance = max((x - x.mean(0)).square().mean().item(), floor)
    assert model.noise_variance.item() == pytest.approx(variance, rel=1e-12)
    gaussian = stats.multivariate_normal(x.mean(0), variance * torch.eye(num_dims, dtype=x.dtype))
    assert model.score(x) == pytest.approx(gaussian.logpdf(x).mean(), rel=1e-10)


@pytest.mark.parametrize(("num_data", "num_dims"), [(50, 5), (4, 10)])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_with_given_noise_the_directions_below_it_collapse(num_data, num_dims, beta):
    """W = U(Λ − βσ²I)₊^½, its zeros exact, and WᵀW diagonal."""
    x = correlated(num_data, num_dims)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = ((eigenvalues[1] + eigenvalues[2]) / 2 / beta).item()
    result = fit.closed_form(PPCA(4, num_dims, noise_variance=noise), x, beta=beta)
    model, weight = result.model, result.model.weight.detach()
    assert model.noise_variance.item() == pytest.approx(noise, rel=1e-12)
    assert (weight[:, 2:] == 0).all()
    expected = (eigenvalues[:4] - beta * noise).clamp_min(0).diag()
    torch.testing.assert_close(weight.T @ weight, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cov(x.T, correction=0) @ weight, weight * eigenvalues[:4], rtol=1e-9, atol=1e-9)
    if beta == 1:
        assert all(score <= model.score(x) + 1e-9 for score in perturbed_scores(model.copy(), x))


@pytest.mark.parametrize("noise", [None, 0.4])
def test_data_of_low_rank(noise):
    """12 data in a plane of 6 dimensions, then 3 data: eigenvalues of 0, of which σ² is the floor."""
    for num_data in (12, 3):
        x = torch.randn(num_data, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64) + 1
        model = fit.closed_form(PPCA(4, 6, floor=1e-3, noise_variance=noise), x).model
        assert model.noise_variance.item() == pytest.approx(noise or 1e-3, rel=1e-9)
        assert (model.weight[:, 2:] == 0).all()
        covariance = (model.weight @ model.weight.T).detach() + model.noise_variance.detach() * torch.eye(
            6, dtype=x.dtype
        )
        dense = stats.multivariate_normal(model.mean.detach(), covariance).logpdf(x).mean()
        assert model.score(x) == pytest.approx(dense, rel=1e-9)
        assert all(score <= model.score(x) + 1e-9 for score in perturbed_scores(model.copy(), x))


def beta_elbo(weight, mean, noise, x, beta):
    """E_q log p(x|z) − β KL, mean over data, at the best q: Normal(S Wᵀ(x − μ)/(βσ²), S⁻¹ = I + WᵀW/(βσ²))."""
    identity = torch.eye(weight.shape[1], dtype=x.dtype)
    covariance = torch.linalg.inv(identity + weight.T @ weight / (beta * noise))
    loc = (x - mean) @ weight @ covariance / (beta * noise)
    squares = (x - mean - loc @ weight.T).square().sum(1) + (weight @ covariance @ weight.T).trace()
    reconstruction = -0.5 * (squares / noise + x.shape[1] * (2 * torch.pi * noise).log())
    kl = 0.5 * (covariance.trace() + loc.square().sum(1) - len(identity) - covariance.logdet())
    return (reconstruction - beta * kl).mean()


def best_by_descent(x, latent_dim, beta, noise, seed):
    """The highest β-ELBO that L-BFGS finds from a random start."""
    torch.manual_seed(seed)
    weight = torch.randn(x.shape[1], latent_dim, dtype=x.dtype, requires_grad=True)
    mean, log_noise = x.mean(0).clone().requires_grad_(), torch.zeros((), dtype=x.dtype, requires_grad=True)
    parameters = [weight, mean] + ([] if noise else [log_noise])
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    variance = torch.tensor(noise, dtype=x.dtype) if noise else None

    def loss():
        optimiser.zero_grad()
        value = -beta_elbo(weight, mean, log_noise.exp() if variance is None else variance, x, beta)
        value.backward()
        return value

    optimiser.step(loss)
    return -loss().item()


@pytest.mark.parametrize(
    ("beta", "noise", "collapsed"),
    [
        (0.5, None, 0),
        (1.0, None, 0),
        (1.5, None, 1),
        (2.5, None, None),
        (6.0, None, 3),
        (0.5, 0.3, 0),
        (4.0, 0.5, 1),
        (40.0, 0.5, 3),
    ],
)
def test_the_beta_elbo_has_its_maximum_where_the_closed_form_says(beta, noise, collapsed):
    x = torch.randn(40, 6, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(40)  # of covariance 1 exactly, so that theory says which collapse
    x = x * torch.tensor([4.0, 1.6, 1.3, 1.0, 0.9, 0.8]) + 2
    model = fit.closed_form(PPCA(3, 6, noise_variance=noise), x, beta=beta).model
    weight, mean, variance = model.weight.detach(), model.mean.detach(), model.noise_variance.detach()
    value = beta_elbo(weight, mean, variance, x, beta).item()
    found = max(best_by_descent(x, 3, beta, noise, seed) for seed in range(4))
    assert found == pytest.approx(value, abs=1e-6)
    assert found <= value + 1e-9
    if collapsed is not None:
        assert (weight == 0).all(0).sum() == collapsed
    if beta == 1:
        plain = fit.closed_form(PPCA(3, 6, noise_variance=noise), x).model.weight.detach()
        torch.testing.assert_close(plain, weight, rtol=1e-12, atol=1e-12)
        assert value == pytest.approx(model.score(x), rel=1e-10)


def test_the_floor_binds_under_beta_too():
    x = torch.randn(40, 4, dtype=torch.float64) * torch.tensor([4.0, 1.6, 0.1, 0.1])
    model = fit.closed_form(PPCA(2, 4, floor=0.2), x, beta=1.5).model
    assert model.noise_variance.item() == pytest.approx(0.2, rel=1e-12)
    best = beta_elbo(model.weight.detach(), model.mean.detach(), model.noise_variance.detach(), x, 1.5)
    for noise in torch.linspace(0.2, 3, 50, dtype=x.dtype).tolist():
        other = fit.closed_form(PPCA(2, 4, noise_variance=noise), x, beta=1.5).model
        assert (
            beta_elbo(other.weight.detach(), other.mean.detach(), other.noise_variance.detach(), x, 1.5) <= best + 1e-12
        )


@pytest.mark.parametrize("beta", [0.0, -1.0, float("inf"), float("nan")])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=r"`beta` must be a positive number, got"):
        fit.closed_form(PPCA(1, 4), correlated(9, 4), beta=beta)


# ------------------------------------------------------------------------------------------------------------- contract


def test_result_says_what_it_is():
    x = correlated(50, 4)
    result = fit.closed_form(PPCA(2, 4), x)
    assert (result.method, result.objective, result.kept) == ("closed form", "log p(x)", "global maximum")
    assert result.converged
    assert result.trace.tolist() == [result.model.score(x)]
    assert result.refit(7).trace.tolist() == result.trace.tolist()


def test_the_caller_keeps_model_data_and_random_state():
    model, x = PPCA(2, 4), correlated(50, 4)
    before, x_before, state = [p.clone() for p in model.parameters()], x.clone(), torch.get_rng_state()
    fit.closed_form(model, x)
    assert all((p == q).all() for p, q in zip(model.parameters(), before, strict=True))
    assert (x == x_before).all()
    assert (torch.get_rng_state() == state).all()


def test_models_and_data_without_a_closed_form_are_refused():
    x = correlated(50, 4)
    with pytest.raises(
        TypeError, match=r"`model` must have a closed-form maximum, got VAE; fit it by fit.em or fit.svi"
    ):
        fit.closed_form(VAE(2, 4, hidden=(8,)), x)
    with pytest.raises(ValueError, match=r"`num_components` must be 1 for a closed form, got 2; fit the mixture by"):
        fit.closed_form(GaussianMixture(2, 4), x)
    with pytest.raises(ValueError, match=r"`data` must have shape \(N, 4\), got \(50, 3\)"):
        fit.closed_form(PPCA(2, 4), x[:, :3])
    x[3, 1] = float("nan")
    for model in (PPCA(2, 4, missing="nan"), GaussianMixture(1, 4, missing="nan")):
        with pytest.raises(
            ValueError, match=r"`data` must have nothing missing for a closed form, got NaN; use fit.em"
        ):
            fit.closed_form(model, x)


def test_float32_models_are_fitted_in_float64_inside():
    x = correlated(50, 4)
    single = fit.closed_form(PPCA(2, 4, dtype=torch.float32), x)
    assert {p.dtype for p in single.model.parameters() if isinstance(p, nn.Parameter)} == {torch.float32}
    assert single.trace[-1].item() == pytest.approx(fit.closed_form(PPCA(2, 4), x).trace[-1].item(), rel=1e-5)
