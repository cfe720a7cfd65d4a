"""Programs whose Python state changes: a fit by graphs gives what the interpreter gives, whatever changes it."""

import contextlib
import dataclasses
import functools
import itertools
import random
import re
import time
import types
import warnings
import weakref

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import VAE, Execution, evaluate, fit
from pyrovae.evaluate.likelihood import tiles
from pyrovae.fit.steps import captured

D, N = 4, 60
EPOCHS = 24
NOISE = 0.1


@pytest.fixture
def x():
    return torch.randn(N, D, dtype=torch.float64) @ torch.randn(D, D, dtype=torch.float64)


class Encoder(nn.Module):
    """q(z|x) with some noise added to its scale, which every program below sets in a way of its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, 4, dtype=torch.float64)

    def noise(self, x):
        return 0.0

    def forward(self, x):
        loc, log_scale = self.net(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp() + 0.01 + self.noise(x)).to_event(1)


# ---------------------------------------------------------- what changes now and then is captured again, without a word


class Attribute(Encoder):
    level = 0.1

    def noise(self, x):
        return self.level


@dataclasses.dataclass
class Settings:
    level: float = 0.1


class ObjectWithin(Encoder):
    def __init__(self):
        super().__init__()
        self.settings = {"scales": [Settings()]}

    def noise(self, x):
        return self.settings["scales"][0].level


class TensorAttribute(Encoder):
    def __init__(self):
        super().__init__()
        self.level = torch.tensor(0.1)

    def noise(self, x):
        return self.level


class Array(Encoder):
    def __init__(self):
        super().__init__()
        self.level = np.array([0.1])

    def noise(self, x):
        return torch.tensor(self.level)


class Global(Encoder):
    def noise(self, x):
        return level_by_global()


def level_by_global():
    return NOISE


class OnClass(Encoder):
    level = 0.1

    def noise(self, x):
        return OnClass.level


class Levels:
    """A namespace, with another in it, as configurations are."""

    level = 0.1

    class Nested:
        level = 0.1


class ByNamespace(Encoder):
    def __init__(self):
        super().__init__()
        self.levels = Levels

    def noise(self, x):
        return getattr(self.levels, "level") + Levels.Nested.level  # noqa: B009


class ByModule(Encoder):
    def noise(self, x):
        return [configuration][0].level


configuration = types.ModuleType("configuration")


def of_function():
    return of_function.level


class ByFunction(Encoder):
    def noise(self, x):
        return of_function()


def scaled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return cell["level"] * function(*args)

    return wrapper


class Decorated(Encoder):
    @scaled
    def noise(self, x):
        return 1.0


def holding(level):
    def get():
        return level

    def put(value):
        nonlocal level
        level = value

    return get, put


one_level, other_level = holding(0.1), holding(0.2)


class TwoOfOneFactory(Encoder):
    def noise(self, x):
        return one_level[0]() + other_level[0]()


class ScaledNormal(dist.Normal):
    """A distribution of one's own, whose methods only Pyro calls."""

    def expand(self, shape, _instance=None):
        return ScaledNormal(self.loc.expand(shape), self.scale.expand(shape))

    def log_prob(self, value):
        return (1 + NOISE) * super().log_prob(value)


class OwnDistribution(Encoder):
    def forward(self, x):
        loc, log_scale = self.net(x).chunk(2, -1)
        return ScaledNormal(loc, log_scale.exp() + 0.01).to_event(1)


