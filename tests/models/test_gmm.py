"""The Gaussian mixture against scipy, scikit-learn, sums over z written out, and Pyro's own enumeration."""

import math

import pytest
import sklearn.mixture
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from scipy import stats
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky
from torch import nn

from pyrovae import GaussianMixture, exact_guide
from pyrovae.models.networks import CategoricalEncoder

COVARIANCES = ("full", "tied", "diag", "spherical")
K, D, N = 3, 4, 7


def random_parameters(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def dense_covariances(gmm):
    """Σ_k as matrices, (K, D, D), from what ``covariances`` gives in scikit-learn's shapes."""
    given = gmm.covariances.detach()
    identity = torch.eye(gmm.num_dims, dtype=given.dtype)
    dense = {
        "full": lambda: given,
        "tied": lambda: given.expand(gmm.num_components, -1, -1),
        "diag": lambda: given.diag_embed(),
        "spherical": lambda: given[:, None, None] * identity,
    }
    return dense[gmm.covariance]()


def log_joint(gmm, x):
    """log π_k + log Normal(x; μ_k, Σ_k) by scipy, (N, K)."""
    components = zip(gmm.weights.detach(), gmm.means.detach(), dense_covariances(gmm), strict=True)
    columns = [w.log() + torch.as_tensor(stats.multivariate_normal(m, c).logpdf(x)) for w, m, c in components]
    return torch.stack(columns, dim=1)


def to_sklearn(gmm):
    """scikit-learn's mixture at the same parameters."""
    peer = sklearn.mixture.GaussianMixture(gmm.num_components, covariance_type=gmm.covariance)
    peer.weights_, peer.means_ = gmm.weights.detach().numpy(), gmm.means.detach().numpy()
    peer.covariances_ = gmm.covariances.detach().numpy()
    peer.precisions_cholesky_ = _compute_precision_cholesky(peer.covariances_, gmm.covariance)
    return peer


@pytest.fixture(params=COVARIANCES)
def gmm(request):
    return random_parameters(GaussianMixture(K, D, request.param, floor=0.1))


@pytest.fixture
def x():
    return 2 * torch.randn(N, D, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- identities


def test_log_prob_is_the_sum_over_z_of_scipys_joint(gmm, x):
    torch.testing.assert_close(gmm.log_prob(x), log_joint(gmm, x).logsumexp(1), rtol=1e-12, atol=1e-10)


def test_posterior_is_bayes_rule(gmm, x):
    joint = log_joint(gmm, x)
    expected = (joint - joint.logsumexp(1, keepdim=True)).exp()
    torch.testing.assert_close(gmm.posterior(x).probs, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gmm.posterior(x).probs.sum(1), torch.ones(N, dtype=x.dtype), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("stock_pyro")
def test_pyro_program_has_the_joint_density(gmm, x):
    def conditioned(k):
        return poutine.trace(poutine.condition(gmm.model, {"z": torch.full((N,), k)})).get_trace(x)

    traces = [conditioned(k) for k in range(K)]
    for trace in traces:
        trace.compute_log_prob()
    joint = torch.stack([trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"] for trace in traces], dim=1)
    torch.testing.assert_close(joint, log_joint(gmm, x), rtol=1e-12, atol=1e-10)


@pytest.mark.usefixtures("stock_pyro")
@pytest.mark.parametrize("guide", ["marginal", "exact"])
def test_enumeration_in_pyro_gives_log_prob(gmm, x, guide):
    guide = gmm.guide if guide == "marginal" else exact_guide(gmm)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(gmm.model, guide, x)
    assert loss == pytest.approx(-gmm.log_prob(x).sum().item(), rel=1e-12)


@pytest.mark.usefixtures("stock_pyro")
def test_enumeration_with_an_amortized_guide_gives_the_elbo(x):
    gmm = GaussianMixture(K, D, encoder=CategoricalEncoder((D,), K, dtype=torch.float64), floor=0.1)
    random_parameters(gmm)
    q = gmm.guide.encoder(x).probs
    expected = (q * (log_joint(gmm, x) - q.log())).sum()
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(gmm.model, gmm.guide, x)
    assert loss == pytest.approx(-expected.item(), rel=1e-12)
    assert -loss < gmm.log_prob(x).sum()


def test_posterior_kl_is_its_sum(gmm, x):
    r = gmm.posterior(x).probs
    expected = (r * (r / gmm.weights).log()).sum(1)
    torch.testing.assert_close(gmm.posterior_kl(x), expected, rtol=1e-10, atol=1e-12)


def test_posterior_kl_of_a_certain_component_is_what_its_weight_says():
    """r = (1, 0), and log r = (0, −∞) by overflow of the square: KL = −log π₀."""
    gmm = GaussianMixture(2, D)
    with torch.no_grad():
        gmm.means[1] = 1e200
        gmm.model.logits[0] = 1.0
    kl = gmm.posterior_kl(torch.zeros(1, D))
    torch.testing.assert_close(kl, -gmm.weights[:1].log(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rows", [1, 3])
def test_densities_in_chunks_are_the_same(gmm, x, rows, monkeypatch):
    def value_and_gradients():
        gmm.zero_grad()
        log_prob = gmm.log_prob(x)
        log_prob.sum().backward()
        return [log_prob, *(parameter.grad.clone() for parameter in gmm.model.parameters())]

    whole = value_and_gradients()
    monkeypatch.setattr("pyrovae.models.tractable.chunk_rows", lambda *_: rows)
    for chunked, expected in zip(value_and_gradients(), whole, strict=True):
        torch.testing.assert_close(chunked, expected, rtol=1e-10, atol=1e-12)


def test_far_data_keep_a_finite_log_prob(gmm):
    x = torch.full((2, D), 1e6, dtype=torch.float64)
    torch.testing.assert_close(gmm.log_prob(x), log_joint(gmm, x).logsumexp(1), rtol=1e-9, atol=0)


# ----------------------------------------------------------------------------------------------------------- the M step


def expected_complete_log_likelihood(gmm, x, responsibilities):
    return (responsibilities * log_joint(gmm, x)).sum()


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("floor", [1e-3, 1.0])  # the second binds
def test_m_step_is_not_improved_by_any_feasible_parameters(covariance, floor):
    gmm = random_parameters(GaussianMixture(K, D, covariance, floor=floor))
    x = torch.randn(40, D, dtype=torch.float64) * torch.tensor([2.0, 1.0, 0.5, 0.1])
    responsibilities = gmm.posterior(x).probs.detach()
    gmm.maximize(gmm.expected_statistics(x))
    best = expected_complete_log_likelihood(gmm, x, responsibilities)
    optimum = [parameter.detach().clone() for parameter in gmm.model.parameters()]
    for size in torch.logspace(-4, 0, 60):  # any A is feasible: Σ = A Aᵀ + ε I
        with torch.no_grad():
            for parameter, value in zip(gmm.model.parameters(), optimum, strict=True):
                parameter.copy_(value + size * torch.randn_like(value))
        assert expected_complete_log_likelihood(gmm, x, responsibilities) <= best + 1e-9


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_m_step_meets_the_conditions_of_the_constrained_maximum(covariance):
    """−½(log|Σ| + tr Σ⁻¹S), S the weighted scatter, is concave in P = Σ⁻¹, and P ⪯ I/ε is convex, so these suffice:

    the gradient ½(Σ − S) is positive semidefinite, and vanishes where the floor does not bind, tr (Σ − S)(I/ε − P) = 0.
    """
    floor, x = 0.5, torch.randn(60, D, dtype=torch.float64) * torch.tensor([2.0, 1.0, 0.5, 0.1])
    gmm = random_parameters(GaussianMixture(K, D, covariance, floor=floor))
    r = gmm.posterior(x).probs.detach().T[..., None]
    gmm.maximize(gmm.expected_statistics(x))
    deviations = x - gmm.means.detach()[:, None]
    scatter = (r * deviations).mT @ deviations
    scatter = scatter / r.sum(1)[..., None] if covariance == "full" else (scatter.sum(0) / len(x)).expand(K, D, D)
    identity = torch.eye(D, dtype=torch.float64)
    for sigma, s in zip(dense_covariances(gmm), scatter, strict=True):
        slack = identity / floor - sigma.inverse()
        for positive in (sigma - floor * identity, sigma - s):
            assert torch.linalg.eigvalsh(positive).min() > -1e-9
        assert ((sigma - s) @ slack).trace().abs() < 1e-9
        assert torch.linalg.eigvalsh(s).min() < floor


def test_responsibilities_and_sums_of_the_e_step(gmm, x):
    statistics, r = gmm.expected_statistics(x), gmm.posterior(x).probs.detach()
    deviations = x[:, None] - gmm.means.detach()
    second = torch.einsum("nk,nki,nkj->kij", r, deviations, deviations)
    if gmm.covariance in ("diag", "spherical"):
        second = second.diagonal(dim1=1, dim2=2)
    expected = {
        "log_prob": gmm.log_prob(x).detach().sum(),
        "count": torch.tensor(7.0),
        "mass": r.sum(0),
        "first": torch.einsum("nk,nki->ki", r, deviations),
        "second": second,
    }
    assert statistics.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(statistics[name], value.double(), rtol=1e-10, atol=1e-12, msg=name)


def test_a_component_without_data_stays_finite():
    gmm = GaussianMixture(2, D, floor=1e-2)
    with torch.no_grad():
        gmm.means[1] = 1e6
    x = torch.randn(20, D, dtype=torch.float64)
    gmm.maximize(gmm.expected_statistics(x))
    assert gmm.log_prob(x).isfinite().all()
    assert gmm.weights[1] < 1e-300


# ------------------------------------------------------------------------------------------------------------ witnesses


def test_scores_are_scikit_learns(gmm, x):
    peer, points = to_sklearn(gmm), x.numpy()
    torch.testing.assert_close(
        gmm.score_samples(x), torch.from_numpy(peer.score_samples(points)), rtol=1e-12, atol=1e-12
    )
    assert gmm.score(x) == pytest.approx(peer.score(points), rel=1e-12)
    assert gmm.bic(x) == pytest.approx(peer.bic(points), rel=1e-12)
    assert gmm.aic(x) == pytest.approx(peer.aic(points), rel=1e-12)
    torch.testing.assert_close(gmm.posterior(x).probs, torch.from_numpy(peer.predict_proba(points)))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_to_scikit_learn_and_back(covariance):
    x = 2 * torch.randn(200, D, dtype=torch.float64) + 5 * (torch.arange(200) % K)[:, None]
    fitted = sklearn.mixture.GaussianMixture(K, covariance_type=covariance, random_state=0).fit(x.numpy())
    ours = GaussianMixture.from_sklearn(fitted)
    for peer in (fitted, ours.to_sklearn()):
        expected = torch.from_numpy(peer.score_samples(x.numpy()))
        torch.testing.assert_close(ours.score_samples(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            ours.predict_proba(x), torch.from_numpy(peer.predict_proba(x.numpy())), rtol=1e-9, atol=1e-12
        )
        assert ours.predict(x).tolist() == peer.predict(x.numpy()).tolist()
        assert ours.num_free_parameters == peer._n_parameters()
        assert ours.bic(x) == pytest.approx(peer.bic(x.numpy()), rel=1e-9)
        assert peer.sample(3)[0].shape == (3, D)
    assert (ours.floor, GaussianMixture.from_sklearn(fitted, floor=1e-3).floor) == (1e-6, 1e-3)
    again = ours.to_sklearn()
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        torch.testing.assert_close(
            torch.from_numpy(getattr(again, name)), torch.from_numpy(getattr(fitted, name)), rtol=1e-9, atol=1e-9
        )


def test_covariances_given_below_the_floor_are_lifted_to_it():
    covariance = torch.diag(torch.tensor([4.0, 1e-3], dtype=torch.float64))[None]
    one, mean = torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    gmm = GaussianMixture.from_parameters(one, mean, covariance, floor=0.1)
    torch.testing.assert_close(gmm.covariances.detach()[0].diagonal(), torch.tensor([4.0, 0.1], dtype=torch.float64))


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        (torch.ones(2) / 2, torch.zeros(3, D), torch.ones(3), r"`weights` and `means` must have shapes \(K,\) and"),
        (torch.ones(2) / 2, torch.zeros(2), torch.ones(2), r"`weights` and `means` must have shapes .* got \(2,\) and"),
        (torch.ones(2), torch.zeros(2, D), torch.ones(2), r"`weights` must be positive and sum to 1, got a sum of 2"),
        (torch.tensor([1.5, -0.5]), torch.zeros(2, D), torch.ones(2), r"`weights` must be positive and sum to 1"),
        (
            torch.ones(2) / 2,
            torch.zeros(2, D),
            torch.ones(2, D),
            r"`covariances` must have shape \(2,\) for 'spherical'",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture.from_parameters(weights, means, covariances, "spherical")


def test_given_means_are_where_a_fit_starts():
    x = torch.randn(50, 2, dtype=torch.float64) + 9 * (torch.arange(50) % 2)[:, None]
    given = torch.tensor([[9.0, 9.0], [0.0, 0.0]])
    for start in (given, given.numpy(), given.tolist()):
        gmm = GaussianMixture(2, 2, start=start)
        gmm.initialize(x)
        assert torch.equal(gmm.means.detach(), given.double())
        torch.testing.assert_close(gmm.weights.detach(), torch.full((2,), 0.5, dtype=torch.float64))
        within = x - given.double()[torch.tensor([1, 0]).repeat(25)]
        torch.testing.assert_close(gmm.covariances.detach()[0], within.T @ within / 50)


def test_a_random_start_draws_data_uniformly(monkeypatch):
    """Of 100 data at one place and 3 at others, k-means++ finds the others; uniform draws see them rarely."""
    x = torch.cat([torch.zeros(100, 2), 9 * torch.eye(3)[:, :2] + 1]).double()
    monkeypatch.setattr("pyrovae.models.starts.START_STEPS", 0)
    found = {}
    for start in ("random", "k-means++"):
        places = []
        for seed in range(30):
            torch.manual_seed(seed)
            gmm = GaussianMixture(4, 2, start=start, floor=1e-2)
            gmm.initialize(x)
            places.append(len(gmm.means.detach().unique(dim=0)))
        found[start] = sum(places) / 30
    assert found["k-means++"] == 4
    assert found["random"] < 2
    torch.manual_seed(0)
    gmm = GaussianMixture(3, 2, start="random", floor=1e-2)
    gmm.initialize(x[-3:])  # without replacement: all three
    assert len(gmm.means.detach().unique(dim=0)) == 3


def test_samples_have_the_moments_of_the_mixture(gmm):
    num_samples = 20_000
    x, z = gmm.sample(num_samples)
    weights, means = gmm.weights.detach(), gmm.means.detach()
    products = x[:, :, None] * x[:, None]
    second = (weights[:, None, None] * (dense_covariances(gmm) + means[:, :, None] * means[:, None])).sum(0)
    for drawn, exact in ((x, weights @ means), (products, second), (nn.functional.one_hot(z, K).double(), weights)):
        standard_error = drawn.std(0) / math.sqrt(num_samples)
        assert ((drawn.mean(0) - exact).abs() <= 5 * standard_error).all()  # 23 checks: fails once in 80,000 seeds


# ------------------------------------------------------------------------------------------------------------- contract


def test_covariances_have_scikit_learns_shapes_and_the_floor(gmm):
    shapes = {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}
    assert gmm.covariances.shape == shapes[gmm.covariance]
    with torch.no_grad():
        gmm.model.covariance_factor.zero_()
    torch.testing.assert_close(dense_covariances(gmm), 0.1 * torch.eye(D, dtype=torch.float64).expand(K, D, D))


def test_gradients_reach_every_parameter_of_the_model(gmm, x):
    gmm.log_prob(x).sum().backward()
    for name, parameter in gmm.model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_parameters_are_float64_unless_asked():
    assert {p.dtype for p in GaussianMixture(2, 3).parameters()} == {torch.float64}
    single = GaussianMixture(2, 3, dtype=torch.float32)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert single.log_prob(torch.zeros(5, 3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("seed", range(8))
def test_start_finds_clusters_far_apart(seed):
    """Four clusters 1000 standard deviations apart: k-means++ misses one with a probability of about 10⁻⁵."""
    torch.manual_seed(seed)
    labels = torch.arange(4).repeat(25)
    corners = 1000 * torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    x = corners[labels] + torch.randn(100, 2, dtype=torch.float64)
    x = torch.cat([x, corners[3:].expand(20, 2)])  # the last cluster is the largest
    labels = torch.cat([labels, torch.full((20,), 3)])
    gmm = GaussianMixture(4, 2, floor=1e-6)
    gmm.initialize(x)
    means = torch.stack([x[labels == k].mean(0) for k in range(4)])
    nearest = torch.cdist(gmm.means.detach(), means).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(gmm.means.detach(), means[nearest])
    torch.testing.assert_close(gmm.weights.detach(), labels.bincount()[nearest] / 120.0, check_dtype=False)
    within = x - means[labels]
    torch.testing.assert_close(gmm.covariances.detach(), (within.T @ within / 120).expand(4, 2, 2))


def test_initialize_on_equal_data_gives_equal_centres():
    gmm = GaussianMixture(3, 2, floor=1e-2)
    gmm.initialize(torch.ones(5, 2, dtype=torch.float64))
    assert (gmm.means == 1).all()
    assert gmm.log_prob(torch.ones(1, 2)).isfinite().all()


def test_of_equally_probable_components_the_first_is_predicted():
    """Whichever of them a last bit prefers."""
    gmm = GaussianMixture(3, 2, "spherical", floor=1e-2)
    with torch.no_grad():
        gmm.means[1:] = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        gmm.means[0, 1] = 50.0
    for bit in (-1e-16, 0.0, 1e-16):
        assert gmm.predict(torch.tensor([[bit, 0.3]], dtype=torch.float64)).tolist() == [1]


def test_two_data_alone_are_no_degenerate_mass():
    gmm = GaussianMixture(2, 2, floor=1e-2)
    statistics = gmm.expected_statistics(torch.randn(10, 2, dtype=torch.float64))
    for mass, lines in ((2 - 1e-12, 0), (2.0, 0), (1.9, 1)):
        statistics["mass"] = torch.tensor([10 - mass, mass], dtype=torch.float64)
        assert sum("has the mass of" in line for line in gmm.degeneracies(statistics)) == lines


def test_the_marginal_guide_samples_nothing(gmm, x):
    trace = poutine.trace(gmm.guide).get_trace(x)
    assert not [site for site in trace.nodes.values() if site["type"] == "sample"]


def test_amortized_guide_needs_data():
    gmm = GaussianMixture(2, 3, encoder=CategoricalEncoder((3,), 2))
    with pytest.raises(ValueError, match=r"`x` must be given to an amortized guide, got None"):
        gmm.guide()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_components": 0}, r"`num_components` must be a whole number of at least 1, got 0"),
        ({"num_components": 2.0}, r"`num_components` must be a whole number of at least 1, got 2\.0"),
        ({"data_shape": (2, 3)}, r"`data_shape` must be \(D,\) with D at least 1, got \(2, 3\).*flatten"),
        ({"data_shape": 0}, r"`data_shape` must be \(D,\) with D at least 1, got \(0,\)"),
        ({"covariance": "diagonal"}, '`covariance` must be "full", "tied", "diag" or "spherical", got .diag'),
        ({"floor": 0}, r"`floor` must be a positive variance, in squared units of the data, got 0"),
        ({"floor": -1e-3}, r"`floor` must be a positive variance"),
        ({"floor": math.inf}, r"`floor` must be a positive variance"),
        ({"floor": math.nan}, r"`floor` must be a positive variance"),
        (
            {"start": "kmeans"},
            r"`start` must be one of \('k-means\+\+', 'random'\) or means of shape \(2, 3\), got 'kmeans'",
        ),
        ({"start": torch.zeros(3, 2)}, r"`start` must be one of .* got a tensor of shape \(3, 2\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"num_components": 2, "data_shape": (3,), **arguments})


def test_data_shape_may_be_a_number():
    assert GaussianMixture(2, 3).data_shape == GaussianMixture(2, (3,)).data_shape == (3,)


@pytest.mark.usefixtures("stock_pyro")
def test_enumeration_mark_is_on_z(gmm, x):
    trace = poutine.trace(gmm.model).get_trace(x)
    assert trace.nodes["z"]["infer"] == {"enumerate": "parallel"}
