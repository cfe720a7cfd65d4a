"""Distributions that a program stores, such as a prior: their tensors are no parameters, and torch knows of none."""

import copy
from collections.abc import Iterator
from typing import Any, Self, TypeVar

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.utils import lazy_property
from torch.overrides import TorchFunctionMode

Value = TypeVar("Value")


class Detaching(TorchFunctionMode):
    """A block in which copies of tensors that were computed from others hold their values, and no gradients."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            computed, memo = args
            return memo.setdefault(id(computed), computed.detach().clone())
        return func(*args, **(kwargs or {}))


def copied(value: Value) -> Value:
    """A deep copy, in which what was computed from parameters is constant: a stored prior, the cache of a flow."""
    with Detaching():
        return copy.deepcopy(value)


class Copied:
    """A distribution whose parameters are those of a model; a copy has their values, and trains nothing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = type(self).__new__(type(self))
        with Detaching():
            vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


class MixtureOfModel(Copied, dist.MixtureSameFamily):
    """p(x) of a mixture."""


class LowRankOfModel(Copied, dist.LowRankMultivariateNormal):
    """p(x) of a linear-Gaussian model."""


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Distribution | Transform, str]]:
    """The tensors of the distributions that the modules of a model store: a name, what holds it, its attribute there.

    Those that are the model's own parameters are left out.
    """
    own = {id(parameter) for parameter in model.parameters()}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, value in list(vars(module).items()):
            for each in _tensors(f"{path}.{name}", value, seen):
                if id(getattr(each[1], each[2])) not in own:
                    yield each


def _tensors(name: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Distribution | Transform, str]]:
    parts: dict[Any, Any] = {}
    if id(value) in seen:  # a transform knows its inverse, which knows it
        return
    seen.add(id(value))
    if isinstance(value, Distribution | Transform) and not isinstance(value, nn.Module):
        parts = dict(vars(value))
        yield from ((f"{name}.{key}", value, key) for key, each in parts.items() if isinstance(each, Tensor))
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif isinstance(value, dict):
        parts = dict(value)
    for key, each in parts.items():
        yield from _tensors(f"{name}.{key}", each, seen)


def computed_from_own(model: nn.Module) -> list[str]:
    """The tensors of stored distributions that were computed, with gradients, from the model's own parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    every = ((name, getattr(holder, key)) for name, holder, key in stored_tensors(model))
    return [name for name, value in every if any(id(each) in own for each in _leaves(value))]


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """The parameters that a tensor was computed from."""
    seen, nodes = set(), [value.grad_fn]
    while nodes:
        node: Any = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                yield node.variable
            nodes += [before for before, _ in node.next_functions]


def restore_stored(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Set the tensors of stored distributions, by the names of :func:`stored_tensors`, where a model has them."""
    for name, holder, key in list(stored_tensors(model)):
        if name in values:
            setattr(holder, key, values[name].to(getattr(holder, key).device))
        elif isinstance(getattr(type(holder), key, None), lazy_property):  # a figure of earlier values
            delattr(holder, key)