class Reversed(torch.autograd.Function):
    """Its level enters the gradients alone."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return NOISE * gradient


class ByGradient(Encoder):
    def forward(self, x):
        loc, log_scale = Reversed.apply(self.net(x)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp() + 0.01).to_event(1)


class Unhelpful:
    """A configuration that finds everything, or nothing, in a way of its own."""

    def __init__(self, **levels):
        self.__dict__["levels"] = levels

    def __getattr__(self, name):
        return self.levels[name]


unhelpful = [Unhelpful(level=0.1)]


class ByUnhelpful(Encoder):
    def noise(self, x):
        return unhelpful[0].level


cell = {"level": 0.1}
elbo = pyro.infer.Trace_ELBO()


def with_closure():
    mutable = cell

    class Closure(Encoder):
        def noise(self, x):
            return mutable["level"]

    return Closure()


class Function(Encoder):
    def __init__(self):
        super().__init__()
        self.function = lambda x: 0.1

    def noise(self, x):
        return self.function(x)


class Buffer(Encoder):
    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.tensor(0.1))

    def noise(self, x):
        return self.level


def set_global(level):
    global NOISE
    NOISE = level


def freeze(model):
    model.encoder.net.bias.requires_grad_(False)


def swap(model):
    with torch.no_grad():
        model.decoder.body[1] = nn.Tanh()


def hook_on_gradient(model):
    model.encoder.net.weight.register_hook(lambda gradient: 0 * gradient)


def hook(model):
    model.encoder.net.register_forward_hook(lambda module, inputs, output: 0.9 * output)


now_and_then = {
    "an attribute": (Attribute, lambda model: setattr(model.encoder, "level", 0.3)),
    "an object in containers": (
        ObjectWithin,
        lambda model: setattr(model.encoder.settings["scales"][0], "level", 0.3),
    ),
    "a tensor that is no buffer": (
        TensorAttribute,
        lambda model: setattr(model.encoder, "level", torch.tensor(0.3)),
    ),
    "a buffer that is replaced": (Buffer, lambda model: setattr(model.encoder, "level", torch.tensor(0.3))),
    "a buffer in place": (Buffer, lambda model: model.encoder.level.fill_(0.3)),
    "an array in place": (Array, lambda model: model.encoder.level.fill(0.3)),
    "a function": (Function, lambda model: setattr(model.encoder, "function", lambda x: 0.3)),
    "a global of a function that is called": (Global, lambda model: set_global(0.3)),
    "an attribute of the class": (OnClass, lambda model: setattr(OnClass, "level", 0.3)),
    "a dict in a closure": (with_closure, lambda model: cell.update(level=0.3)),
    "a module": (Encoder, swap),
    "a hook": (Encoder, hook),
    "a hook on a gradient": (Encoder, hook_on_gradient),
    "a class as a namespace": (ByNamespace, lambda model: setattr(Levels, "level", 0.3)),
    "a class in a class": (ByNamespace, lambda model: setattr(Levels.Nested, "level", 0.3)),
    "a module in a list": (ByModule, lambda model: setattr(configuration, "level", 0.3)),
    "an attribute of a function": (ByFunction, lambda model: setattr(of_function, "level", 0.3)),
    "what a decorator reads": (Decorated, lambda model: cell.update(level=0.3)),
    "one of two closures of one name": (TwoOfOneFactory, lambda model: one_level[1](0.3)),
    "what only Pyro calls": (OwnDistribution, lambda model: set_global(0.3)),
    "what only the gradient needs": (ByGradient, lambda model: set_global(0.3)),
    "an object with attributes of its own": (ByUnhelpful, lambda model: unhelpful[0].levels.update(level=0.3)),
    "a parameter that is frozen": (Encoder, freeze),
}


@pytest.fixture
def replays(monkeypatch):
    """The number of replays in the last epoch of every fit by graphs."""
    numbers = []
    check = captured.Captured.check

    def counting(self, compare):
        numbers.append(self._replays() - self.replays)
        check(self, compare)

    monkeypatch.setattr(captured.Captured, "check", counting)
    return numbers


def two_fits(make, x, num_shards=None, **options):
    """The fit by the interpreter, and the one by graphs, with what was warned."""
    fits = []
    for way in (False, "graph"):
        _reset()
        torch.manual_seed(0)
        model = VAE(2, D, hidden=(8,), encoder=make()).double()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {"num_epochs": EPOCHS, "batch_size": 20, "lr": 0.01, **options}
            fits.append(fit.svi(model, x, **options, execution=Execution(compile=way, num_shards=num_shards)))
    return *fits, [str(each.message) for each in caught if each.category is fit.FitWarning]


def _reset():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    set_global(0.1)
    OnClass.level = 0.1
    Levels.level = Levels.Nested.level = configuration.level = of_function.level = 0.1
    one_level[1](0.1)
    unhelpful[0].levels.update(level=0.1)
    cell.update(level=0.1)
    hidden.value = 0.1
    elbo.num_particles = 1
    Default.noise.__defaults__[0][0] = 0


def assert_equal_fits(one, other):
    torch.testing.assert_close(one.trace, other.trace, rtol=1e-7, atol=0)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", now_and_then)
def test_what_a_callback_changes_once_is_captured_again(name, x, replays):
    make, change = now_and_then[name]

    def callback(epoch, model):
        if epoch == 12:
            change(model)

    plain, by_graph, warned = two_fits(make, x, callback=callback)
    assert_equal_fits(plain, by_graph)
    assert warned == []
    assert replays[-1] == 3
    unchanged, *_ = two_fits(make, x)
    assert not torch.allclose(unchanged.trace[15:], plain.trace[15:], rtol=1e-5)  # the change is one


# ------------------------------------------------------------------------ what keeps changing is interpreted, and named


class Counter(Encoder):
    calls = 0

    def noise(self, x):
        self.calls += self.training
        return 0.5 / (1 + self.calls // 7)


class LaterCounter(Counter):
    """It counts from the time on that somebody tells it to."""

    counts = False

    def noise(self, x):
        return super().noise(x) if self.counts else 0.1


class PythonRandom(Encoder):
    def noise(self, x):
        return 0.3 if random.random() < 0.1 else 0.0


class NumpyRandom(Encoder):
    def noise(self, x):
        return float(np.random.random())  # noqa: NPY002


class OwnRandom(Encoder):
    def __init__(self):
        super().__init__()
        self.random = random.Random(0)

    def noise(self, x):
        return self.random.random()


class ReplacedBuffer(Encoder):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def noise(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.mean.abs()


class RunningMean(Encoder):
    """The same in an attribute that is no buffer."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros((), dtype=torch.float64)

    def noise(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.mean.abs()


class Default(Encoder):
    def noise(self, x, calls=[0]):  # noqa: B006
        calls[0] += 1
        return 0.01 * (calls[0] % 10)


class Shrinking(Encoder):
    def __init__(self):
        super().__init__()
        self.levels = [0.001 * each for each in range(1000)]

    def noise(self, x):
        return self.levels.pop()


class Clock(Encoder):
    def noise(self, x):
        return 0.0 * time.perf_counter()


class Iterating(Encoder):
    """What no copy of a model can take along stands in a closure."""


def with_iterator():
    levels = (0.001 * each for each in itertools.count())

    class Iterating(Encoder):
        def noise(self, x):
            return next(levels)

    return Iterating()


def with_nonlocal():
    calls = 0

    class Counting(Encoder):
        def noise(self, x):
            nonlocal calls
            calls += 1
            return 0.01 * (calls % 5)

    return Counting()


class Evaluated(Encoder):
    def noise(self, x):
        return eval("NOISE")


owner = nn.Identity()
owner.level = 0.1


class Referring(Encoder):
    def __init__(self):
        super().__init__()
        self.owner = weakref.ref(owner)

    def noise(self, x):
        return self.owner().level


def anneal(epoch, model):
    model.encoder.level = 0.02 * epoch


def start_to_count(epoch, model):
    model.encoder.counts = epoch >= 10


kept = {
    "a callback that anneals": (Attribute, {"callback": anneal}, r"`VAE\.guide\.encoder\.level` keeps changing"),
    "a schedule by a counter": (Counter, {}, r"every call of it changes `VAE\.guide\.encoder\.calls`"),
    "a counter that starts later": (
        LaterCounter,
        {"callback": start_to_count},
        r"`VAE\.guide\.encoder\.calls`",
    ),
    "a branch by Python's random": (PythonRandom, {}, "it draws from the random state of Python or NumPy"),
    "noise by NumPy": (NumpyRandom, {}, "it draws from the random state of Python or NumPy"),
    "a generator of its own": (OwnRandom, {}, r"every call of it changes `VAE\.guide\.encoder\.random"),
    "a buffer that is replaced": (ReplacedBuffer, {}, r"every call of it changes `VAE\.guide\.encoder\.mean`"),
    "a running mean that is no buffer": (RunningMean, {}, r"every call of it changes `VAE\.guide\.encoder\.mean`"),
    "a mutable default": (Default, {}, r"every call of it changes `defaults of Default\.noise"),
    "a list that is used up": (Shrinking, {}, r"every call of it changes `VAE\.guide\.encoder\.levels"),
    "a clock": (Clock, {}, r"Clock\.noise reads `time`, which comes from outside"),
    "an iterator in a closure": (with_iterator, {}, "`levels in .* is a generator, which does not show its state"),
    "what is named in a text": (Evaluated, {}, r"Evaluated\.noise reads `eval`, which comes from outside"),
    "a weak reference": (
        Referring,
        {},
        r"`VAE\.guide\.encoder\.owner` is a (ref|ReferenceType|weakref), which does not show",
    ),
    "a counter in a closure": (with_nonlocal, {}, "every call of it changes `calls in "),
}


@pytest.mark.parametrize("name", kept)
def test_what_keeps_changing_is_interpreted_with_one_warning(name, x):
    make, options, reason = kept[name]
    plain, by_graph, warned = two_fits(make, x, **options)
    assert_equal_fits(plain, by_graph)
    (message,) = warned
    assert "so Pyro interprets the model at every step" in message
    assert re.search(reason, message)


# --------------------------------------------------------------------------- what is overwritten before it is no state


class Cache(Encoder):
    """It keeps what it has calculated last, and calculates it anew."""

    def noise(self, x):
        self.last = {"hidden": self.net(x).square().mean(), "shape": tuple(x.shape)}
        return 0.1 * self.last["hidden"]


class InPlace(Encoder):
    """A running mean that is no buffer, but is written in place: a graph writes it, too."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros((), dtype=torch.float64)

    def noise(self, x):
        return self.mean.mul_(0.9).add_(0.1 * x.mean()).abs().clone()


class MaskBySize(Encoder):
    """Masks that are made once for every size of batch."""

    def __init__(self):
        super().__init__()
        self.masks = {}

    def noise(self, x):
        if len(x) not in self.masks:
            self.masks[len(x)] = torch.arange(len(x))[:, None] % 2 * 0.1
        return self.masks[len(x)]


class Autoregressive(nn.Module):
    """A flow, whose transform keeps what it has calculated last."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, 4, dtype=torch.float64)
        self.transform = dist.transforms.affine_autoregressive(2, hidden_dims=[8]).double()

    def forward(self, x):
        loc, log_scale = self.net(x).chunk(2, -1)
        return dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()).to_event(1), [self.transform])


