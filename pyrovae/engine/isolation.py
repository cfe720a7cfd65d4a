"""One piece of work at a time: Pyro's handlers and parameter store, and torch's random state, are one for a process.

So fits and evaluators in several threads take turns, and each gives the numbers that it gives by itself.  Threads gain
no time then; processes do, started afresh (``multiprocessing``'s "spawn"), and every model and result can be pickled.
Two things are beyond the lock: a program that another thread runs in stock Pyro meanwhile, and a callback that waits
for another thread that fits or evaluates, which waits for the callback.
"""

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import nn
from torch.nn.parameter import is_lazy

LOCK = threading.RLock()
_inside = False  # whether the thread that holds the lock is in such a block already


@contextmanager
def alone() -> Iterator[None]:
    """A block that no other thread enters meanwhile, with a parameter store of its own, in full precision.

    The caller's handlers of Pyro, a ``poutine.scale`` or a plate around the outermost such block, are set aside in it.
    The store begins with what the caller has made by ``pyro.param``; what belongs to modules comes with these.

    Autocast keeps the casts of weights until its outermost block ends, however often the weights change meanwhile; so
    the caller's is off in it, and a program that asks for autocast itself has no casts kept.  The caller's
    ``torch.inference_mode`` is off, too, whose tensors no gradient can use; ``no_grad`` stays on.
    """
    keeps, gradients = torch.is_autocast_cache_enabled(), torch.is_grad_enabled()
    with LOCK, torch.inference_mode(False), torch.set_grad_enabled(gradients), ExitStack() as stack:
        stack.enter_context(_handlers_aside())
        store = pyro.get_param_store()
        own = {name: each for name, each in store._params.items() if not isinstance(each, nn.Parameter)}
        stack.enter_context(
            store.scope({"params": own, "constraints": {name: store._constraints[name] for name in own}})
        )
        for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_autocast_cache_enabled, keeps)
        torch.set_autocast_cache_enabled(False)
        yield


@contextmanager
def _handlers_aside() -> Iterator[None]:
    """A block without the caller's handlers of Pyro; in a block within it, those that it has got by then stay."""
    global _inside
    if _inside:
        yield
        return
    stacks: list[list[Any]] = [_PYRO_STACK, _DIM_ALLOCATOR._stack]
    aside = [stack[:] for stack in stacks]
    try:
        _inside = True
        for stack in stacks:
            stack.clear()
        yield
    finally:
        _inside = False
        for stack, own in zip(stacks, aside, strict=True):
            stack[:] = own


@contextmanager
def evaluating(*programs: nn.Module) -> Iterator[None]:
    """A block, alone, in which modules are in evaluation mode; each then has its own mode back, and its buffers."""
    with alone():
        modules = list(dict.fromkeys(module for program in programs for module in program.modules()))
        modes = [(module, module.training) for module in modules]
        try:
            with _passed_by_gradients(modules), _buffers_kept(modules):
                for program in programs:
                    program.eval()
                yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def _passed_by_gradients(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A block in which parameters and buffers made under ``torch.inference_mode`` give way to copies made outside."""
    tensors: list[Any] = [own for module in modules for own in (module._parameters, module._buffers)]
    made = [(own, name, each) for own in tensors for name, each in own.items() if each is not None]
    replaced = [(own, name, each) for own, name, each in made if not is_lazy(each) and each.is_inference()]
    try:
        for own, name, each in replaced:
            own[name] = nn.Parameter(each.clone()) if isinstance(each, nn.Parameter) else each.clone()
        yield
    finally:
        for own, name, each in replaced:
            own[name] = each


@contextmanager
def _buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A block after which the buffers are those that they were, and hold what they held."""
    buffers = [(each._buffers, dict(each._buffers)) for each in modules]
    values = [
        (each, each.clone()) for _, own in buffers for each in own.values() if each is not None and not is_lazy(each)
    ]
    try:
        yield
    finally:
        for current, own in buffers:
            for name in own.keys() - {name for name, each in current.items() if each is own.get(name)}:
                current[name] = own[name]
        with torch.no_grad():
            for each, value in values:
                if not torch.equal(each, value):
                    each.copy_(value)


@contextmanager
def quiet(category: type[Warning] = Warning, message: str = "") -> Iterator[None]:
    """A block, alone, without warnings of a category that begin with a pattern; Python's filters are one for all."""
    with LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message, category)
        yield
