"""Where the data are among the plates of a program, so that a figure for each datum can be had.

Evaluators add a plate over particles, to the left of all plates of the program, as Pyro's own ELBOs do.  A value at a
site then has the shape (S, *plates, *event).  What goes from one evaluator to another has particles and data first,
(S, n, ...), whatever the order of the plates in the program.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.evaluate.evaluation import Evaluation, Inputs, is_latent, is_random
from pyrovae.models.base import Program
from pyrovae.models.latents import traced, unmatched
from pyrovae.models.sites import FEW, GivenData, data_plate, vectorized


class Plates(NamedTuple):
    """The plates of a program.

    Attributes:
        depth: Plates inside one another, at most.
        dim: Of the plate over data, from the right: −1 where it is the innermost.
        subsampled: Its name, if it stands for more data than are given, so that Pyro draws indices; else None.
        scaled: The sites whose log-density is scaled, by ``poutine.scale`` or by a plate with a part of its size.
        masked: The latent sites with a mask.
        unmatched: The latents at which a guide and the model do not count densities of the same values.
    """

    depth: int = 1
    dim: int = -1
    subsampled: str | None = None
    scaled: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    def particles(self, number: int) -> Any:
        """The plate over so many particles."""
        return pyro.plate("particles", number, dim=-self.depth - 1)

    def given(self, latents: dict[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
        """What a program is conditioned on: latents (S, n, ...) in the shapes that it has them, and its indices."""
        values = {name: value.movedim(1, 1 + self.depth + self.dim) for name, value in latents.items()}
        if self.subsampled:
            values[self.subsampled] = torch.arange(len(inputs[0]), device=inputs[0].device)
        return values

    def data_first(self, value: Tensor) -> Tensor:
        """(S, n, ...) from what a program has at a site, (S, *plates, ...)."""
        return value.movedim(1 + self.depth + self.dim, 1)

    def shape(self, site: Any) -> torch.Size:
        """The batch shape that the plates around a site give it; outside of that over data, one of no data."""
        sizes = {self.dim: 0, **{plate.dim: plate.size for plate in vectorized(site)}}
        return torch.Size(sizes.get(dim, 1) for dim in range(-self.depth - 1, 0))


def plates_of(run: Evaluation, *programs: Program) -> Plates:
    """The plates of programs, each run once on a few data, with the latents of those before it.

    Raises:
        ValueError: If the plate over data holds only some of the data given.
    """
    few = tuple(each[: min(FEW, run.chunk_size or FEW)] for each in run.inputs)
    traced_nodes, num_data = _nodes(few, programs), len(few[0])
    nodes = list(chain(*traced_nodes))
    sites = list(filter(is_random, nodes))
    data = next(filter(None, map(data_plate, sites)), None)
    if data is None:
        return Plates()
    if data.size not in (num_data, data.full_size):
        raise ValueError(
            f"`model` must have all data in its plate {data.name!r} to give a figure for each, got {data.size} of "
            f"{num_data}; write plate({data.name!r}, len(x)), and let `batch_size` of fit.svi subsample."
        )
    drawn = _names(nodes, lambda node: node["name"] == data.name and node["fn"].size != num_data)
    return Plates(
        depth=max(-plate.dim for plate in vectorized(*sites)),
        dim=data.dim,
        subsampled=data.name if drawn else None,
        scaled=_names(sites, lambda site: torch.as_tensor(site["scale"] != 1).any()),
        masked=_names(sites, lambda site: is_latent(site) and site["mask"] is not None),
        unmatched=unmatched(*traced_nodes) if len(programs) == 2 else (),
    )


def _names(nodes: list[Any], test: Callable[[Any], Any]) -> tuple[str, ...]:
    return tuple(node["name"] for node in nodes if test(node))


def _nodes(inputs: Inputs, programs: Sequence[Program]) -> list[list[Any]]:
    """What each of the programs samples, plates included, run once with the latents of those before it."""
    nodes: list[list[Any]] = []
    trace = poutine.Trace()
    with GivenData(len(inputs[0])), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for program in programs:
            trace = traced(poutine.replay(program, trace), inputs[0], *inputs)
            nodes.append([node for node in trace.nodes.values() if node["type"] == "sample"])
    return nodes


def check_likelihood(plates: Plates) -> None:
    """Check that what programs count is log p(x, z) and log q(z|x), as log p(x) needs.

    Raises:
        ValueError: If a site is scaled, or a guide and the model do not count the same latents.
    """
    if plates.scaled:
        raise ValueError(
            f"`model` must have no scaled site for log p(x), got a scale at {plates.scaled[0]!r}, with which there is "
            "no density; leave out the poutine.scale, or watch its bound with evaluate.elbo."
        )
    if plates.unmatched:
        raise ValueError(
            f"`guide` must have a density of the latents of `model` for log p(x), got site {plates.unmatched[0]!r}, "
            "which is a point, of another kind, masked in one of them, or no latent of the model; sample what the "
            "model samples."
        )
