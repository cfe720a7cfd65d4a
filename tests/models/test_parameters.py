"""Parameters of ``pyro.param``: in Pyro's store until a fit takes them into the model, which trains and keeps them."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae import VAE, Execution, Gaussian, evaluate, fit
from pyrovae.models import LatentVariableModel, Program

D = 3
FIT = {"warm_start": True, "progress": False, "schedule": "constant"}
pytestmark = pytest.mark.filterwarnings("ignore:SVI ended in a degenerate fit.*the decoder ignores z")  # so it does


def trivial(x, num_data):
    """A latent that x does not depend on, so that every weight is log p(x)."""
    return pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))


class Location(Program):
    """x ~ Normal(μ, σ), both by ``pyro.param``: a name with a dot, a start by a function, a constraint."""

    start = 0.0

    def forward(self, x=None, *, num_data=1):
        loc = pyro.param("x.loc", lambda: torch.full((D,), self.start, dtype=torch.float64))
        scale = pyro.param("scale", torch.ones(D, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            trivial(x, num_data)
            return pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


class Nothing(Program):
    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            trivial(x, num_data)


class Model(LatentVariableModel):
    data_shape = (D,)

    def __init__(self, model=None, guide=None):
        super().__init__()
        self.model, self.guide = model or Location(), guide or Nothing()


def data(loc=2.0):
    return loc + 0.5 * torch.randn(50, D, dtype=torch.float64)


def log_p(x, loc, scale):
    return dist.Normal(loc, scale).to_event(1).log_prob(x)


def moments(x):
    return x.mean(0), x.std(0, correction=0)


def fitted(x, model=None, **options):
    return fit.svi(model or Model(), x, **{"num_epochs": 400, "batch_size": len(x), "lr": 0.05, **FIT, **options})


@pytest.mark.parametrize("execution", [Execution(compile=False), Execution(compile="graph"), Execution(num_shards=2)])
def test_they_are_trained_to_the_maximum(execution):
    x = data()
    result = fitted(x, execution=execution)
    torch.testing.assert_close(evaluate.elbo(result.model, x, 3), log_p(x, *moments(x)), rtol=0, atol=2e-2)
    assert abs(result.elbo - log_p(x, *moments(x)).mean().item()) < 1e-2
    assert not list(pyro.get_param_store())


def stock(model, x, steps=400):
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def test_what_stock_pyro_has_trained_is_evaluated_fitted_further_and_saved(stock_pyro, tmp_path):
    x, model = data(), Model()
    values = stock(model, x)
    expected = log_p(x, values["x.loc"], values["scale"])
    for found in (
        evaluate.elbo(model, x, 2),
        evaluate.log_likelihood(model, x, 2).values,
        evaluate.quadrature(model, x).values,
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    further = fitted(x, model, num_epochs=1, lr=1e-9)
    assert abs(further.elbo - expected.mean().item()) < 1e-6
    assert all(torch.equal(values[name], value) for name, value in pyro.get_param_store().items())
    pyrovae.save(model, tmp_path / "model.pt")
    pyro.clear_param_store()
    loaded = pyrovae.load(tmp_path / "model.pt", into=Model())
    torch.testing.assert_close(evaluate.elbo(loaded, x, 2), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "again",
    [
        copy.deepcopy,
        lambda model: model.copy(),
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.to("cpu"),
    ],
)
def test_a_copy_holds_its_own(again):
    x = data()
    model = fitted(x).model
    expected = evaluate.elbo(model, x, 2)
    other = again(model)
    torch.testing.assert_close(evaluate.elbo(other, x, 2), expected, rtol=0, atol=0)
    if other is not model:
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        torch.testing.assert_close(evaluate.elbo(model, x, 2), expected, rtol=0, atol=0)


def test_a_saved_model_has_them_and_can_be_fitted_on(tmp_path):
    x = data()
    model = fitted(x, num_epochs=5).model
    loaded = pyrovae.load(pyrovae.save(model, tmp_path / "model.pt"), into=Model())
    torch.testing.assert_close(evaluate.elbo(loaded, x, 2), evaluate.elbo(model, x, 2), rtol=0, atol=0)
    one, other = (fitted(x, each, num_epochs=3).trace for each in (model, loaded))
    assert torch.equal(one, other)
    held = [name for name in loaded.state_dict() if "pyro_params" in name]
    assert held == ["model.pyro_params.x/loc", "model.pyro_params.scale"]
    assert loaded.num_free_parameters == 2 * D


def test_models_of_the_same_names_never_touch_each_other(stock_pyro):
    low, high = data(-3), data(3)
    first, second = fitted(low).model, fitted(high).model
    values = stock(Model(), data(0.0))  # and a third in Pyro's store
    for model, x in ((first, low), (second, high)):
        torch.testing.assert_close(evaluate.elbo(model, x, 2), log_p(x, *moments(x)), rtol=0, atol=2e-2)
        sample, _ = model.sample(4000)
        assert ((sample.mean(0) - x.mean(0)).abs() < 6 * x.std(0) / 4000**0.5 + 1e-2).all()
    assert all(torch.equal(values[name], value) for name, value in pyro.get_param_store().items())


def test_stock_pyro_trains_what_a_model_holds(stock_pyro):
    x = data(-1.0)
    model = fitted(data(), num_epochs=3).model
    assert not stock(model, x)
    torch.testing.assert_close(evaluate.elbo(model, x, 2), log_p(x, *moments(x)), rtol=0, atol=2e-2)


class Starting(Model):
    def initialize(self, x):
        pass


def test_a_fit_starts_afresh_unless_it_starts_warm():
    x = data()
    model = Starting()
    fresh, trained = fitted(x, model, num_epochs=2, warm_start=False), fitted(x, model)
    warm, cold = (fitted(x, trained.model, num_epochs=2, warm_start=warm).trace for warm in (True, False))
    assert warm[0] > trained.trace[0] + 1
    assert torch.equal(cold, fresh.trace)


def test_a_start_is_drawn_by_the_seed_of_the_fit():
    class Random(Location):
        def forward(self, x=None, *, num_data=1):
            pyro.param("x.loc", lambda: torch.randn(D, dtype=torch.float64))
            return super().forward(x, num_data=num_data)

    x = data()
    first, same, other = (
        fitted(x, Model(Random()), num_epochs=1, seed=seed, lr=1e-9).trace.item() for seed in (1, 1, 2)
    )
    assert first == same != other


class SharedGuide(Program):
    """Takes σ of the model by its name alone, and has a parameter of its own."""

    def forward(self, x=None, *, num_data=1):
        scale = pyro.param("scale", torch.ones(D, dtype=torch.float64), constraint=constraints.positive)
        shift = pyro.param("shift", torch.zeros((), dtype=torch.float64))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(shift, 0.5 + scale[0]))


def test_what_model_and_guide_share_is_one_parameter(tmp_path):
    x = data()
    model = fitted(x, Model(guide=SharedGuide()), num_epochs=30).model
    assert model.model.pyro_params.value("scale", constraints.positive).unconstrained() is (
        model.guide.pyro_params.value("scale", constraints.positive).unconstrained()
    )
    assert len(list(model.parameters())) == 3
    assert model.num_free_parameters == 2 * D
    again = model.copy()
    assert len(list(again.parameters())) == 3
    loaded = pyrovae.load(pyrovae.save(model, tmp_path / "model.pt"), into=Model(guide=SharedGuide()))
    one, other = (fitted(x, each, num_epochs=5).trace for each in (model, loaded))
    assert torch.equal(one, other)


def test_a_parameter_made_later_is_refused_with_what_to_do():
    class Late(Location):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x=None, *, num_data=1):
            self.calls += 1
            if self.calls > 3:
                pyro.param("late", torch.zeros((), dtype=torch.float64))
            return super().forward(x, num_data=num_data)

    with pytest.raises(
        ValueError, match=r"`pyro.param` must make each parameter in the first run of a fit, got 'late'"
    ):
        fitted(data(), Model(Late()), num_epochs=5, execution=Execution(compile=False))


def test_a_name_alone_is_refused_where_nobody_has_said_its_constraint(tmp_path):
    class ByName(SharedGuide):
        def forward(self, x=None, *, num_data=1):
            pyro.param("scale")
            return super().forward(x, num_data=num_data)

    x = data()
    with pyro.get_param_store().scope():
        pyro.param("scale", torch.ones(D, dtype=torch.float64), constraint=constraints.positive)
        model = fitted(x, Model(guide=ByName()), num_epochs=3).model
    assert evaluate.elbo(model, x, 2).isfinite().all()
    loaded = pyrovae.load(pyrovae.save(model, tmp_path / "model.pt"), into=Model(guide=ByName()))
    with pytest.raises(ValueError, match=r"`pyro.param` must be given a start and the constraint of 'scale'"):
        evaluate.elbo(loaded, x, 2)


def test_a_guide_that_cannot_hold_its_parameters_is_refused():
    class Loose(PyroModule):
        def forward(self, x=None, *, num_data=1):
            shift = pyro.param("shift", torch.zeros((), dtype=torch.float64))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(shift, 1.0))

    with pytest.raises(TypeError, match=r"`model\.guide` must be a pyrovae\.models\.Program, got Loose"):
        fitted(data(), Model(guide=Loose()))


class ScaledEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(D, 1)

    def forward(self, x):
        scale = pyro.param("encoder.scale", torch.full((1,), 0.9), constraint=constraints.positive)
        return dist.Normal(self.loc(x), scale).to_event(1)


def test_a_part_of_a_vae_has_what_its_program_holds():
    """σ is set by draws of the trained encoder; of an encoder at its start, it is another."""
    x = data().float()
    vae = VAE(1, D, Gaussian("shared"), hidden=(4,), encoder=ScaledEncoder())
    assert not list(pyro.get_param_store())
    fitted_vae = fit.svi(vae, x, num_epochs=2, progress=False).model
    assert list(fitted_vae.guide.pyro_params._parameters) == ["encoder/scale"]
    with torch.no_grad():
        fitted_vae.guide.pyro_params._parameters["encoder/scale"].fill_(-20)  # σ = e^−20: z is its mean
        means = fitted_vae.decoder(fitted_vae.encoder.loc(x)).mean
    tuned = fitted_vae.with_optimal_scale(x, 2)
    variance = tuned.decoder(torch.zeros(1, 1)).variance[0, 0]
    torch.testing.assert_close(variance, (x - means).square().mean(), rtol=1e-3, atol=0)


def test_a_parameter_that_is_not_finite_is_named():
    class Broken(Location):
        start = torch.inf

    with pytest.raises(fit.DivergenceError, match=r"parameter 'model\.pyro_params\.x/loc' is not"):
        fitted(data(), Model(Broken()), num_epochs=1)


def test_what_modules_hold_stays_with_them(stock_pyro):
    """Parameters of a module are in Pyro's store too; a copy of the module is fitted, not what the store has."""

    class WithModules(Location):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, D).double()
            self.spread = PyroParam(torch.ones(D, dtype=torch.float64), constraint=constraints.positive)

        def forward(self, x=None, *, num_data=1):
            net = pyro.module("net", self.net)
            shift = pyro.param("shift", torch.zeros((), dtype=torch.float64))
            with pyro.plate("data", num_data if x is None else len(x), dim=-1):
                trivial(x, num_data)
                loc = net(torch.ones(1, dtype=torch.float64)) + shift
                return pyro.sample("x", dist.Normal(loc, self.spread).to_event(1), obs=x)

    model, x, other = Model(WithModules()), data(), data(1.5)
    stock(model, x)
    torch.testing.assert_close(evaluate.elbo(model, x, 2), log_p(x, *moments(x)), rtol=0, atol=2e-2)
    result = fitted(other, model)
    torch.testing.assert_close(evaluate.elbo(result.model, other, 2), log_p(other, *moments(other)), rtol=0, atol=2e-2)
    torch.testing.assert_close(evaluate.elbo(model, x, 2), log_p(x, *moments(x)), rtol=0, atol=2e-2)
    assert [name for name in result.model.state_dict() if "pyro_params" in name] == ["model.pyro_params.shift"]


