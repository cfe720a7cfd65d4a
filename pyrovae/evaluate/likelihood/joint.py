"""log p(x, z) of a block of data as a function of z, whatever the latent sites of the program are.

All latents of a datum are one flat vector of real numbers: a site with constraints, such as a scale that is positive,
is mapped there by Pyro's bijections, and the volume that this takes is counted into log p(z).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, identity_transform
from torch.distributions.transforms import IndependentTransform
from tqdm.auto import tqdm

from pyrovae.evaluate.likelihood.scoring import is_latent, score_latents
from pyrovae.models.base import Program

Inputs = tuple[Tensor, ...]


class Joint:
    """log p(x|z) and log p(z) of n data, at z of shape (S, n, L).

    Args:
        program: The model's program.
        inputs: What it is called with, the n data first.
        pairs: (particle, datum) pairs scored at once; bounds the memory, never changes the result.

    Attributes:
        latent_dim: L, unconstrained numbers in the latents of one datum.
        farthest: Bounds of |z|, shape (L,), beyond which a program cannot be trusted to compute: of a constrained site
            60, as e^60 is still a number in single precision, of a real one 10⁶.

    Raises:
        ValueError: If the program has no latent site, a discrete one, or one outside the plate over data.
    """

    def __init__(self, program: Program, inputs: Inputs, pairs: int) -> None:
        self.program, self.inputs, self.pairs = program, inputs, pairs
        nodes = poutine.trace(program).get_trace(*inputs).nodes
        sites: dict[str, Any] = {name: site for name, site in nodes.items() if is_latent(site)}
        if not sites:
            raise ValueError("`model` must have a latent site in its program, got none.")
        self._transforms, self._shapes, self._sizes = {}, {}, {}
        for name, site in sites.items():
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"`model` must have continuous latents, got the discrete site {name!r}; sum over it, as the exact "
                    "log_prob of a mixture does."
                )
            if site["fn"].batch_shape != inputs[0].shape[:1]:
                raise ValueError(
                    f"`model` must have every site inside the plate over data, got site {name!r} of batch shape "
                    f"{tuple(site['fn'].batch_shape)} for {len(inputs[0])} data."
                )
            transform = biject_to(site["fn"].support)
            shape = transform.inverse_shape(site["fn"].event_shape)
            self._transforms[name], self._shapes[name], self._sizes[name] = transform, shape, shape.numel()

        like = inputs[0]
        bounds = [like.new_full((size,), _farthest(self._transforms[name])) for name, size in self._sizes.items()]
        self.farthest = torch.cat(bounds)

    @property
    def latent_dim(self) -> int:
        return sum(self._sizes.values())

    def flat(self, values: dict[str, Tensor], source: str = "`guide` must sample") -> Tensor:
        """Values of the sites, each (..., n, *event_shape), as z (..., n, L)."""
        if missing := [name for name in self._transforms if name not in values]:
            raise ValueError(f"{source} every latent site of the model, got none for {missing}.")
        free = [transform.inv(values[name]) for name, transform in self._transforms.items()]
        return torch.cat(
            [part.reshape(*part.shape[: part.ndim - len(self._shapes[name])], -1) for name, part in self._named(free)],
            dim=-1,
        )

    def values(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The sites' values at z (S, n, L), and the log volume that the constraints take, (S, n)."""
        values, volume = {}, torch.zeros_like(z[..., 0])
        for name, part in self._named(z.split(list(self._sizes.values()), dim=-1)):
            free = part.reshape(*part.shape[:-1], *self._shapes[name])
            values[name] = self._transforms[name](free)
            log_det = self._transforms[name].log_abs_det_jacobian(free, values[name])
            volume = volume + log_det.reshape(*volume.shape, -1).sum(-1)
        return values, volume

    def terms(self, inputs: Inputs, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z), each (S, n), for data ``inputs`` among those given."""
        values, volume = self.values(z)
        likelihood, prior = score_latents(self.program, inputs, values, len(z))
        return likelihood, prior + volume

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(x, z), (S, n), without gradients, in tiles."""
        return self.in_tiles(lambda inputs, tile: (sum(self.terms(inputs, tile)),), z)[0]

    def in_tiles(self, function: Callable[[Inputs, Tensor], Sequence[Any]], z: Tensor) -> tuple[Tensor, ...]:
        """Tensors (S, n, ...) from ``function(inputs, z)``, given one tile of (particle, datum) pairs after another."""
        num_particles, num_data = z.shape[:2]
        columns = min(self.pairs, num_data)
        rows = self.pairs // columns
        tiles = [
            [
                function(tuple(each[j : j + columns] for each in self.inputs), z[i : i + rows, j : j + columns])
                for j in range(0, num_data, columns)
            ]
            for i in range(0, num_particles, rows)
        ]
        beside = [[torch.cat(parts, dim=1) for parts in zip(*row, strict=True)] for row in tiles]
        return tuple(torch.cat(parts) for parts in zip(*beside, strict=True))

    def draw(self, program: Program, num_particles: int) -> Tensor:
        """z (S, n, L) as ``program``, the model or a guide, draws it from torch's random state."""
        with torch.no_grad(), pyro.plate("particles", num_particles, dim=-2):
            nodes: dict[str, Any] = poutine.trace(program).get_trace(*self.inputs).nodes
        shape = (num_particles, len(self.inputs[0]))
        values = {
            name: site["value"].expand(*shape, *site["fn"].event_shape)
            for name, site in nodes.items()
            if is_latent(site)
        }
        return self.flat(values)

    def _named(self, parts: Any) -> Iterator[tuple[str, Tensor]]:
        return zip(self._transforms, parts, strict=True)


def _farthest(transform: Any) -> float:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return 1e6 if transform == identity_transform else 60.0


@contextmanager
def evaluating(*programs: torch.nn.Module) -> Iterator[None]:
    """A block in which modules are in evaluation mode, and Pyro's parameter store is none but its own."""
    modes = [(program, program.training) for program in programs]
    try:
        for program in programs:
            program.eval()
        with pyro.get_param_store().scope():
            yield
    finally:
        for program, training in modes:
            program.train(training)


def progress_bar(total: int, desc: str, unit: str, progress: bool | None) -> Any:
    """A progress bar, which appears after a second where there is a terminal, or as ``progress`` says."""
    disable = None if progress is None else not progress
    return tqdm(total=total, desc=desc, unit=unit, delay=1.0, leave=False, disable=disable)
