"""Log-densities of a program at given latents, tile after tile of (particle, datum) pairs.

Where there are many tiles the program is captured as a graph, which on a CPU is compiled when even that pays: Pyro's
handlers are then run for the first tiles alone, and the arithmetic of a likelihood is done in one pass over memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.engine.capture import NotStatic, compiler_found
from pyrovae.engine.replay import Backend, Replayed
from pyrovae.models.base import LatentVariableModel, Program

DECODED_FLOATS = 2**21  # numbers in a decoded tile, 8 MiB in float32
FEW = 20  # tiles of a shape that are not worth a graph of their own
TILES_TO_CAPTURE = 1000  # by then graphs have saved what their captures take, a second or two
FLOATS_TO_COMPILE = 3e9  # decoded numbers; by then Inductor has saved the some ten seconds that it takes


class Tiles:
    """One function of tensors for tile after tile, captured where there are enough of them to pay for it.

    A function that cannot be captured is called as it is, with the same result.

    Args:
        num_pairs: How many (particle, datum) pairs there will be in all of them.
        pairs: How many are in one, at most.
        floats: What one pair costs, in decoded numbers.
    """

    def __init__(self, num_pairs: int, pairs: int, floats: int) -> None:
        self.num_floats = num_pairs * floats
        self._seen: Counter[Hashable] = Counter()
        self._replayed: dict[Hashable, Replayed] | None = {} if num_pairs >= TILES_TO_CAPTURE * pairs else None

    def values(
        self, function: Callable[..., Sequence[Tensor]], tensors: Iterable[Tensor], key: Hashable = None
    ) -> Sequence[Any]:
        """What the function gives for one tile.

        Args:
            function: Draws nothing, changes nothing, depends on its tensors and on parameters alone, and is the same
                for every tile with this ``key``.
            tensors: What it is called with.
            key: What else it depends on.
        """
        tensors = [each.contiguous() for each in tensors]
        shapes = (key, *(each.shape for each in tensors))
        self._seen[shapes] += 1
        if self._replayed is None or self._seen[shapes] <= FEW:
            return function(*tensors)
        if key not in self._replayed:
            self._replayed[key] = Replayed(function, backend=self._backend(tensors[0].device))
        try:
            values = self._replayed[key](*tensors)
        except NotStatic:
            self._replayed = None
            return function(*tensors)
        if any(each.isnan().any() for each in values if each is not None):
            return function(*tensors)  # which may have something to say of it
        return values

    def _backend(self, device: torch.device) -> Backend:
        pays = device.type == "cpu" and self.num_floats >= FLOATS_TO_COMPILE
        return "inductor" if pays and compiler_found() else "graph"


class Scorer:
    """:func:`score_latents` of one model for many tiles, without gradients.

    Args:
        model: The program.
        tiles: How many tiles there are.
    """

    def __init__(self, model: Program, tiles: Tiles) -> None:
        self.model, self.tiles = model, tiles

    def __call__(
        self, inputs: tuple[Tensor, ...], values: dict[str, Tensor], num_particles: int
    ) -> tuple[Tensor, Tensor]:
        """As :func:`score_latents`."""
        names, num_inputs = tuple(values), len(inputs)

        def score(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            given = dict(zip(names, tensors[num_inputs:], strict=True))
            return score_latents(self.model, tensors[:num_inputs], given, num_particles)

        likelihood, prior = self.tiles.values(score, (*inputs, *values.values()), (names, num_particles))
        return likelihood, prior


def score_latents(
    model: Program, inputs: tuple[Tensor, ...], values: dict[str, Tensor], num_particles: int
) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) at the given latents, each (S, n); nothing is drawn, and gradients flow."""
    x = inputs[0]
    with pyro.plate("particles", num_particles, dim=-2):
        scored = poutine.trace(poutine.condition(model, values)).get_trace(*inputs)
    sites = [site for site in scored.nodes.values() if site["type"] == "sample" and not _is_plate(site)]
    missing = [site["name"] for site in sites if not site["is_observed"]]
    if missing:
        raise ValueError(
            f"`guide` must sample every latent site of the model, got none for {missing}; "
            "pass exact_guide(model), or build the model with an encoder."
        )
    likelihood = total((site for site in sites if site["name"] not in values), num_particles, x)
    return likelihood, total((site for site in sites if site["name"] in values), num_particles, x)


def total(sites: Any, num_particles: int, x: Tensor) -> Tensor:
    """Sum of the sites' log-densities, (S, n)."""
    result = x.new_zeros(num_particles, len(x))
    for site in sites:
        log_prob = site["fn"].log_prob(site["value"])
        if log_prob.ndim != 2 or log_prob.shape[1] != len(x):
            raise ValueError(
                f"`model` must have every site inside the plate over data, got site {site['name']!r} with log-densities"
                f" of shape {tuple(log_prob.shape)} for ({num_particles}, {len(x)}) particles and data."
            )
        result = result + log_prob
    return result


def _is_plate(site: Any) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def is_latent(site: Any) -> bool:
    """Whether a node of a trace is a random variable that is not observed."""
    return site["type"] == "sample" and not site["is_observed"] and not _is_plate(site)


def floats_per_pair(model: LatentVariableModel, x: Tensor) -> int:
    """Numbers that the decoder gives for one particle and datum."""
    return model.decoded_floats or x[0].numel()


def pairs_at_once(model: LatentVariableModel, x: Tensor, chunk_size: int | None) -> int:
    """(particle, datum) pairs to score at once: ``chunk_size``, or what holds about 8 MiB in float32.

    Raises:
        ValueError: If ``chunk_size`` is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    return chunk_size or max(1, DECODED_FLOATS // floats_per_pair(model, x))