class Log:
    """Of one's own, with a clock that no program reads."""

    def __init__(self):
        self.rows, self.began = [], time.time()

    def write(self, row):
        self.rows.append((time.time() - self.began, row))


class Logging(Encoder):
    """What stands by, but is not used in the program, is no state, either."""

    def __init__(self):
        super().__init__()
        self.log = Log()


@pytest.mark.parametrize("make", [Cache, InPlace, MaskBySize, Autoregressive, Logging])
def test_a_cache_is_no_state(make, x, replays):
    plain, by_graph, warned = two_fits(make, x)
    assert_equal_fits(plain, by_graph)
    assert warned == []
    assert replays[-1] == 3


# ------------------------------------------------------------------------------------------------------ the second net


class Hidden:
    """A number that does not show."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return "nothing to see"


hidden = Hidden(0.1)


class OutOfSight(Encoder):
    def noise(self, x):
        return hidden.value


def test_a_graph_that_is_out_of_date_is_found_by_the_interpreter_and_the_fit_goes_back(x):
    def callback(epoch, model):
        hidden.value = 0.1 if epoch < 12 else 0.3

    _, by_graph, warned = two_fits(OutOfSight, x, callback=callback)
    (message,) = warned
    assert "the graph of the loss was out of date after epoch 24: its graph is" in message
    assert "the fit and its model went back to epoch 0, from where Pyro interprets the model at every step" in message
    assert len(by_graph.trace) == EPOCHS
    torch.manual_seed(0)
    hidden.value = 0.3  # as it was when the fit went back
    model = VAE(2, D, hidden=(8,), encoder=OutOfSight()).double()
    options = {"num_epochs": EPOCHS, "batch_size": 20, "lr": 0.01, "callback": callback}
    assert_equal_fits(fit.svi(model, x, **options, execution=Execution(compile=False)), by_graph)


def test_what_was_frozen_since_is_trained_again_when_the_fit_goes_back(x):
    def callback(epoch, model):
        hidden.value = 0.1 if epoch < 12 else 0.3
        model.decoder.requires_grad_(epoch < 6)

    _, by_graph, warned = two_fits(OutOfSight, x, callback=callback)
    assert "the fit and its model went back to epoch 0" in warned[0]
    torch.manual_seed(0)
    hidden.value = 0.3  # as it was when the fit went back
    model = VAE(2, D, hidden=(8,), encoder=OutOfSight()).double()
    options = {"num_epochs": EPOCHS, "batch_size": 20, "lr": 0.01, "callback": callback}
    assert_equal_fits(fit.svi(model, x, **options, execution=Execution(compile=False)), by_graph)


def changing_at_step_50():
    """A schedule that changes the model, which it has from a callback."""
    models = []

    def schedule(optimizer, num_steps):
        def rate(step):
            if step == 50:
                models[-1].encoder.level = 0.3
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    return {"schedule": schedule, "callback": lambda epoch, model: models.append(model)}


def test_what_changes_between_two_steps_is_found_after_the_epoch(x):
    plain, by_graph, warned = two_fits(Attribute, x, **changing_at_step_50())
    (message,) = warned
    assert "was out of date after epoch 17: `VAE.guide.encoder.level` has changed between two steps" in message
    assert_equal_fits(plain, by_graph)


def test_a_fit_that_went_back_counts_the_steps_of_a_warm_up_anew(x):
    options = {"elbo": fit.BetaELBO(fit.LinearWarmup(100)), "valid": x[:7], "patience": 1000, **changing_at_step_50()}
    plain, by_graph, warned = two_fits(Attribute, x, **options)
    assert len(warned) == 1
    assert_equal_fits(plain, by_graph)
    torch.testing.assert_close(plain.valid_trace, by_graph.valid_trace, rtol=1e-7, atol=0)


def test_shards_of_a_fit_that_went_back_draw_as_if_it_had_not(x):
    plain, by_graph, warned = two_fits(Attribute, x, num_shards=2, **changing_at_step_50())
    assert len(warned) == 1
    assert_equal_fits(plain, by_graph)


def test_an_elbo_that_a_callback_changes_is_captured_again(x, replays):
    def callback(epoch, model):
        elbo.num_particles = 1 + epoch // 12

    plain, by_graph, warned = two_fits(Encoder, x, elbo=elbo, callback=callback)
    assert_equal_fits(plain, by_graph)
    assert warned == []
    assert replays[-1] == 3


def test_a_loop_of_ones_own_by_graphs_gives_what_the_interpreter_gives(x):
    """Here anything may change between two calls."""
    torch.manual_seed(0)
    model = VAE(2, D, hidden=(8,), encoder=Attribute()).double()
    compiled = fit.CompiledELBO(model.model, model.guide)
    interpreted = pyro.infer.Trace_ELBO()(model.model, model.guide)
    with pyro.get_param_store().scope():
        for call in range(40):
            if call == 30:
                model.encoder.level = 0.3
            torch.manual_seed(call)
            expected = interpreted(x)
            torch.manual_seed(call)
            torch.testing.assert_close(compiled(x), expected.detach(), rtol=1e-12, atol=0)
        model.encoder.level = 0.4
        with pytest.raises(fit.NotStatic, match=r"encoder\.level` keeps changing"):
            compiled(x)


# ----------------------------------------------------------------------------------------------------- evaluators


@pytest.mark.parametrize("make", [Counter, PythonRandom, ReplacedBuffer, RunningMean, Default, with_nonlocal, Cache])
def test_an_evaluator_gives_what_the_interpreter_gives(make, x, monkeypatch):
    """Here the decoder has the state, since it is what evaluators run tile by tile."""
    values = []
    for most in (0, torch.inf):
        monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", most)
        monkeypatch.setattr(tiles, "FEW", 1)
        _reset()
        torch.manual_seed(0)
        noise = make()
        noise.net = nn.Linear(2, D, dtype=torch.float64)

        class Decoder(nn.Module):
            def __init__(self, noise=noise):
                super().__init__()
                self.within = noise

            def forward(self, z):
                return dist.Normal(self.within.net(z), 1 + self.within.noise(z)).to_event(1)

        model = VAE(2, encoder=Encoder(), decoder=Decoder())
        values.append(evaluate.log_weights(model, x, 10, chunk_size=5))
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------ autocast around a fit


class OwnAutocast(Encoder):
    """It asks for bfloat16 itself."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            loc, log_scale = self.net(x).float().chunk(2, -1)
        return dist.Normal(loc, log_scale.exp() + 0.01).to_event(1)


@pytest.mark.parametrize("precision", ["full", "bf16"])
@pytest.mark.parametrize("make", [Encoder, OwnAutocast])
@pytest.mark.parametrize("way", [False, "graph"])
def test_autocast_around_a_fit_and_an_evaluation_changes_nothing(make, precision, way, x):
    torch.manual_seed(0)
    model = VAE(2, D, hidden=(8,), encoder=make().float())
    values = []
    for around in (contextlib.nullcontext(), *(torch.autocast("cpu", torch.bfloat16, each) for each in (True, False))):
        with around:
            result = fit.svi(model, x.float(), num_epochs=4, batch_size=20, execution=Execution(way, precision))
            values.append(evaluate.log_weights(result.model, x.float(), 10))
    assert all(torch.equal(values[0], each) for each in values[1:])
    assert torch.is_autocast_cache_enabled()