class OwnNumbers(Program):
    """q(z_n) = Normal(loc_n, ½^½), with a number for every datum rather than an encoder."""

    def forward(self, x, *, num_data=1):
        loc = pyro.param("loc_of_each", lambda: torch.zeros(len(x), dtype=torch.float64))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 0.5**0.5))


class Steady(Program):
    """z_n ~ Normal(0, 1), x_n ~ Normal(z_n, 1), whose posterior is Normal(x_n / 2, ½^½)."""

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            return pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


class WithoutEncoder(LatentVariableModel):
    data_shape = (1,)

    def __init__(self):
        super().__init__()
        self.model, self.guide = Steady(), OwnNumbers()

    def initialize(self, x):
        pass


@pytest.mark.parametrize("way", [False, "graph"])
def test_a_number_for_every_datum_stays_with_its_datum(way):
    """Where a batch is all of the data, as it must be for such a guide."""
    x = torch.arange(-3.0, 4.0, dtype=torch.float64)[:, None]
    options = {"num_epochs": 300, "batch_size": len(x), "lr": 0.05, "schedule": "cosine"}
    model = fit.svi(WithoutEncoder(), x, **options, execution=Execution(compile=way)).model
    # in another order every number would go to the mean of the data, 0, which costs the first datum 2.25 nats
    exact = dist.Normal(0.0, 2**0.5).log_prob(x[:, 0])
    torch.testing.assert_close(evaluate.elbo(model, x, 1000), exact, rtol=0, atol=0.75)
