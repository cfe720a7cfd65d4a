"""Whether programs can be shown many particles at once, in a dimension to the left of the data, as evaluators do.

A layer that knows z (N, L) alone fails on z (S, N, L), or takes S for N, or N for L, without a word.
"""

from pathlib import Path
from traceback import extract_tb
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.models.base import Program
from pyrovae.models.latents import Latents, check_local, is_latent, is_random
from pyrovae.models.sites import vectorized

PARTICLES = 2


@torch.no_grad()
def check_particles(model: Program, guide: Program, few: tuple[Tensor, ...]) -> None:
    """Check that programs give particles together what they give them one by one.

    Args:
        model, guide: The programs, in evaluation mode.
        few: What they are called with, some data.

    Raises:
        ValueError: If they do not, or a latent is outside the plate over data.
    """
    try:
        latents, sites = _run(model, guide, few)
    except Exception:  # of which the evaluator has something to say
        return
    check_local({site["name"]: site for site in sites if is_latent(site)}, len(few[0]))
    if any(hasattr(z, "_unquantize") for z in latents.values()):  # a relaxed draw, which is more than its value
        return
    depth = max((-plate.dim for site in sites for plate in vectorized(site)), default=1)
    if problem := _problem(model, guide, few, depth):
        raise ValueError(
            f"`model` must take particles in a dimension on the left, z (S, N, ...), as plates of Pyro give them, got "
            f"{problem}; flatten z for layers that know (N, L) alone, or give them to a VAE, which does."
        )


def _problem(model: Program, guide: Program, few: tuple[Tensor, ...], depth: int) -> str | None:
    """What is wrong with particles together, beside plates inside one another so deep; None where nothing is."""
    try:
        with pyro.plate("particles", PARTICLES, dim=-1 - depth):
            latents, together = _run(model, guide, few)
        runs = [_run(model, guide, few, {name: z[s] for name, z in latents.items()})[1] for s in (*range(PARTICLES), 0)]
        if not _agree(runs[-1], runs[0]):  # programs that draw beside their sites
            return None
        same = all(_agree(together, runs[s], s) for s in range(PARTICLES))
        return None if same else "other log-densities than for each particle alone"
    except Exception as error:
        of_a_site = {"pyro", "distributions"} & set(Path(extract_tb(error.__traceback__)[-1].filename).parts)
        return None if of_a_site else " ".join(str(error).split())  # of sites the evaluator speaks, this of layers


def _run(
    model: Program, guide: Program, inputs: tuple[Tensor, ...], at: Latents | None = None
) -> tuple[Latents, list[Any]]:
    """The latents of the guide, as given or drawn, and the sites of guide and model at them."""
    guided: Any = poutine.trace(poutine.condition(guide, at or {})).get_trace(*inputs).nodes
    latents = at or {name: site["value"] for name, site in guided.items() if is_latent(site)}
    modelled: Any = poutine.trace(poutine.condition(model, latents)).get_trace(*inputs).nodes
    return latents, [site for nodes in (guided, modelled) for site in nodes.values() if is_random(site)]


def _agree(sites: list[Any], others: list[Any], particle: int | None = None) -> bool:
    """Whether log-densities are the same to half their digits: of one particle, or of all that there are."""
    for site, other in zip(sites, others, strict=True):
        first, second = (each["fn"].log_prob(each["value"]) for each in (site, other))
        first, second = (first if particle is None else first[particle]).flatten(), second.flatten()
        rounding = torch.finfo(first.dtype).eps ** 0.5
        if first.shape == second.shape and not torch.allclose(first, second, rounding, rounding, equal_nan=True):
            return False
    return True
