"""Every model in stock Pyro: SVI, ELBO modules, Predictive, NUTS, rendering; and two models in one process."""

import copy
import io
import math
import pickle

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import (
    PPCA,
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    LowRankGaussian,
    exact_guide,
)
from pyrovae.data import Observations
from pyrovae.models.networks import CategoricalEncoder

D = 4

MODELS = {
    "mixture": lambda: GaussianMixture(3, D, floor=0.1),
    "amortized mixture": lambda: GaussianMixture(3, D, floor=0.1, encoder=CategoricalEncoder((D,), 3).double()),
    "PPCA": lambda: PPCA(2, D, floor=0.1),
    "Gaussian VAE": lambda: VAE(2, D, Gaussian("decoder"), hidden=(8,)).double(),
    "Bernoulli VAE": lambda: VAE(2, D, Bernoulli(), hidden=(8,)).double(),
    "full-covariance VAE": lambda: VAE(2, D, FullGaussian(0.1), hidden=(8,), posterior="full").double(),
    "low-rank VAE": lambda: VAE(2, D, LowRankGaussian(1, 0.1), hidden=(8,)).double(),
    "continuous-Bernoulli VAE": lambda: VAE(2, D, ContinuousBernoulli(), hidden=(8,)).double(),
    "discretised VAE": lambda: VAE(2, D, DiscretizedLogistic(2), hidden=(8,)).double(),
}
TRACTABLE = ["mixture", "PPCA"]
NETWORKS = [name for name in MODELS if name.endswith("VAE")]
AMORTIZED = ["amortized mixture", "PPCA", *NETWORKS]
stock_pyro = pytest.mark.usefixtures("stock_pyro")


def only(names):
    return pytest.mark.parametrize("build", names, indirect=True)


def random_parameters(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture(params=MODELS)
def build(request):
    return lambda: random_parameters(MODELS[request.param]())


@pytest.fixture
def model(build):
    return build()


@pytest.fixture
def x():
    return torch.rand(20, D, dtype=torch.float64).round()  # of either support


def stock_elbo(model):
    return TraceEnum_ELBO(max_plate_nesting=1) if isinstance(model, GaussianMixture) else Trace_ELBO()


def loss_at_fixed_noise(model, x):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return stock_elbo(model).loss(model.model, model.guide, x)


def train(model, x, num_steps=20):
    """A stock Pyro loop."""
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), stock_elbo(model))
    for _ in range(num_steps):
        svi.step(x)


def descend(model, x, num_steps=5):
    """Small steps of stock Pyro on the loss at fixed noise, which falls whatever the start and the data."""
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), stock_elbo(model))
    for _ in range(num_steps):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            svi.step(x)


# ----------------------------------------------------------------------------------------------------------- stock Pyro


@stock_pyro
def test_sites_and_plate(model, x):
    sites = poutine.trace(model.model).get_trace(x).nodes
    assert sites["x"]["is_observed"]
    assert (sites["x"]["value"] == x).all()
    assert not sites["z"]["is_observed"]
    for name in ("z", "x"):
        assert [(frame.name, frame.size, frame.dim) for frame in sites[name]["cond_indep_stack"]] == [("data", 20, -1)]


@stock_pyro
def test_stock_svi_lowers_the_loss(model, x):
    before = loss_at_fixed_noise(model, x)
    train(model, x)
    assert loss_at_fixed_noise(model, x) < before


@stock_pyro
def test_an_elbo_module_gives_gradients_to_every_parameter(model, x):
    elbo = stock_elbo(model)(model.model, model.guide)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in model.parameters()}
    optimizer = torch.optim.SGD(elbo.parameters(), lr=1e-6)
    loss = elbo(x)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


