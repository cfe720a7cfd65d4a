"""What every evaluator works in: evaluation mode, and the data block after block, each with draws of its own."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.engine.execution import DEFAULT, Execution
from pyrovae.engine.isolation import alone, evaluating
from pyrovae.engine.processes import ProcessGroup
from pyrovae.engine.progress import progress_bar
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.evaluate.particles import check_particles
from pyrovae.models.base import LatentVariableModel, Program, check_model
from pyrovae.models.latents import (
    FEW,
    Latents as Latents,
    data_first,
    is_latent as is_latent,
    is_random as is_random,
    latent_sites as latent_sites,
)

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on some data, and how an evaluator goes through them.

    Attributes:
        model, data: What is evaluated, on which N data.
        given_guide: q; None for ``model.guide``.
        chunk_size: (particle, datum) pairs decoded at once; None for the default.
        seed: Seed of all draws.
        progress: Whether to show a progress bar.
        execution: ``distributed`` shares the blocks among processes.
        inputs: What the programs are called with, x (N, ...) first.

    Raises:
        TypeError: If ``model`` is no model of this package's form, or ``given_guide`` no program.
        ValueError: If ``chunk_size`` is below 1, there is no process group, the data do not fit, or the programs take
            no particles beside them.
    """

    model: LatentVariableModel
    data: Observations | Tensor
    given_guide: Program | None = None
    chunk_size: int | None = None
    seed: int = 0
    progress: bool | None = None
    execution: Execution = DEFAULT
    inputs: Inputs = field(init=False)

    def __post_init__(self) -> None:
        check_model(self.model, self.given_guide)
        check_whole("chunk_size", self.chunk_size, optional=True)
        self.execution.process_group()
        with alone():  # not a cached_property, which in Python 3.11 has a lock of its own
            inputs = self.model.program_inputs(self.data)
        if self.given_guide is not None or not self.model.takes_particles:
            with evaluating(self.model, self.guide), seeded(0):
                check_particles(self.model.model, self.guide, tuple(each[:FEW] for each in inputs))
        object.__setattr__(self, "inputs", inputs)

    @property
    def guide(self) -> Program:
        return self.given_guide or self.model.guide

    @cached_property
    def group(self) -> ProcessGroup:
        return self.execution.process_group()

    def bar(self, total: int, desc: str, unit: str = "datum") -> tqdm:
        """The progress bar, which only the first process shows."""
        return progress_bar(total=total, desc=desc, unit=unit, progress=self.progress, rank=self.group.rank)

    def blocks(self, size: int) -> Iterable[tuple[int, Inputs]]:
        """Number and inputs of the blocks of so many data that are this process's part."""
        every = enumerate(zip(*(each.split(size) for each in self.inputs), strict=True))
        return itertools.islice(every, self.group.rank, None, self.group.number)

    @contextmanager
    def at(self, number: int) -> Iterator[None]:
        """Evaluation mode, with the random state of one block."""
        with evaluating(self.model, self.guide), seeded(block_seed(self.seed, number)):
            yield

    def joined(self, parts: Sequence[Sequence[Tensor]]) -> Iterator[tuple[Tensor, ...]]:
        """From some tensors of each block of this process, each of these tensors for the blocks of all, in order."""
        return zip(*self.group.joined(parts, self.inputs[0].device), strict=True)


@torch.no_grad()
def simulated(
    model: LatentVariableModel, num_data: int, labels: Tensor | int | None, seed: int
) -> tuple[Observations, Latents]:
    """Data from the model itself, and the z that each came from, by site."""
    x, latents = model._generate(num_data, labels, seed)
    given = model._labels_to_generate(num_data, labels)
    return Observations(data_first(x), labels=given[0] if given else None), latents
