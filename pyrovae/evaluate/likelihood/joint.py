"""log p(x, z) of a block of data as a function of z, whatever the latent sites of the program are.

All latents of a datum are one flat vector of real numbers: a site with constraints, such as a scale that is positive,
is mapped there by Pyro's bijections, and the volume that this takes is counted into log p(z).
"""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, identity_transform
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint
from torch.distributions.transforms import IndependentTransform

from pyrovae.evaluate.evaluation import Inputs, Latents, latent_sites
from pyrovae.evaluate.likelihood.plates import Plates
from pyrovae.evaluate.likelihood.tiles import TileFunction, Tiles, log_densities
from pyrovae.models.base import Program
from pyrovae.models.sites import FEW


class Joint:
    """log p(x|z) and log p(z) of n data, at z of shape (S, n, L).

    Args:
        program: The model's program.
        inputs: What it is called with, the n data first.
        tiles: The tiles in which it is computed.
        plates: Those of the program.

    Attributes:
        latent_dim: L, unconstrained numbers in the latents of one datum.
        farthest: Bounds of |z|, shape (L,), beyond which a program cannot be trusted to compute: of a constrained site
            60, as e^60 is still a number in single precision, of a real one 10⁶.

    Raises:
        ValueError: If the program has no latent site, a discrete one, one outside the plate over data, or one whose
            support moves or cannot be mapped.
    """

    def __init__(self, program: Program, inputs: Inputs, tiles: Tiles, plates: Plates) -> None:
        self.program, self.inputs, self.tiles, self.plates = program, inputs, tiles, plates
        few = tuple(each[:FEW] for each in inputs)
        with plates.particles(2):  # two, to see a support that moves with other latents
            sites = latent_sites(program, *few)
        if not sites:
            raise ValueError("`model` must have a latent site in its program, got none.")
        self._sites: dict[str, tuple[Any, torch.Size]] = {}  # the bijection of each, and the shape of what it takes
        for name, site in sites.items():
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"`model` must have continuous latents, got the discrete site {name!r}; sum over it, as the exact "
                    "log_prob of a mixture does."
                )
            if not site["fn"].batch_shape == plates.shape(site) or plates.shape(site)[plates.dim] != len(few[0]):
                raise ValueError(
                    f"`model` must have every site inside the plate over data, got site {name!r} of batch shape "
                    f"{tuple(site['fn'].batch_shape)} for 2 particles and {len(few[0])} data."
                )
            transform, event = _bijection(name, site["fn"].support), site["fn"].event_shape
            inner = plates.data_first(site["value"]).shape[2:]  # the other plates, and the event
            self._sites[name] = transform, inner[: len(inner) - len(event)] + transform.inverse_shape(event)
        like, each = inputs[0], self._sites.values()
        self._sizes = [shape.numel() for _, shape in each]
        self.farthest = torch.cat([like.new_full((shape.numel(),), _farthest(transform)) for transform, shape in each])
        self.latent_dim = sum(self._sizes)

    def flat(self, values: Latents, source: str = "`guide` must sample") -> Tensor:
        """Values of the sites, each (..., n, *event_shape), as z (..., n, L)."""
        if missing := [name for name in self._sites if name not in values]:
            raise ValueError(f"{source} every latent site of the model, got none for {missing}.")
        free = [(transform.inv(values[name]), shape) for name, (transform, shape) in self._sites.items()]
        return torch.cat([part.reshape(*part.shape[: part.ndim - len(shape)], -1) for part, shape in free], dim=-1)

    def values(self, z: Tensor) -> tuple[Latents, Tensor]:
        """The sites' values at z (S, n, L), and the log volume that the constraints take, (S, n)."""
        values, volume = {}, torch.zeros_like(z[..., 0])
        for (name, (transform, shape)), part in zip(self._sites.items(), z.split(self._sizes, dim=-1), strict=True):
            free = part.reshape(*part.shape[:-1], *shape)
            values[name] = transform(free)
            log_det = transform.log_abs_det_jacobian(free, values[name])
            volume = volume + log_det.reshape(*volume.shape, -1).sum(-1)
        return values, volume

    def __len__(self) -> int:
        """n."""
        return len(self.inputs[0])

    def __getitem__(self, part: slice | Tensor) -> "Joint":
        """The same for some of the data."""
        some = copy.copy(self)
        some.inputs = tuple(each[part] for each in self.inputs)
        return some

    def terms(self, inputs: Inputs, latents: Latents) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z) of a tile, each (S, n); its one latent is z (S, n, L)."""
        values, volume = self.values(latents["z"])
        likelihood, prior = log_densities(self.program, inputs, values, self.plates)
        return likelihood, prior + volume

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(x, z), (S, n), without gradients."""
        return self.in_tiles(lambda inputs, latents: (sum(self.terms(inputs, latents)),), z)[0]

    def in_tiles(self, function: TileFunction, z: Tensor) -> tuple[Tensor, ...]:
        """Tensors (S, n, ...) from ``function(inputs, {"z": z})``, called with one tile after another."""
        return self.tiles(function, self.inputs, {"z": z})

    def draw(self, program: Program, num_particles: int) -> Tensor:
        """z (S, n, L) as ``program``, the model or a guide, draws it from torch's random state."""
        with torch.no_grad(), self.plates.particles(num_particles):
            latents = latent_sites(program, *self.inputs)
        return self.flat({name: self.plates.data_first(site["value"]) for name, site in latents.items()})


def _bijection(name: str, support: Any) -> Any:
    """From real numbers to the support of a site."""
    try:
        return biject_to(_fixed(name, support))
    except NotImplementedError as error:
        raise ValueError(
            f"`model` must have latents whose support can be mapped from real numbers, got {support} at site {name!r}; "
            "use evaluate.log_likelihood with a guide."
        ) from error


def _fixed(name: str, support: Any, kept: int = 0) -> Any:
    """A support apart from the draw that it was seen at: that of a mixture is its components', and bounds are for all.

    Args:
        name: Of the site.
        support: A constraint of Pyro or torch.
        kept: Dimensions, from the right, in which bounds may differ: those of an event.
    """
    if isinstance(support, MixtureSameFamilyConstraint):
        return _fixed(name, support.base_constraint)
    if isinstance(support, constraints.independent):
        number = support.reinterpreted_batch_ndims
        return constraints.independent(_fixed(name, support.base_constraint, kept + number), number)
    fixed = copy.copy(support)
    if hasattr(fixed, "cseq"):  # of stacked and concatenated ones
        fixed.cseq = [_fixed(name, each, kept) for each in fixed.cseq]
    for side in ("lower_bound", "upper_bound"):
        bound = getattr(fixed, side, None)
        if isinstance(bound, Tensor):
            every = bound.reshape(-1, *bound.shape[max(0, bound.ndim - kept) :])
            if (every != every[0]).any():
                raise ValueError(
                    f"`model` must have latents of one support for all data, got bounds that differ at site {name!r}; "
                    "sample a share of the range, in [0, 1], and scale it."
                )
            setattr(fixed, side, every[0])
    return fixed


def _farthest(transform: Any) -> float:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return 1e6 if transform == identity_transform else 60.0