@stock_pyro
@only(NETWORKS)
def test_mean_field_elbo_estimates_the_same_bound(model, x):
    """TraceMeanField_ELBO takes the KL term exactly; over 200 draws of each the means differ by noise alone."""
    losses = [
        torch.tensor([elbo.loss(model.model, model.guide, x) for _ in range(200)])
        for elbo in (Trace_ELBO(), TraceMeanField_ELBO())
    ]
    difference = losses[0].mean() - losses[1].mean()
    assert abs(difference) <= 5 * math.sqrt(sum(loss.var().item() / 200 for loss in losses))


@stock_pyro
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_data(model, parallel):
    samples = Predictive(model.model, num_samples=5, parallel=parallel)(num_data=3)
    assert samples["x"].shape == (5, 3, D)
    assert samples["z"].shape[:2] == (5, 3)


@stock_pyro
@only(AMORTIZED)
def test_predictive_draws_from_the_guide(model, x):
    samples = Predictive(model.model, guide=model.guide, num_samples=5)(x)
    assert samples["z"].shape[:2] == (5, 20)


@stock_pyro
def test_condition_fixes_z(model, x):
    z = poutine.trace(model.model).get_trace(x).nodes["z"]["value"]
    trace = poutine.trace(poutine.condition(model.model, {"z": z})).get_trace(x)
    assert trace.nodes["z"]["is_observed"]
    assert math.isfinite(trace.log_prob_sum().item())


@stock_pyro
def test_render_model_draws_z_and_x_in_the_plate(model):
    source = pyro.render_model(model.model, model_kwargs={"num_data": 3}).source
    assert "z -> x" in source
    assert "label=data" in source


@stock_pyro
def test_nuts_finds_the_posterior_of_ppca():
    ppca = random_parameters(PPCA(2, D, floor=0.1))
    x, _ = ppca.sample(1)
    mcmc = MCMC(NUTS(ppca.model), num_samples=240, warmup_steps=60, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"][:, 0]
    batch_means = z.reshape(12, 20, 2).mean(1)  # 12 batches, each longer than the correlation of the chain
    standard_error = batch_means.std(0) / math.sqrt(12)
    exact = ppca.posterior(x).mean[0]
    assert ((z.mean(0) - exact).abs() <= 7 * standard_error).all()  # Student's t of 11: one seed in 20,000 fails


# -------------------------------------------------------------------------------------------------- side by side in one
# process


@stock_pyro
@pytest.mark.parametrize("twin", ["built", "copied", "deepcopied", "unpickled"])
def test_two_models_train_side_by_side(build, x, twin):
    """Pyro finds parameters by name: of two models that share names, the second never trains."""
    model = build()
    make = {
        "built": build,
        "copied": model.copy,
        "deepcopied": lambda: copy.deepcopy(model),
        "unpickled": lambda: pickle.loads(pickle.dumps(model)),
    }
    other = make[twin]()
    for training, resting in ((model, other), (other, model)) * 2:
        asleep, before = copy.deepcopy(resting.state_dict()), loss_at_fixed_noise(training, x)
        descend(training, x)
        assert loss_at_fixed_noise(training, x) < before
        assert all((value == asleep[name]).all() for name, value in resting.state_dict().items())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_equal_values_tensors_of_its_own_and_a_fresh_name(model, twin):
    other = twin(model)
    for name, value in model.state_dict().items():
        assert (other.state_dict()[name] == value).all()
        assert other.state_dict()[name].data_ptr() != value.data_ptr()
    names = {program._pyro_name for each in (model, other) for program in (each.model, each.guide)}
    assert len(names) == 4
    nested = {m._pyro_name for m in other.modules() if isinstance(m, pyro.nn.PyroModule) and m._pyro_name}
    assert all(name.startswith((other.model._pyro_name, other.guide._pyro_name)) for name in nested)


def test_a_model_saved_whole_by_torch_trains_beside_the_first(build):
    model, file = build(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert other.model._pyro_name != model.model._pyro_name


def test_a_checkpoint_of_one_instance_fits_another(build):
    model, other = build(), build()
    assert list(model.state_dict()) == list(other.state_dict())
    other.load_state_dict(model.state_dict())
    assert all((value == other.state_dict()[name]).all() for name, value in model.state_dict().items())


# ---------------------------------------------------------------------------------------------------------------- exact
# posterior


@stock_pyro
@only(TRACTABLE)
def test_exact_guide_holds_no_parameters_and_follows_the_model(model, x):
    guide = exact_guide(model)
    assert not list(guide.parameters())
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(1.5)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    expected = model.posterior(x).log_prob(trace.nodes["z"]["value"])
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], expected)


