"""Randomness that leaves no trace: every function with a ``seed`` draws inside :func:`seeded`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyrovae.engine.isolation import LOCK


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch on every device for the time of the block, then put the caller's random state back.

    Args:
        seed: The seed; the same seed gives the same draws on one device.

    Example:
        >>> with seeded(0):
        ...     a = torch.rand(2)
        >>> with seeded(0):
        ...     b = torch.rand(2)
        >>> bool((a == b).all())
        True
    """
    with LOCK, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def random_states() -> list[Tensor]:
    """The random states of torch, on the host and every GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def set_random_states(states: list[Tensor]) -> None:
    """Put random states back."""
    torch.set_rng_state(states[0])
    for device, state in enumerate(states[1:]):
        torch.cuda.set_rng_state(state, device)


STRIDE = 0x9E3779B1  # from block to block, modulo 2³²: torch's generator on the CPU keeps no more bits of a seed
OFFSET = 0x2545F491  # so that data sampled by a seed and draws given them by the same seed have no noise in common


def block_seed(seed: int, block: int = 0) -> int:
    """The seed of the draws for a block of data: never that of the data themselves, nor of another block."""
    return (seed + OFFSET + STRIDE * block) % 2**32
