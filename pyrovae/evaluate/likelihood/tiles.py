"""Log-densities of a program at given latents, tile after tile of (particle, datum) pairs: the loop of every evaluator.

Where there are many tiles the program is captured as a graph, which on a CPU is compiled when even that pays: Pyro's
handlers are then run for the first tiles alone, and the arithmetic of a likelihood is done in one pass over memory.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.engine.capture import NotStatic, compiler_found
from pyrovae.engine.replay import Backend, Replayed
from pyrovae.engine.watch import Watched
from pyrovae.evaluate.evaluation import Evaluation, Inputs, Latents, is_latent, is_random
from pyrovae.evaluate.likelihood.plates import Plates
from pyrovae.models.base import Program
from pyrovae.models.sites import GivenData

TileFunction = Callable[[Inputs, Latents], Sequence[Any]]

DECODED_FLOATS = 2**21  # numbers in a decoded tile, 8 MiB in float32
FEW = 20  # tiles of a shape that are not worth a graph of their own
TILES_TO_CAPTURE = 1000  # by then graphs have saved what their captures take, a second or two
FLOATS_TO_COMPILE = 3e9  # decoded numbers; by then Inductor has saved the some ten seconds that it takes


class Tiles:
    """The loop over (particle, datum) pairs, tile after tile.

    Where there are enough tiles to pay for it, the function is captured, with the same result.  Then it must draw
    nothing, change nothing, depend on its tensors and on parameters alone, and be the same in every call.

    Args:
        pairs: Pairs in a tile, at most; bounds the memory, never changes the result.
        num_pairs: Pairs in all tiles together; 0 where nothing is to be captured.
        floats: What one pair costs, in decoded numbers.
        roots: What it can reach, whose Python state is watched.
    """

    def __init__(self, pairs: int, num_pairs: int = 0, floats: int = 1, roots: tuple[object, ...] = ()) -> None:
        self.pairs, self.num_floats, self.roots = pairs, num_pairs * floats, roots
        self._graphs: dict[Hashable, Replayed] | None = {} if num_pairs >= TILES_TO_CAPTURE * pairs else None
        self._seen: Counter[Hashable] = Counter()

    @classmethod
    def of(cls, run: Evaluation, num_pairs: int = 0, pairs: int | None = None, cost: int = 1) -> "Tiles":
        """Tiles of ``run.chunk_size`` pairs, or of what holds about 8 MiB in float32.

        Args:
            run: The model and the data.
            num_pairs: Pairs in all.
            pairs: The most pairs that there are at once.
            cost: What a pair costs, in units of one decoding.
        """
        floats = run.model.decoded_floats or run.inputs[0][0].numel()
        size = run.chunk_size or max(1, DECODED_FLOATS // floats)
        return cls(min(size, pairs or size), num_pairs, cost * floats, (run.model, run.guide))

    def __call__(self, function: TileFunction, inputs: Inputs, latents: Latents) -> tuple[Tensor, ...]:
        """Tensors (S, n, ...) from ``function(inputs, latents)``, called with one tile after another.

        Args:
            function: Returns tensors (S, n, ...) for the S particles and n data of a tile.
            inputs: Of n data, each (n, ...).
            latents: By name, each (S, n, ...).
        """
        num_particles, num_data = max(map(len, latents.values()), default=1), len(inputs[0])
        columns = min(self.pairs, num_data)
        rows = self.pairs // columns
        bands = []
        for i in range(0, num_particles, rows):
            band = []
            for j in range(0, num_data, columns):
                part = tuple(each[j : j + columns].contiguous() for each in inputs)
                values = {name: each[i : i + rows, j : j + columns].contiguous() for name, each in latents.items()}
                band.append(function(part, values) if self._graphs is None else self._captured(function, part, values))
            bands.append([torch.cat(parts, dim=1) for parts in zip(*band, strict=True)])
        return tuple(torch.cat(parts) for parts in zip(*bands, strict=True))

    def _captured(self, function: TileFunction, inputs: Inputs, latents: Latents) -> Sequence[Any]:
        """The same for one tile, by a graph once there have been a few of its shape."""
        names, tensors = tuple(latents), (*inputs, *latents.values())
        shapes = (names, *(each.shape for each in tensors))
        self._seen[shapes] += 1
        if self._graphs is None or self._seen[shapes] <= FEW:
            return function(inputs, latents)
        if names not in self._graphs:
            num_inputs = len(inputs)
            self._graphs[names] = Replayed(
                lambda *given: function(given[:num_inputs], dict(zip(names, given[num_inputs:], strict=True))),
                watched=Watched(*self.roots),
                backend=self._backend(inputs[0].device),
            )
        try:
            values = self._graphs[names](*tensors)
        except NotStatic:
            self._graphs = None
            return function(inputs, latents)
        if any(each.isnan().any() for each in values if each is not None):
            return function(inputs, latents)  # which may have something to say of it
        return values

    def _backend(self, device: torch.device) -> Backend:
        pays = device.type == "cpu" and self.num_floats >= FLOATS_TO_COMPILE
        return "inductor" if pays and compiler_found() else "graph"


def log_densities(program: Program, inputs: Inputs, latents: Latents, plates: Plates) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) of a program at given latents, each (S, n); nothing is drawn, and gradients flow."""
    num_particles = max(map(len, latents.values()), default=1)
    scored = poutine.trace(poutine.condition(program, plates.given(latents, inputs)))
    with plates.particles(num_particles), GivenData(len(inputs[0])):
        trace = scored.get_trace(*inputs)
    nodes: dict[str, Any] = trace.nodes
    if missing := [name for name, site in nodes.items() if is_latent(site)]:
        raise ValueError(
            f"`guide` must sample every latent site of the model, got none for {missing}; "
            "pass exact_guide(model), or build the model with an encoder."
        )
    trace.compute_log_prob()
    sites = {name: site for name, site in nodes.items() if is_random(site)}
    prior = {name: sites.pop(name) for name in nodes if name in latents}
    zeros = inputs[0].new_zeros(num_particles, len(inputs[0]))
    return total(sites, zeros, plates), total(prior, zeros, plates)


def total(sites: dict[str, Any], zeros: Tensor, plates: Plates) -> Tensor:
    """Sum (S, n) of what Pyro scored sites with, each over all plates but those over particles and data."""
    every = zeros
    for name, site in sites.items():
        log_prob, expected = site["log_prob"], plates.shape(site)
        if log_prob.shape != expected or expected[plates.dim] != zeros.shape[1]:
            raise ValueError(
                f"`model` must have every site inside the plate over data, got site {name!r} with log-densities of "
                f"shape {tuple(log_prob.shape)} in plates of {tuple(expected)} for {tuple(zeros.shape)} particles and "
                "data; put every dimension of it in a plate, or in the event by to_event."
            )
        every = every + plates.data_first(log_prob).reshape(len(zeros), zeros.shape[1], -1).sum(-1)
    return every
