"""One piece of work at a time: Pyro's handlers and parameter store, and torch's random state, are one for a process.

So fits and evaluators in several threads take turns, and each gives the numbers that it gives by itself.  A program
that another thread runs in stock Pyro meanwhile is beyond this lock.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pyro
import torch
from torch import nn

LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """A block that no other thread enters meanwhile, with a parameter store of its own, in full precision.

    Autocast keeps the casts of weights until its outermost block ends, however often the weights change meanwhile; so a
    program that asks for autocast itself has none kept.
    """
    keeps = torch.is_autocast_cache_enabled()
    with LOCK, pyro.get_param_store().scope(), ExitStack() as stack:
        for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            stack.enter_context(torch.autocast(device, enabled=False))
        try:
            torch.set_autocast_cache_enabled(False)
            yield
        finally:
            torch.set_autocast_cache_enabled(keeps)


@contextmanager
def evaluating(*programs: nn.Module) -> Iterator[None]:
    """A block, alone, in which modules are in evaluation mode; each then has its own mode back, and its buffers."""
    modules = list(dict.fromkeys(module for program in programs for module in program.modules()))
    modes = [(module, module.training) for module in modules]
    buffers = [(each._buffers, dict(each._buffers)) for each in modules]
    values = [(each, each.clone()) for _, own in buffers for each in own.values() if each is not None]
    try:
        with alone():
            for program in programs:
                program.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        for current, own in buffers:
            current.update(own)
        with torch.no_grad():
            for each, value in values:
                if not torch.equal(each, value):
                    each.copy_(value)
