"""The objectives: against closed forms, against Pyro's own, in expectation, and in every way of calling them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn

from pyrovae import PPCA, VAE, Gaussian, GaussianMixture, fit
from pyrovae.fit import BetaELBO, ImportanceWeightedELBO, LinearWarmup
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

pytestmark = pytest.mark.usefixtures("stock_pyro")

D = 4
GRADIENTS = ("reparametrised", "doubly_reparametrised")
DOUBLE = torch.float64


def linear_ppca():
    """A linear VAE at some parameters, its q some way from the posterior."""
    ppca = PPCA(2, D, 1e-3, encoder=LinearGaussianEncoder(D, 2, DOUBLE))
    with torch.no_grad():
        ppca.model.weight.normal_()
    return ppca


def small_vae(sigma=0.7):
    return VAE(2, D, Gaussian(sigma), hidden=(8,)).double()


def value_and_gradients(elbo, model, *args, seed=0):
    """Of one draw, for every parameter of model and guide."""
    module = elbo(model.model, model.guide)
    torch.manual_seed(seed)
    loss = module(*args)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return loss.detach(), gradients


def assert_mean_is(values, expected, num_errors=5):
    """The mean of draws is what is expected, by its own standard errors: five fail once in two million."""
    standard_error = values.std(0) / math.sqrt(len(values))
    assert (abs(values.mean(0) - expected) <= num_errors * standard_error).all()


@pytest.fixture
def x():
    return torch.randn(12, D, dtype=DOUBLE)


class Pair(nn.Module):
    """A model and a guide of functions with parameters of this module, as :class:`VAE` holds its own."""

    def __init__(self, model, guide, **parameters):
        super().__init__()
        self.model, self.guide = _Function(model, self), _Function(guide, self)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))


class _Function(nn.Module):
    def __init__(self, function, owner):
        super().__init__()
        self.function, self.owner = function, (owner,)

    def forward(self, *args):
        return self.function(self.owner[0], *args)


# ------------------------------------------------------------------------------------------------------ the weighted KL


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_weight_beta_at_a_variance_is_weight_one_at_beta_times_the_variance(elbo, x):
    """−log p(x|z) = |x − μ(z)|²/2σ² + constant: β times the loss at βσ² differs from that at σ² by a constant."""
    beta, sigma = 3.0, 0.7
    weighted, plain = small_vae(sigma), small_vae(sigma * math.sqrt(beta))
    plain.load_state_dict(weighted.state_dict())
    loss, gradients = value_and_gradients(BetaELBO(beta, elbo()), weighted, x)
    plain_loss, plain_gradients = value_and_gradients(elbo(), plain, x)
    constant = len(x) * D * (math.log(sigma) - beta * math.log(sigma * math.sqrt(beta)))
    constant += 0.5 * len(x) * D * (1 - beta) * math.log(2 * math.pi)
    assert loss.item() == pytest.approx(beta * plain_loss.item() + constant, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, beta * plain_gradients[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("beta", "kept"), [(1.0, 3), (4.0, 2)])
def test_a_linear_vae_keeps_the_directions_of_variance_above_beta_times_that_of_the_noise(beta, kept):
    """Its optimum is that of PPCA at the variance βσ²: W = U(Λ − βσ²I)₊^½ R, the global maximum of a likelihood."""
    sigma, eigenvalues = 0.5, torch.tensor([4.0, 2.0, 0.5, 0.2], dtype=DOUBLE)
    x = torch.linalg.qr(torch.randn(200, D + 1, dtype=DOUBLE).index_fill(1, torch.tensor(0), 1.0)).Q[:, 1:]
    x = x * (200 * eigenvalues).sqrt()  # of mean zero and this covariance
    vae = VAE(3, D, Gaussian(sigma), hidden=()).double()
    elbo = BetaELBO(beta, TraceMeanField_ELBO())
    head = fit.svi(vae, x, elbo=elbo, num_epochs=60, batch_size=50, lr=0.05).model.decoder.head

    def likelihood(loc, product):
        covariance = product + beta * sigma**2 * torch.eye(D, dtype=DOUBLE)
        return dist.MultivariateNormal(loc, covariance).log_prob(x).mean().item()

    weight = head.unit * head.loc.weight.detach()
    best = likelihood(torch.zeros(D, dtype=DOUBLE), (eigenvalues - beta * sigma**2).clamp_min(0).diag())
    assert best - 0.05 < likelihood(head.unit * head.loc.bias.detach(), weight @ weight.T) <= best + 1e-12
    assert (torch.linalg.svdvals(weight).square() > 0.05).sum() == kept


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_the_analytic_kl_is_that_of_two_gaussians(beta, x):
    vae = small_vae()
    loss, _ = value_and_gradients(BetaELBO(beta, TraceMeanField_ELBO()), vae, x)
    torch.manual_seed(0)
    q = vae.encoder(x)
    reconstruction = vae.decoder(q.rsample()).log_prob(x).sum()
    kl = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum()
    assert loss.item() == pytest.approx((beta * kl - reconstruction).item(), rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_a_discrete_latent_that_the_guide_enumerates(beta, x):
    gmm = GaussianMixture(3, D, floor=0.01, encoder=CategoricalEncoder((D,), 3, dtype=DOUBLE))
    gmm.initialize(x)
    loss, _ = value_and_gradients(BetaELBO(beta, TraceEnum_ELBO(max_plate_nesting=1)), gmm, x)
    q = gmm.guide.encoder(x)
    joint = poutine.trace(poutine.condition(gmm.model, {"z": torch.arange(3)[:, None]})).get_trace(x)
    joint.compute_log_prob()
    log_prior, log_likelihood = (joint.nodes[site]["log_prob"].T for site in ("z", "x"))
    terms = log_likelihood + beta * log_prior - beta * q.logits
    assert loss.item() == pytest.approx(-(q.probs * terms).sum().item(), rel=1e-12)


def two_level_model(pair, x, size):
    """Sites by names of their own; two of them latent, two observed, under a plate that may hold a subsample."""
    with pyro.plate("data", size, subsample=torch.arange(len(x))):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        low = pyro.sample("low", dist.Normal(pair.slope * top, 1.0))
        pyro.sample("left", dist.Normal(low, 1.0), obs=x[:, 0])
        pyro.sample("right", dist.Normal(low * top, 2.0), obs=x[:, 1])


def two_level_guide(pair, x, size):
    with pyro.plate("data", size, subsample=torch.arange(len(x))):
        top = pyro.sample("top", dist.Normal(pair.loc * x[:, 0], 0.8))
        pyro.sample("low", dist.Normal(pair.gain * x[:, 1] + 0.5 * top.sin(), pair.scale.exp()))


def two_levels(shape=()):
    values = {"slope": 0.7, "loc": 0.3, "gain": 0.4, "scale": -0.3}
    return Pair(two_level_model, two_level_guide, **{k: torch.full(shape, v, dtype=DOUBLE) for k, v in values.items()})


def test_a_discrete_latent_that_the_model_sums_over_has_no_kl(x):
    gmm = GaussianMixture(3, D, floor=0.01)
    gmm.initialize(x)
    with pytest.raises(ValueError, match=r"common poutine\.scale"):
        value_and_gradients(BetaELBO(2.0, TraceEnum_ELBO(max_plate_nesting=1)), gmm, x)


def test_all_latent_sites_are_weighted_and_nothing_else_by_any_name(x):
    pair, beta = two_levels(), 2.5
    loss, gradients = value_and_gradients(BetaELBO(beta), pair, x, 3 * len(x))
    torch.manual_seed(0)
    guide = poutine.trace(pair.guide).get_trace(x, 3 * len(x))
    model = poutine.trace(poutine.replay(pair.model, guide)).get_trace(x, 3 * len(x))
    latent = model.log_prob_sum(lambda name, site: name in ("top", "low")) - guide.log_prob_sum()
    observed = model.log_prob_sum(lambda name, site: name in ("left", "right"))
    assert loss.item() == pytest.approx(-(observed + beta * latent).item(), rel=1e-12)
    assert set(gradients) == {"slope", "loc", "gain", "scale"}


def test_weight_one_is_the_elbo_itself(x):
    vae = small_vae()
    loss, gradients = value_and_gradients(BetaELBO(1), vae, x)
    expected, expected_gradients = value_and_gradients(Trace_ELBO(), vae, x)
    assert loss == expected
    assert all((gradients[name] == expected_gradients[name]).all() for name in gradients)


# ---------------------------------------------------------------------------------------------------------- the warm-up


def recorded(asked):
    """A schedule that notes every step at which it is asked."""

    def schedule(step):
        asked.append(step)
        return 2.0

    return schedule


def test_a_warm_up_grows_linearly_to_its_end_and_stays():
    warmup = LinearWarmup(10, final=3.0)
    assert [warmup(step) for step in (1, 5, 10, 11, math.inf)] == pytest.approx([0.3, 1.5, 3.0, 3.0, 3.0])


def test_steps_are_losses_with_gradients_in_training_mode(x):
    asked, vae = [], small_vae()
    module = BetaELBO(recorded(asked))(vae.model, vae.guide)
    asked.clear()
    module(x)
    module.eval()(x)
    with torch.no_grad():
        module.train()(x)
    module(x)
    assert asked == [1, math.inf, math.inf, 2]


def test_a_fit_steps_once_a_batch_and_validates_at_the_end_of_the_schedule(x):
    asked = []
    elbo = BetaELBO(recorded(asked))
    for _ in range(2):  # the second fit, as a refit would, counts from its own first step
        asked.clear()
        fit.svi(small_vae(), x, valid=x, elbo=elbo, num_epochs=2, batch_size=5)
        steps = [step for step in asked if step < math.inf]
        assert steps == [1, 2, 3, 4, 5, 6]
        assert len(asked) > len(steps)
    assert elbo.step == 0


def test_validation_is_on_one_scale_while_the_weight_grows(x):
    """At learning rate ~0 nothing changes but β, and validation does not see it."""
    options = {"valid": x, "num_epochs": 3, "batch_size": 6, "lr": 1e-12, "schedule": "constant"}
    warming = fit.svi(small_vae(), x, elbo=BetaELBO(LinearWarmup(100, final=4.0)), **options)
    constant = fit.svi(small_vae(), x, elbo=BetaELBO(4.0), **options)
    torch.testing.assert_close(warming.valid_trace, constant.valid_trace, rtol=1e-8, atol=0.0)
    assert (warming.trace > constant.trace).all()
    assert warming.objective == constant.objective == "β-weighted ELBO, β = 4"


def test_stock_svi_counts_its_steps_and_not_its_evaluations(x):
    vae, elbo = small_vae(), BetaELBO(LinearWarmup(4))
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.0}), elbo)
    for beta in (0.25, 0.5, 0.75, 1.0, 1.0):
        torch.manual_seed(0)
        step = svi.step(x)
        assert step == pytest.approx(value_and_gradients(BetaELBO(beta), vae, x)[0].item(), rel=1e-12)
        torch.manual_seed(0)
        assert svi.evaluate_loss(x) == pytest.approx(value_and_gradients(Trace_ELBO(), vae, x)[0].item(), rel=1e-12)
    assert elbo.step == 5
    assert elbo(vae.model, vae.guide).elbo.step == 0


# -------------------------------------------------------------------------------- the importance-weighted bound: values


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("vectorize", [True, False], ids=["in one plate", "one by one"])
@pytest.mark.parametrize("num_particles", [1, 7])
def test_with_the_exact_posterior_every_weight_is_the_likelihood(num_particles, vectorize, gradient, x):
    ppca = PPCA(2, D)
    ppca.initialize(x)
    elbo = ImportanceWeightedELBO(num_particles, gradient=gradient, vectorize_particles=vectorize)
    loss, _ = value_and_gradients(elbo, ppca, x)
    assert loss.item() == pytest.approx(-ppca.log_prob(x).sum().item(), rel=1e-12)


@pytest.mark.parametrize("num_particles", [2, 5])
def test_the_bound_is_the_mean_weight_of_each_datum(num_particles, x):
    vae = small_vae()
    loss, gradients = value_and_gradients(ImportanceWeightedELBO(num_particles), vae, x)
    torch.manual_seed(0)
    q = vae.encoder(x).expand((num_particles, len(x)))
    z = q.rsample()
    log_weights = vae.decoder(z).log_prob(x) + dist.Normal(0, 1).log_prob(z).sum(-1) - q.log_prob(z)
    by_hand = -(log_weights.exp().mean(0).log().sum())
    by_hand.backward()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-12)
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [12, 30], ids=["all data", "a subsample"])
def test_one_particle_is_the_elbo(size, x):
    pair = two_levels()
    loss, gradients = value_and_gradients(ImportanceWeightedELBO(1), pair, x, size)
    expected, expected_gradients = value_and_gradients(Trace_ELBO(), pair, x, size)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0.0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_subsample_scales_the_sum_over_data_and_not_the_weights(gradient, x):
    pair = two_levels()
    elbo = ImportanceWeightedELBO(5, gradient=gradient)
    all_data, all_gradients = value_and_gradients(elbo, pair, x, len(x))
    loss, gradients = value_and_gradients(elbo, Subsampled(pair), x)
    torch.testing.assert_close(loss, 2.5 * all_data, rtol=1e-12, atol=0.0)
    for name, gradient in gradients.items():
        expected = 2.5 * all_gradients[name.removeprefix("pair.")]
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


class Subsampled(nn.Module):
    """A pair whose data are 12 of 30."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair
        self.model = lambda x: pair.model(x, 30)
        self.guide = lambda x: pair.guide(x, 30)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_dimensions_may_be_a_plate_inside_of_the_data(gradient, x):
    """Independent dimensions as an event, and as a plate to the right or the left of the data: one value."""

    def as_event(pair, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(pair.weight * z[..., None], 1.0).to_event(1), obs=x)

    def to_the_right(pair, x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("dimensions", D, dim=-1):
                pyro.sample("x", dist.Normal(pair.weight * z, 1.0), obs=x)

    def to_the_left(pair, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("dimensions", D, dim=-2):
                pyro.sample("x", dist.Normal(pair.weight[:, None] * z, 1.0), obs=x.T)

    def guide(dim):
        def program(pair, x):
            loc = pair.gain * x[:, 0]
            with pyro.plate("data", len(x), dim=dim):
                pyro.sample("z", dist.Normal(loc if dim == -1 else loc[:, None], 1.0))

        return program

    weight, gain = torch.randn(D, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
    results = [
        value_and_gradients(
            ImportanceWeightedELBO(3, gradient=gradient, max_plate_nesting=2),
            Pair(model, guide(dim), weight=weight.clone(), gain=gain.clone()),
            x,
        )
        for model, dim in ((as_event, -1), (to_the_right, -2), (to_the_left, -1))
    ]
    for loss, gradients in results[1:]:
        assert loss.item() == pytest.approx(results[0][0].item(), rel=1e-12)
        for name, expected in results[0][1].items():
            torch.testing.assert_close(gradients[name], expected, rtol=1e-9, atol=1e-9)


class Conjugate(nn.Module):
    """z ~ Normal(0, 1), x ~ Normal(z, 1), 100 data of which ``index`` are at hand; q too wide."""

    def __init__(self):
        super().__init__()
        self.x = torch.randn(100, dtype=DOUBLE) * math.sqrt(2)
        self.exact = dist.Normal(0.0, math.sqrt(2)).log_prob(self.x).sum().item()

    def model(self, index):
        with pyro.plate("data", 100, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=self.x[index])

    def guide(self, index):
        with pyro.plate("data", 100, subsample=index):
            pyro.sample("z", dist.Normal(0.5 * self.x[index], 1.2))

    def bounds(self, elbo, num_rounds):
        """One estimate a round from 10 batches of 10 of 100 data: their mean has no noise of the subsampling."""
        batches = torch.arange(100).split(10)
        losses = [[elbo.loss(self.model, self.guide, index) for index in batches] for _ in range(num_rounds)]
        return -torch.tensor(losses, dtype=DOUBLE).mean(1)


def test_under_a_subsampled_plate_the_bound_is_below_the_likelihood_and_converges_to_it():
    """10 of 100 data.  The ELBO is below by Σ KL, and the k-sample bound, for large k, by Σ Var[w] / 2k p(x)²."""
    conjugate = Conjugate()
    ratio = 1.2**2 / 0.5  # variance of q over that of the posterior; their means agree
    kl = 100 * 0.5 * (ratio - 1 - math.log(ratio))
    relative_variance = 100 * (ratio / math.sqrt(2 * ratio - 1) - 1)
    assert_mean_is(conjugate.bounds(ImportanceWeightedELBO(1), 30), conjugate.exact - kl)
    few = conjugate.bounds(ImportanceWeightedELBO(10), 100)
    assert conjugate.exact - kl < few.mean() < conjugate.exact - 5 * few.std() / math.sqrt(len(few))
    many = conjugate.bounds(ImportanceWeightedELBO(1000), 20)
    gap = relative_variance / (2 * 1000)
    assert gap < kl / 1000
    assert_mean_is(many, conjugate.exact - gap)


def test_pyros_renyi_elbo_is_no_bound_under_a_subsampled_plate():
    """It raises every weight to the power size / subsample_size before their mean."""
    conjugate = Conjugate()
    values = conjugate.bounds(RenyiELBO(0, 1000, max_plate_nesting=1, vectorize_particles=True), 20)
    assert values.mean() > conjugate.exact + 20 * values.std() / math.sqrt(len(values))


# ----------------------------------------------------------------------------- the importance-weighted bound: gradients


def replicated(gradient, num_particles, num_replicates=40_000):
    """As many independent draws of the gradients as there are data: all alike, each with parameters of its own."""
    x = torch.tensor([0.8, -0.5], dtype=DOUBLE).expand(num_replicates, 2)
    elbo = ImportanceWeightedELBO(num_particles, gradient=gradient)
    return value_and_gradients(elbo, two_levels((num_replicates,)), x, num_replicates)


@pytest.mark.parametrize("num_particles", [1, 2, 8])
def test_doubly_reparametrised_gradients_have_the_same_mean_and_less_noise(num_particles):
    """Paired, at the same noise, of a guide whose second site depends on its first."""
    loss, plain = replicated("reparametrised", num_particles)
    doubly_loss, doubly = replicated("doubly_reparametrised", num_particles)
    torch.testing.assert_close(doubly_loss, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(doubly["slope"], plain["slope"], rtol=1e-10, atol=1e-12)
    for name in ("loc", "gain", "scale"):
        assert_mean_is(doubly[name] - plain[name], 0.0)
        assert (doubly[name] != plain[name]).all()
    excess = sum((plain[n] - plain[n].mean()).square() - (doubly[n] - doubly[n].mean()).square() for n in plain)
    assert excess.mean() > 10 * excess.std() / math.sqrt(len(excess))


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("vectorize", [True, False], ids=["in one plate", "one by one"])
def test_at_the_exact_posterior_the_doubly_reparametrised_gradient_of_q_is_zero(num_particles, vectorize, x):
    ppca = linear_ppca()
    ppca.match_guide()
    options = {"vectorize_particles": vectorize}
    _, doubly = value_and_gradients(
        ImportanceWeightedELBO(num_particles, gradient="doubly_reparametrised", **options), ppca, x
    )
    _, plain = value_and_gradients(ImportanceWeightedELBO(num_particles, **options), ppca, x)
    for name, gradient in doubly.items():
        if name.startswith("guide."):
            assert gradient.abs().max() < 1e-10
            assert plain[name].abs().max() > 1e-3
        else:
            torch.testing.assert_close(gradient, plain[name], rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------- ways of calling them

OBJECTIVES = {
    "beta": lambda: BetaELBO(2.0),
    "beta, analytic": lambda: BetaELBO(2.0, TraceMeanField_ELBO()),
    "warm-up": lambda: BetaELBO(LinearWarmup(5)),
    "importance-weighted": lambda: ImportanceWeightedELBO(5),
    "doubly reparametrised": lambda: ImportanceWeightedELBO(5, gradient="doubly_reparametrised"),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_reach_every_parameter_in_either_precision(objective, dtype, x):
    vae = VAE(2, D, Gaussian("decoder"), hidden=(8,)).to(dtype)
    loss, gradients = value_and_gradients(objective, vae, x.to(dtype))
    assert loss.dtype == dtype
    assert loss.shape == ()
    for gradient in gradients.values():
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()
        assert gradient.any()


def test_stock_svi_trains_by_them(objective, x):
    """A step of SVI is a step of torch along the gradients of the ELBO module."""
    by_svi, by_torch = small_vae(), small_vae()
    by_torch.load_state_dict(by_svi.state_dict())
    module = objective(by_torch.model, by_torch.guide)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    torch.manual_seed(0)
    expected = module(x)
    expected.backward()
    optimizer.step()
    torch.manual_seed(0)
    svi = SVI(by_svi.model, by_svi.guide, Adam({"lr": 0.01}), objective)
    assert svi.step(x) == pytest.approx(expected.item(), rel=1e-12)
    for name, value in by_torch.state_dict().items():
        torch.testing.assert_close(by_svi.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    torch.manual_seed(1)
    evaluated = svi.evaluate_loss(x)
    torch.manual_seed(1)
    with torch.no_grad():
        assert evaluated == pytest.approx(objective(by_svi.model, by_svi.guide)(x).item(), rel=1e-12)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_linear_vae_by_five_samples_comes_near_the_global_maximum_and_never_passes_it(gradient):
    torch.manual_seed(0)
    x = torch.randn(100, D, dtype=DOUBLE) @ torch.randn(D, D, dtype=DOUBLE)
    x = x / x.std(0)
    best = fit.closed_form(linear_ppca(), x).model.score(x)
    elbo = ImportanceWeightedELBO(5, gradient=gradient)
    result = fit.svi(linear_ppca(), x, num_epochs=60, batch_size=50, lr=0.05, elbo=elbo)
    assert best - 0.1 < result.model.score(x) <= best + 1e-12
    assert result.objective == "importance-weighted bound, k = 5"


@pytest.mark.parametrize(
    "elbo",
    [
        ImportanceWeightedELBO(3, max_plate_nesting=2),
        BetaELBO(2.0, Trace_ELBO(num_particles=3, vectorize_particles=True)),
    ],
)
def test_one_object_serves_models_of_different_plates(elbo, x):
    """What is found out about one pair is not held against the next."""
    pair = two_levels()

    def nested(pair, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("dimensions", D, dim=-2):
                pyro.sample("x", dist.Normal(pair.weight * z, 1.0), obs=x.T)

    def guide(pair, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pair.loc, 1.0))

    deeper = Pair(nested, guide, weight=torch.ones((), dtype=DOUBLE), loc=torch.zeros((), dtype=DOUBLE))
    for module, args in (
        (elbo(pair.model, pair.guide), (x, len(x))),
        (elbo(deeper.model, deeper.guide), (x,)),
    ):
        assert torch.isfinite(module(*args))


# ------------------------------------------------------------------------------------------------------------- refusals


def local(pair, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local_guide(pair, x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def with_global_latent(program):
    def wrapped(pair, x):
        pyro.sample("everywhere", dist.Normal(0.0, 1.0))
        program(pair, x)

    return wrapped


def sequential(pair, x):
    for n in pyro.plate("data", len(x)):
        pyro.sample(f"z{n}", dist.Normal(0.0, 1.0))


def counting(pair, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Poisson(1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def counting_guide(pair, x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Poisson(2.0))


def enumerated(pair, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        if x is not None:
            pyro.sample(f"x_{z.dim()}", dist.Normal(z, 1.0), obs=x)


def enumerated_guide(pair, x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (with_global_latent(local), with_global_latent(local_guide), "`data_plate` must name.*'everywhere' is outside"),
        (sequential, sequential, "`data_plate` must name a vectorized plate.*'z0' is outside"),
        (counting, counting_guide, "`guide` must be reparametrised at every site, got Poisson at 'z'; use Trace_ELBO"),
        (enumerated, enumerated_guide, "must have no enumerated site, got 'z'; .* use TraceEnum_ELBO"),
    ],
    ids=["global latent", "sequential plate", "not reparametrised", "enumerated"],
)
def test_weights_of_each_datum_that_cannot_be_had(model, guide, message, num_particles, gradient):
    pair = Pair(model, guide)
    elbo = ImportanceWeightedELBO(num_particles, gradient=gradient)
    with pytest.raises(ValueError, match=message):
        elbo.differentiable_loss(pair.model, pair.guide, torch.zeros(3))


def test_a_mixture_summed_over_is_refused_by_name(x):
    unsampled = pytest.warns(UserWarning, match="in model but not guide")  # Pyro says so on the way
    with unsampled, pytest.raises(ValueError, match="no enumerated site, got 'z'"):
        fit.svi(GaussianMixture(2, D), x, elbo=ImportanceWeightedELBO(2), num_epochs=1)


@pytest.mark.parametrize("num_particles", [0, -1, 2.0])
def test_particles_are_counted(num_particles):
    with pytest.raises(ValueError, match=r"`num_particles` must be a whole number of at least 1, got"):
        ImportanceWeightedELBO(num_particles)


def test_an_unknown_gradient():
    with pytest.raises(ValueError, match=r"`gradient` must be .reparametrised. or .doubly_reparametrised., got 'dreg'"):
        ImportanceWeightedELBO(2, gradient="dreg")


@pytest.mark.parametrize("beta", [0, -1.0, math.inf, math.nan, lambda step: 0.0])
def test_a_weight_is_positive(beta):
    with pytest.raises(ValueError, match=r"`beta` must be a positive number( at step inf)?, got"):
        BetaELBO(beta)


def test_a_schedule_is_checked_at_every_step(x):
    vae = small_vae()
    module = BetaELBO(lambda step: 1.0 if step > 1 else 0.0)(vae.model, vae.guide)
    with pytest.raises(ValueError, match=r"`beta` must be a positive number at step 1, got 0\.0"):
        module(x)


def test_a_weight_is_a_number_or_a_function():
    with pytest.raises(TypeError, match="`beta` must be a number or a function of the step, got str"):
        BetaELBO("warm")


@pytest.mark.parametrize("elbo", [ImportanceWeightedELBO(2), RenyiELBO(), JitTrace_ELBO(), "Trace_ELBO"])
def test_only_what_splits_into_reconstruction_and_kl_is_weighted(elbo):
    with pytest.raises(TypeError, match=r"`elbo` must be a Trace_ELBO, .*, got (ImportanceW|Renyi|Jit|str)"):
        BetaELBO(2.0, elbo)


def test_a_warm_up_takes_steps():
    with pytest.raises(ValueError, match="`num_steps` must be a whole number of at least 1, got 0"):
        LinearWarmup(0)