@stock_pyro
def test_exact_guide_needs_data_and_a_known_posterior():
    with pytest.raises(ValueError, match=r"`x` must be given to an? \w+ guide, got None"):
        exact_guide(PPCA(2, D))()
    with pytest.raises(TypeError, match=r"`model` must have a closed-form posterior, got VAE; use its own guide"):
        exact_guide(VAE(2, D, hidden=(8,)))


# ------------------------------------------------------------------------------------------------------------------ the
# boundary


def test_sampling_leaves_the_random_state_alone_and_follows_its_seed(model):
    state = torch.get_rng_state()
    first, second, third = (model.sample(6, seed=seed) for seed in (1, 1, 2))
    assert (torch.get_rng_state() == state).all()
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert any((a != b).any() for a, b in zip(first, third, strict=True))
    assert not first[0].requires_grad
    assert model.sample_means(6, seed=1)[0].shape == (6, D)


@only(TRACTABLE)
def test_data_may_be_observations_of_any_floating_type(model, x):
    expected = model.log_prob(x)
    assert (model.log_prob(Observations(x)) == expected).all()
    assert (model.log_prob(x.float()) == expected).all()
    assert model.score(x) == pytest.approx(expected.mean().item(), rel=1e-12)
    assert not model.score_samples(x).requires_grad


@only(TRACTABLE)
def test_information_criteria_are_their_definitions(model, x):
    total, free = model.log_prob(x).sum().item(), model.num_free_parameters
    assert model.bic(x) == pytest.approx(free * math.log(20) - 2 * total, rel=1e-12)
    assert model.aic(x) == pytest.approx(2 * free - 2 * total, rel=1e-12)


def test_resampled_observations_are_binarized_once_by_a_fixed_seed(model):
    grey = Observations(torch.rand(50, D, dtype=torch.float64), resample=True)
    once, twice = model.as_input(grey), model.as_input(grey)
    assert (once == twice).all()
    assert set(once.unique().tolist()) == {0.0, 1.0}


def bad(value):
    x = torch.zeros(5, D, dtype=torch.float64)
    x[2] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (bad(math.nan), ValueError, r"`x` must be finite, got NaN or infinity in 1 of 5 data, first in row 2"),
        (bad(math.inf), ValueError, r"`x` must be finite"),
        (torch.zeros(5), ValueError, r"`x` must have shape \(N, \*data_shape\), got \(5,\)"),
        (
            torch.zeros(5, 2, 2),
            ValueError,
            r"`x` must have shape \(N, 4\), got \(5, 2, 2\); flatten or reshape",
        ),
        (
            torch.zeros(5, 3),
            ValueError,
            r"`x` must have shape \(N, 4\), got \(5, 3\); build the model with",
        ),
        (torch.zeros(0, D), ValueError, r"`x` must hold at least one datum"),
        (torch.zeros(5, D, dtype=torch.int64), TypeError, r"`x` must be of a floating-point type, got torch.int64"),
        ("abc", TypeError, r"`x` must be Observations, a torch.Tensor, an array, .* got str"),
    ],
)
def test_data_that_do_not_fit_are_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        model.as_input(x)


@only(["Bernoulli VAE"])
def test_a_bernoulli_likelihood_refuses_grey_values(model):
    with pytest.raises(ValueError, match=r"must hold only 0 and 1 for a Bernoulli .*, got values in \[0, 0\.5\]"):
        model.as_input(bad(0.5))


def test_no_samples_are_refused(model):
    with pytest.raises(ValueError, match=r"`num_samples` must be a whole number of at least 1, got 0"):
        model.sample(0)
