"""EM: monotone ascent under the floor, the same in any chunks, to published optima."""

import math
import warnings

import pyro
import pytest
import sklearn.datasets
import sklearn.decomposition
import sklearn.mixture
import torch
from torch import nn

from pyrovae import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture, fit
from pyrovae.data import Observations, Space
from pyrovae.fit.em import Ascent, remaining_gain
from pyrovae.fit.select import TIE

# Clusters that are flatter than the floor are what these tests are about; the warning has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.fit.DegeneracyWarning")

COVARIANCES = ("full", "tied", "diag", "spherical")


def random_parameters(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def clustered(num_data=60, seed=0):
    """Three elongated clusters that overlap, one of them flat to 1e-3, in three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([[1.0, 0.3, 0.1], [0.1, 1.0, 0.3], [0.3, 0.1, 1e-3]], dtype=torch.float64)
    labels = torch.arange(num_data) % 3
    centres = 0.5 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_data, 3, generator=generator, dtype=torch.float64)
    return centres[labels] + scales[labels] * noise


@pytest.fixture(scope="module")
def iris():
    return torch.from_numpy(sklearn.datasets.load_iris().data)


MODELS = {
    **{
        f"{covariance} mixture": lambda covariance=covariance: GaussianMixture(3, 3, covariance, floor=1e-3)
        for covariance in COVARIANCES
    },
    "PPCA": lambda: PPCA(2, 3, floor=1e-3),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


# --------------------------------------------------------------------------------------------------------- inequalities


PROBLEMS = {
    **{
        covariance: lambda k, covariance=covariance, **options: GaussianMixture(k, 3, covariance, **options)
        for covariance in COVARIANCES
    },
    "PPCA": lambda k, **options: PPCA(k % 3, 3, **options),
    "PPCA of given noise": lambda k, **options: PPCA(k % 3, 3, noise_variance=3.5, **options),
    "factor analysis": lambda k, **options: FactorAnalysis(k % 3, 3, **options),
    "PPCA mixture": lambda k, **options: PPCAMixture(k, 1 + k % 2, 3, **options),
    "Bernoulli mixture": lambda k, floor, **options: BernoulliMixture(k, 3, min(floor, 0.2), **options),
}


@pytest.mark.parametrize("floor", [1e-6, 0.05, 3.0])  # never binds, binds in some directions, binds in all
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_log_likelihood_never_falls(kind, holes, weighted, floor):
    """On 204 problems in all: 3 floors, 2 sizes, with and without weights and missing values."""
    for number in (1, 4):
        if holes and kind == "PPCA mixture":
            continue
        model = PROBLEMS[kind](number, floor=floor, **({"missing": "nan"} if holes else {}))
        x = clustered(num_data=40, seed=number)
        x = (x > 0).to(x) if kind == "Bernoulli mixture" else x
        x = x.masked_fill(torch.rand(x.shape) < 0.25, math.nan) if holes else x
        weight = 3 * torch.rand(40) if weighted else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fit.FitWarning)
            result = fit.em(model, x, sample_weight=weight, seed=number, max_iterations=40)
        assert (result.trace.diff() >= -1e-9 * result.trace[1:].abs()).all()
        share = torch.ones(40) if weight is None else weight
        mean = (result.model.score_samples(x) @ share.double()) / share.double().sum()
        assert result.trace[-1].item() == pytest.approx(mean.item(), rel=1e-9)
        assert len(result.trace) > 1


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_every_covariance_is_above_the_floor(covariance):
    floor = 0.05
    gmm = fit.em(GaussianMixture(4, 3, covariance, floor), clustered(), num_restarts=3).model
    covariances = gmm.covariances.detach()
    values = (
        torch.linalg.eigvalsh(covariances)
        if covariances.shape[-1] == 3 and covariance in ("full", "tied")
        else (covariances)
    )
    assert values.min() >= floor * (1 - 1e-9)
    if covariance in ("full", "diag"):
        assert values.min() <= floor * (1 + 1e-9)  # on these data it binds


def test_ppca_reaches_its_global_maximum():
    x = clustered(num_data=200)
    best = fit.closed_form(PPCA(1, 3), x).model.score(x)
    reached = fit.em(PPCA(1, 3), x, tolerance=1e-10).model.score(x)
    assert best - 1e-8 <= reached <= best + 1e-12


@pytest.mark.parametrize("floor", [1e-3, 0.05])
def test_accelerated_em_never_falls_either_and_is_as_good(model, floor):
    x, model = clustered(), type(model)(**{**model.config, "floor": floor})
    plain, fast = (
        fit.em(model, x, accelerate=accelerate, tolerance=1e-8, max_iterations=5000) for accelerate in (False, True)
    )
    assert (fast.trace.diff() >= -1e-9 * fast.trace[1:].abs()).all()
    assert fast.trace[-1].item() == pytest.approx(fast.model.score(x), rel=1e-12)
    assert fast.trace[0] == plain.trace[0]
    if isinstance(model, PPCA):  # one optimum; mixtures may part on the way
        assert fast.trace[-1].item() == pytest.approx(plain.trace[-1].item(), abs=1e-6)


def test_accelerated_em_needs_fewer_updates_where_em_is_slow():
    """Of two nearly equal eigenvalues, EM tells the larger one slowly, at a rate of their ratio."""
    x = torch.randn(500, 4, dtype=torch.float64) * torch.tensor([1.0, 0.95, 0.2, 0.2])
    plain, fast = (
        fit.em(PPCA(1, 4), x, accelerate=accelerate, tolerance=1e-9, max_iterations=5000)
        for accelerate in (False, True)
    )
    assert 2 * len(fast.trace) < len(plain.trace)


# ----------------------------------------------------------------------------------------------------------- identities


def test_trace_runs_from_the_start_to_the_model_returned(model):
    x = clustered()
    start = model.copy()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        start.initialize(x)
    result = fit.em(model, x, seed=3)
    assert result.trace[0].item() == pytest.approx(start.score(x), rel=1e-12)
    assert result.trace[-1].item() == pytest.approx(result.model.score(x), rel=1e-12)
    assert result.restarts == (result.trace[-1].item(),)


@pytest.mark.parametrize("rows", [1, 7, 60, 1000])
def test_statistics_are_sums_over_any_chunks(model, rows):
    x = clustered()
    random_parameters(model)
    whole = model.expected_statistics(x)
    chunks = [model.expected_statistics(chunk) for chunk in x.split(rows)]
    chunked = {name: sum(chunk[name] for chunk in chunks) for name in chunks[0]}
    assert whole.keys() == chunked.keys()
    for name, value in whole.items():
        torch.testing.assert_close(chunked[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_chunks_do_not_change_the_fit(model, chunk_size):
    x = clustered(num_data=30)
    options = {"tolerance": 1e-2, "accelerate": False}
    whole, chunked = (fit.em(model, x, chunk_size=size, **options) for size in (None, chunk_size))
    torch.testing.assert_close(chunked.trace, whole.trace, rtol=1e-9, atol=0)


def test_a_shift_of_the_data_shifts_the_means_alone(model):
    """Second moments are taken about current means: sums of squares at 2²⁰ would round at 2⁻¹³, and lose the floor."""
    x, shift = clustered(), 2.0**20
    near = random_parameters(model)
    far = near.copy()
    with torch.no_grad():
        for name, parameter in far.model.named_parameters():
            if name.startswith("mean"):
                parameter.add_(shift)
    near.maximize(near.expected_statistics(x))
    far.maximize(far.expected_statistics(x + shift))
    # x + shift rounds at 2⁻³³; over the smallest scale, √floor, and times deviations of a few scales that is below 1e-6
    torch.testing.assert_close(far.log_prob(x + shift), near.log_prob(x), rtol=0, atol=1e-6)


def test_remaining_gain_of_a_geometric_series():
    """Gains gᵗ with ratio a leave g a/(1 − a)."""
    trace = [-(0.9**t) for t in range(10)]
    assert remaining_gain(trace) == pytest.approx(0.9**9, rel=1e-9)
    assert remaining_gain(trace[:2]) == math.inf
    assert remaining_gain([0.0, 1.0, 2.0]) == math.inf  # no end in sight
    assert remaining_gain([0.0, 1.0, 1.0]) == 0.0


def test_converged_fits_are_within_the_tolerance_of_their_limit(iris):
    model = GaussianMixture(3, 4, floor=1e-3)
    result = fit.em(model, iris, tolerance=1e-4)
    limit = fit.em(result.model, iris, tolerance=1e-12, warm_start=True, max_iterations=3000)
    assert result.converged
    assert limit.trace[-1] - result.trace[-1] < 2e-4  # Aitken's estimate is asymptotic: it is trusted within a factor 2


# ------------------------------------------------------------------------------------------------------------ witnesses


@pytest.mark.parametrize(("num_components", "total"), [(2, -214.355), (3, -180.185)])  # mclust, model VVV
def test_iris_reaches_the_published_log_likelihood(iris, num_components, total):
    result = fit.em(GaussianMixture(num_components, 4, floor=1e-3), iris, num_restarts=20)
    assert 150 * result.model.score(iris) == pytest.approx(total, abs=0.01)


def test_iris_tied_reaches_the_published_log_likelihood(iris):
    result = fit.em(GaussianMixture(3, 4, "tied", floor=1e-3), iris, num_restarts=20)
    assert 150 * result.model.score(iris) == pytest.approx(-256.355, abs=0.01)  # tidyLPA's tests


def test_a_singular_optimum_is_no_triumph(iris):
    """29 flowers share one petal width, and only the floor bounds a component on them: +80 nats, and not kept."""
    result = fit.em(GaussianMixture(3, 4, floor=1e-6), iris, num_restarts=40)
    assert 150 * max(result.restarts) > -180.185 + 60
    assert 150 * result.model.score(iris) < -180.185 + 20
    assert not result.degeneracies


def test_a_singular_optimum_is_reported_where_there_is_no_other():
    x = torch.cat([torch.randn(50, 2, dtype=torch.float64), torch.full((10, 2), 9.0, dtype=torch.float64)])
    message = "degenerate fit.*component . is at the floor, 1e-06, in a direction in which the data vary; raise"
    with pytest.warns(fit.DegeneracyWarning, match=message):
        result = fit.em(GaussianMixture(2, 2, floor=1e-6), x)
    assert len(result.degeneracies) == 1


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_step_is_scikit_learns(iris, covariance):
    """From the same start, with no floor to bind; scikit-learn adds 1e-6 to the diagonal, which is set to 0 here."""
    gmm = GaussianMixture(3, 4, covariance, floor=1e-9)
    gmm.initialize(iris)
    peer = sklearn.mixture.GaussianMixture(3, covariance_type=covariance, reg_covar=0, max_iter=1, tol=0)
    responsibilities = gmm.posterior(iris).probs.detach().numpy()
    peer._initialize(iris.numpy(), responsibilities)  # its M step
    gmm.maximize(gmm.expected_statistics(iris))
    for ours, theirs in ((gmm.weights, "weights_"), (gmm.means, "means_"), (gmm.covariances, "covariances_")):
        torch.testing.assert_close(ours.detach(), torch.from_numpy(getattr(peer, theirs)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_factor_analysis_is_no_worse_than_scikit_learns(iris, latent_dim):
    """Its estimator stops by the change of its log-likelihood, 1e-10 here."""
    x = torch.cat([iris, iris.square() / 5, iris.roll(1, 1) * iris / 5], 1) + 0.1 * torch.randn(150, 12).double()
    peer = sklearn.decomposition.FactorAnalysis(latent_dim, tol=1e-10, max_iter=20_000, svd_method="lapack")
    best = peer.fit(x.numpy()).score(x.numpy())
    result = fit.em(FactorAnalysis(latent_dim, 12), x, tolerance=1e-7, accelerate=True, num_restarts=3)
    assert result.trace[-1].item() >= best - 1e-6
    exact = FactorAnalysis(latent_dim, 12, floor=1e-9)
    with torch.no_grad():
        exact.weight.copy_(torch.from_numpy(peer.components_.T))
        exact.mean.copy_(torch.from_numpy(peer.mean_))
        exact.model.noise_factor.copy_(torch.from_numpy(peer.noise_variance_ - 1e-9).sqrt())
    assert exact.score(x) == pytest.approx(best, rel=1e-9)


def test_a_mixture_of_one_ppca_is_ppca():
    x = clustered(num_data=100)
    best = fit.closed_form(PPCA(2, 3, floor=1e-6), x).model
    mixture = fit.em(PPCAMixture(1, 2, 3, floor=1e-6), x, tolerance=1e-10, accelerate=True).model
    assert mixture.score(x) == pytest.approx(best.score(x), abs=1e-7)
    covariances = [
        (w @ w.T + noise * torch.eye(3, dtype=w.dtype)).detach()
        for w, noise in (
            (mixture.model.weight[0], mixture.model.noise_variance()[0]),
            (best.weight, best.noise_variance),
        )
    ]
    torch.testing.assert_close(*covariances, rtol=1e-3, atol=1e-4)
    start, single = PPCAMixture(1, 2, 3, floor=1e-6), PPCA(2, 3, floor=1e-6)
    nn.init.normal_(single.weight)
    with torch.no_grad():
        start.model.weight.copy_(single.weight)
    options = {"warm_start": True, "tolerance": 1e-4, "accelerate": False}
    torch.testing.assert_close(fit.em(start, x, **options).trace, fit.em(single, x, **options).trace)


def test_a_bernoulli_mixture_of_one_is_the_frequencies():
    x = (clustered(num_data=50) > 0).double()
    x[:, 2] = 0
    model = fit.em(BernoulliMixture(1, 3, floor=0.01), x).model
    expected = x.mean(0).clamp(0.01, 0.99)
    torch.testing.assert_close(model.probs[0].detach(), expected, rtol=1e-12, atol=1e-12)


def test_a_bernoulli_mixture_finds_the_classes_that_made_the_data():
    """Two classes of 20 answers each, right with probability 0.9: told apart with an error of about 1e-5."""
    classes = torch.arange(200) % 2
    x = torch.bernoulli(torch.where(classes[:, None] == (torch.arange(20) % 2), 0.9, 0.1)).double()
    found = fit.em(BernoulliMixture(2, 20), x, num_restarts=3).model.predict(x)
    assert torch.equal(found, classes) or torch.equal(found, 1 - classes)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (lambda: PPCA(1, 3, floor=1e-6), "the noise is at the floor, 1e-06"),
        (lambda: FactorAnalysis(1, 3, floor=1e-6), "the noise of dimension [012] is at the floor, 1e-06"),
        (lambda: PPCAMixture(2, 1, 3, floor=1e-6), "the noise of component [01] is at the floor, 1e-06"),
        (lambda: BernoulliMixture(2, 3), "component [01] has the mass of 1 data"),
    ],
)
def test_every_model_reports_a_likelihood_that_comes_from_its_floor(model, line):
    x = torch.outer(torch.linspace(-1, 1, 40, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    if "mass" in line:
        x = torch.zeros(40, 3, dtype=torch.float64)
        x[0] = 1
    with pytest.warns(fit.DegeneracyWarning, match=f"degenerate fit, whose likelihood says little: {line}"):
        fit.em(model(), x, max_iterations=5000, accelerate=True)


@pytest.mark.parametrize("kind", ["PPCA", "PPCA of given noise", "factor analysis", "PPCA mixture", "full"])
def test_a_floor_above_all_of_the_data_is_no_degeneracy(kind):
    result = fit.em(PROBLEMS[kind](1, floor=3.0), clustered(), tolerance=1e-3)
    assert not result.degeneracies


def test_a_component_without_mass_stays_as_it_is():
    model = PPCAMixture(2, 1, 3, floor=0.1)
    with torch.no_grad():
        model.means[1] = 1e3
        model.model.weight.normal_()
    before = model.component(1).state_dict()
    model.maximize(model.expected_statistics(clustered()))
    assert model.weights[1] < 1e-300
    after = model.component(1).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# --------------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize("num_dims", [50, 300])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_float32_holds_the_log_likelihood(covariance, num_dims):
    """At one set of parameters, well conditioned, the mean log p(x) and the sums of the E step to 1e-6 relative."""
    exact = GaussianMixture(3, num_dims, covariance, floor=0.5)
    for parameter in exact.model.parameters():
        nn.init.normal_(parameter, std=num_dims**-0.5 if parameter.ndim > 2 else 0.5)
    exact = exact.to(torch.float32).to(torch.float64)  # parameters that both types can hold
    x = exact.sample(300)[0].float().double()
    single = GaussianMixture(3, num_dims, covariance, floor=0.5, dtype=torch.float32)
    single.load_state_dict(exact.state_dict())
    assert single.score(x) == pytest.approx(exact.score(x), rel=1e-6)
    whole = single.expected_statistics(x.float())["log_prob"].item() / 300
    assert whole == pytest.approx(exact.score(x), rel=1e-6)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_float32_fits_end_where_float64_ones_do(covariance):
    x = (torch.randn(600, 10, dtype=torch.float64) + 4 * (torch.arange(600) % 3)[:, None]).float().double()
    start = GaussianMixture(3, 10, covariance, floor=1e-3)
    start.initialize(x)
    start = start.to(torch.float32).to(torch.float64)
    single = GaussianMixture(3, 10, covariance, floor=1e-3, dtype=torch.float32)
    single.load_state_dict(start.state_dict())
    options = {"warm_start": True, "tolerance": 1e-5}
    reached, expected = fit.em(single, x, **options).model, fit.em(start, x, **options).model
    assert reached.score(x) == pytest.approx(expected.score(x), rel=1e-6)


def test_float32_takes_missing_values_with_a_small_floor():
    """The observed blocks are factorised in float64: in float32 a floor of 1e-6 beside a scale of 100 is rounding."""
    x = 100 * torch.randn(80, 1, dtype=torch.float64) + 1e-2 * torch.randn(80, 4, dtype=torch.float64)
    x = x.masked_fill(torch.rand(80, 4) < 0.2, math.nan)
    exact = fit.em(GaussianMixture(1, 4, missing="nan"), x, tolerance=1e-3).model
    single = GaussianMixture(1, 4, missing="nan", dtype=torch.float32)
    single.load_state_dict(exact.state_dict())
    assert single.log_prob(x).isfinite().all()


# ------------------------------------------------------------------------------------------------------------- contract


def test_the_caller_keeps_model_data_and_random_state(model):
    x = clustered()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x_before, state = x.clone(), torch.get_rng_state()
    result = fit.em(model, x, num_restarts=2)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert (x == x_before).all()
    assert (torch.get_rng_state() == state).all()
    assert not pyro.get_param_store().keys()
    assert result.model is not model


def test_a_seed_gives_one_fit_and_another_seed_another(model):
    x = clustered()
    first, second, other = (fit.em(model, x, seed=seed, tolerance=1e-2) for seed in (1, 1, 2))
    assert first.trace.tolist() == second.trace.tolist()
    assert first.trace.tolist() != other.trace.tolist()
    assert first.refit(2).trace.tolist() == other.trace.tolist()


def test_the_best_restart_is_kept(iris):
    result = fit.em(GaussianMixture(3, 4, floor=1e-3), iris, num_restarts=5)
    assert len(result.restarts) == 5
    assert len(set(result.restarts)) > 1
    assert result.trace[-1].item() == pytest.approx(max(result.restarts), rel=TIE)
    assert result.kept == "best of 5 restarts"


@pytest.mark.parametrize(("factors", "first"), [((1 + 1e-15, 1, 1 - 1e-15), 0), ((1, 1 - 1e-15, 1 - 3e-9), 2)])
def test_of_restarts_apart_by_rounding_the_first_is_kept(factors, first, iris, monkeypatch):
    """Log-likelihoods here are negative, so that the smaller factor is the better one."""
    ascend, numbers = Ascent.ascend, iter(factors)

    def ascend_to(self, *arguments):
        ascend(self, *arguments)
        self.trace[-1] = -2 * next(numbers)

    monkeypatch.setattr(Ascent, "ascend", ascend_to)
    result = fit.em(GaussianMixture(2, 4, floor=1e-3), iris, num_restarts=3)
    assert result.trace[-1].item() == result.restarts[first]


def test_warm_start_begins_at_the_model_given(model):
    x = clustered()
    random_parameters(model)
    result = fit.em(model, x, warm_start=True)
    assert result.trace[0].item() == pytest.approx(model.score(x), rel=1e-12)


def test_result_says_what_it_is():
    space = Space("lengths in mm", "real")
    result = fit.em(GaussianMixture(1, 3), Observations(clustered(), space=space))
    assert (result.method, result.objective, result.converged, result.space) == ("EM", "log p(x)", True, space)
    assert result.kept == f"iteration {len(result.trace) - 1}"
    assert result.trace.dtype == torch.float64
    assert result.seconds > 0
    assert repr(result).startswith("FitResult(GaussianMixture by EM: log p(x) ")


def test_float32_models_fit_in_float32():
    result = fit.em(GaussianMixture(2, 3, floor=0.01, dtype=torch.float32), clustered(), tolerance=1e-4)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    # 2⁻²³ relative in each of a few hundred roundings
    assert (result.trace.diff() >= -1e-5 * result.trace[1:].abs()).all()


def test_a_subclass_inherits_its_em():
    class Mixture(GaussianMixture):
        pass

    assert fit.em(Mixture(2, 3, floor=0.01), clustered()).converged


def test_an_unfinished_fit_warns_and_says_how_far_it_came():
    message = r"EM did not converge within `max_iterations` = 2: the last iteration gained .* nats per datum, and"
    with pytest.warns(fit.ConvergenceWarning, match=message):
        result = fit.em(GaussianMixture(3, 3, floor=1e-3), clustered(), max_iterations=2)
    assert not result.converged
    assert len(result.trace) == 3


def test_a_finished_fit_does_not_warn(iris):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit.em(GaussianMixture(2, 4, floor=1e-3), iris).converged


class NotFinite(PPCA):
    """A model whose log-likelihood leaves the finite numbers after one update."""

    def maximize(self, statistics):
        super().maximize(statistics)
        with torch.no_grad():
            self.mean.fill_(math.inf)


def test_a_value_that_is_not_finite_stops_the_fit_and_names_the_iteration():
    with pytest.raises(fit.DivergenceError, match=r"log p\(x\) is nan after iteration 1 of restart 1; raise `floor`"):
        fit.em(NotFinite(1, 3), clustered())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iterations": 0}, r"`max_iterations` must be a whole number of at least 1, got 0"),
        ({"num_restarts": 0}, r"`num_restarts` must be a whole number of at least 1, got 0"),
        ({"tolerance": 0.0}, r"`tolerance` must be a positive number of nats per datum, got 0"),
        ({"tolerance": math.nan}, r"`tolerance` must be a positive number of nats per datum, got nan"),
        ({"chunk_size": 0}, r"`chunk_size` must be a whole number of at least 1, or None, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit.em(PPCA(1, 3), clustered(), **options)


def test_data_and_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`data` must have shape \(N, 3\), got \(60, 2\)"):
        fit.em(PPCA(1, 3), clustered()[:, :2])
    with pytest.raises(ValueError, match=r"`data` must be finite"):
        fit.em(PPCA(1, 3), torch.full((5, 3), math.nan))
    with pytest.raises(ValueError, match=r"`num_components` must be at most the number of data, 60, got 61"):
        fit.em(GaussianMixture(61, 3), clustered())
    with pytest.raises(
        TypeError, match=r"`model` must have an E and an M step to be fitted by EM, got VAE; use fit.svi"
    ):
        fit.em(VAE(1, 3, hidden=(8,)), clustered())


# ------------------------------------------------------------------------------------------------------------ defaults


@pytest.mark.parametrize(("make", "accelerated"), [(lambda: GaussianMixture(2, 3), False), (lambda: PPCA(1, 3), True)])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: x.numpy(), lambda x: [x[:30], x[30:]]])
def test_tolerance_and_acceleration_follow_the_model_and_the_data(make, accelerated, wrap):
    """Whatever the data come in; the same as if somebody had named them."""
    x = clustered()
    chosen, named = (
        fit.em(make(), wrap(x), **options) for options in ({}, {"tolerance": 1e-6, "accelerate": accelerated})
    )
    assert torch.equal(chosen.trace, named.trace)
    assert chosen.refit.arguments["tolerance"] is None


class FailsFarOut(PPCA):
    """Fails at its third E step, that of the first extrapolation, as a Cholesky factor may."""

    calls = 0

    def expected_statistics(self, x, weight=None):
        self.calls += 1
        if self.calls == 3:
            raise torch.linalg.LinAlgError("the input is not positive-definite")
        return super().expected_statistics(x, weight)


def test_where_an_extrapolation_fails_two_steps_of_em_are_kept():
    x = clustered()
    failing, plain = (fit.em(model(1, 3), x, accelerate=model is FailsFarOut) for model in (FailsFarOut, PPCA))
    assert failing.trace[1].item() == pytest.approx(plain.trace[2].item(), rel=1e-12)
    assert failing.converged
