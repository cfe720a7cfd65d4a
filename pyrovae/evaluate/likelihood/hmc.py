"""Hamiltonian Monte Carlo along a path of densities, for all data and chains at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluate.evaluation import Inputs, Latents
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.tiles import log_densities
from pyrovae.models.base import Program

JITTER = 0.2  # a trajectory's step is its datum's times 1 ± this, so that it does not return to its start


class Point(NamedTuple):
    """z (S, n, L) on the path log f_β = ``base`` + β ``rise``, with both terms (S, n) and their gradients (S, n, L)."""

    z: Tensor
    base: Tensor
    rise: Tensor
    base_gradient: Tensor
    rise_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        return self.base + beta * self.rise

    def gradient(self, beta: float) -> Tensor:
        return self.base_gradient + beta * self.rise_gradient

    def where(self, chosen: Tensor, other: "Point") -> "Point":
        """This point where ``chosen`` (S, n), the other one elsewhere."""
        pairs = zip(self, other, strict=True)
        return Point(*(torch.where(chosen[..., None] if a.ndim == 3 else chosen, a, b) for a, b in pairs))


class Path:
    """The geometric path f_β = f_0^(1−β) p(x, z)^β, from f_0 = p(z), or q(z|x) of a guide, to p(x, z).

    Args:
        joint: log p(x, z) of a block of data.
        guide: q; None for the prior.
    """

    def __init__(self, joint: Joint, guide: Program | None = None) -> None:
        self.joint, self.guide = joint, guide

    def start(self, num_chains: int) -> Tensor:
        """Draws of f_0, (S, n, L)."""
        return self.joint.draw(self.guide or self.joint.program, num_chains)

    def at(self, z: Tensor) -> Point:
        """The point at z (S, n, L)."""
        return Point(z, *self.joint.in_tiles(self._terms, z))

    @torch.enable_grad()
    def _terms(self, inputs: Inputs, latents: Latents) -> tuple[Tensor, ...]:
        z = latents["z"].detach().requires_grad_()
        values, volume = self.joint.values(z)
        likelihood, prior = log_densities(self.joint.program, inputs, values, self.joint.plates)
        base, rise = prior, likelihood
        if self.guide is not None:
            base = torch.add(*log_densities(self.guide, inputs, values, self.joint.plates))
            rise = likelihood + prior - base
        base = base + volume
        gradients = [
            torch.autograd.grad(term.sum(), z, retain_graph=True, materialize_grads=True)[0] for term in (base, rise)
        ]
        return base.detach().to(z), rise.detach().to(z), *gradients  # a prior may be of another type


def transition(path: Path, start: Point, beta: float, step: Tensor, num_leapfrog: int) -> tuple[Point, Tensor]:
    """One transition that leaves f_β invariant, and is its own reverse.

    A trajectory that goes beyond ``joint.farthest`` is rejected, and so is its reverse, so that the balance holds.

    Args:
        path: The path.
        start: Where the chains are.
        beta: β.
        step: Size of a leapfrog step for each datum, (n,); must not depend on where these chains are.
        num_leapfrog: Steps of a trajectory.

    Returns:
        Where the chains are next, and the probability of acceptance of each, (S, n).

    Reference:
        Neal (2011), MCMC using Hamiltonian dynamics.
    """
    jitter = 1 + JITTER * (2 * torch.rand_like(start.base) - 1)
    size = (step * jitter)[..., None]
    momentum = torch.randn_like(start.z)
    kinetic = 0.5 * momentum.square().sum(-1)
    point, inside = start, torch.ones_like(start.base, dtype=torch.bool)
    momentum = momentum + 0.5 * size * point.gradient(beta)
    for leap in range(num_leapfrog):
        z = point.z + size * momentum
        inside = inside & (z.abs() <= path.joint.farthest).all(-1)  # false for NaN too
        point = path.at(torch.where(inside[..., None], z, start.z))
        momentum = momentum + (0.5 if leap == num_leapfrog - 1 else 1.0) * size * point.gradient(beta)
    gain = point.log_density(beta) - start.log_density(beta) + kinetic - 0.5 * momentum.square().sum(-1)
    probability = torch.where(inside, gain, -torch.inf).nan_to_num(nan=-torch.inf).exp().clamp_max(1)
    return point.where(torch.rand_like(probability) < probability, start), probability
