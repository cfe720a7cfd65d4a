"""What code can read besides its inputs is found wherever it stands; what it cannot read is not looked at."""

import collections
import datetime
import enum
import functools
import random
import threading
import time
import types

import numpy as np
import pytest
import torch
from torch import nn

from pyrovae import VAE, GaussianMixture
from pyrovae.engine import watch
from pyrovae.engine.isolation import alone
from pyrovae.engine.watch import PythonState, Watched

NUMBER = 1
UNUSED = [1]
SETTINGS = types.SimpleNamespace(level=1)
module_of_ours = types.ModuleType("module_of_ours")
module_of_ours.level, module_of_ours.other = 1, 1


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Slots:
    __slots__ = ("level",)

    def __init__(self):
        self.level = 1


@functools.cache
def cached():
    return NUMBER


def reads_a_number():
    return NUMBER


class Module(nn.Module):
    def __init__(self, value=None):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.step(x)

    def step(self, x):
        return x * reads_a_number() * SETTINGS.level * module_of_ours.level

    def never_called(self):
        return UNUSED


def set_number(value):
    global NUMBER
    NUMBER = value


def changes(value, change):
    """The places that change in a module with this value."""
    module = Module(value)
    before = PythonState(module)
    assert list(PythonState(module).changed_from(before)) == []
    change(value)
    return list(PythonState(module).changed_from(before))


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, [2]], lambda value: value[1].append(3)),
        ({"a": {"b": 1}}, lambda value: value["a"].update(b=2)),
        ({1, 2}, lambda value: value.add(3)),
        (collections.deque([1]), lambda value: value.rotate() or value.append(2)),
        (collections.Counter("a"), lambda value: value.update("b")),
        (types.SimpleNamespace(colour=Colour.RED), lambda value: setattr(value, "colour", Colour.BLUE)),
        (Slots(), lambda value: setattr(value, "level", 2)),
        (random.Random(0), lambda value: value.random()),
        (np.random.default_rng(0), lambda value: value.random()),
        (torch.Generator(), lambda value: torch.rand((), generator=value)),
        (np.zeros(3), lambda value: value.fill(1)),
        (functools.partial(max, [1]), lambda value: value.args[0].append(2)),
        ((lambda cell: lambda: cell)([1]), lambda value: value().append(2)),
        (types.MethodType(lambda self: self, [1]), lambda value: value().append(2)),
        (nn.Sequential(nn.Dropout(0.1)), lambda value: setattr(value[0], "p", 0.2)),
        (nn.BatchNorm1d(1), lambda value: setattr(value, "running_mean", torch.zeros(1))),
        (nn.Sequential(nn.ReLU()), lambda value: value.append(nn.Tanh())),
        ([float("nan"), 1.0], lambda value: value.reverse()),
        (torch.distributions.Normal(0.0, 1.0), lambda value: setattr(value, "_validate_args", None)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_change_is_found_wherever_it_is(value, change):
    assert changes(value, change)


@pytest.mark.parametrize(
    "value", [{"x": float("nan")}, "text", b"bytes", slice(2), range(3), torch.float32, None, threading.Lock(), cached]
)
def test_what_stays_is_no_change(value):
    assert changes(value, lambda value: None) == []


def test_of_globals_what_the_code_names_is_watched_and_nothing_else():
    module = Module()
    before = PythonState(module)
    set_number(2)
    assert list(PythonState(module).changed_from(before)) == ["NUMBER"]
    set_number(1)
    SETTINGS.level = 2
    assert list(PythonState(module).changed_from(before)) == ["SETTINGS.level"]
    SETTINGS.level = 1
    module_of_ours.level = 2
    assert list(PythonState(module).changed_from(before)) == ["module_of_ours.level"]
    module_of_ours.level = 1
    module_of_ours.other = 2
    UNUSED.append(2)
    assert list(PythonState(module).changed_from(before)) == []


def test_a_function_behind_a_cache_is_seen():
    before = PythonState(cached)
    set_number(2)
    assert list(PythonState(cached).changed_from(before)) == ["NUMBER"]
    set_number(1)


def test_code_that_looks_outside_is_named():
    class Late(nn.Module):
        def forward(self, x):
            import os

            return x * len(os.environ) * time.time() * datetime.datetime.now().year * (open is None)

    unknown = PythonState(Late()).unknown
    for name in ("time", "datetime", "os", "open"):
        assert any(f"reads `{name}`, which comes from outside" in each for each in unknown)


def test_an_iterator_does_not_show_how_far_it_is():
    assert "which does not show its state" in PythonState(Module(iter(each for each in [1, 2]))).unknown[0]
    with open(__file__, encoding="utf-8") as file:
        assert PythonState(Module(file)).unknown == []


def test_what_is_too_much_to_watch_is_said():
    nested: list = []
    for _ in range(10_000):
        nested = [nested]
    assert "more state in reach than can be watched" in PythonState(Module(nested)).unknown[0]


def test_what_refers_to_itself_is_watched():
    one: list = [1]
    one.append(one)
    assert changes(one, lambda value: value.append(2))


def test_a_tensor_in_the_place_of_another_is_a_change_where_the_other_was_read():
    module = Module(torch.ones(1))
    first = module.value
    before = PythonState(module)
    module.value = torch.zeros(1)
    now = PythonState(module)
    assert list(now.changed_from(before)) == []
    assert list(now.changed_from(before, read=[first])) == ["Module.value"]


def test_a_number_in_the_place_of_a_tensor_is_a_change():
    module = Module(torch.ones(2))
    before = PythonState(module)
    module.value = 1.0
    assert list(PythonState(module).changed_from(before)) == ["Module.value"]


def test_models_of_this_package_have_no_state_that_a_call_changes():
    for model, x in ((VAE(2, 3, hidden=(4,)), torch.randn(5, 3)), (GaussianMixture(2, 3), torch.randn(5, 3).double())):
        watched = Watched(model)
        for _ in range(2):
            with alone():
                model.guide(x)
            watched.settle()
        assert watched.changed == []
        assert watched.state.unknown == []


def test_code_of_libraries_is_not_read():
    state = PythonState(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), torch.optim.Adam, np.mean)
    assert not any(isinstance(place, str) and "defaults" in place for place in state.values)


def test_the_random_states_of_python_and_numpy_are_two():
    before = watch.random_state()
    random.random()
    between = watch.random_state()
    np.random.random()  # noqa: NPY002
    assert len({before, between, watch.random_state()}) == 3
