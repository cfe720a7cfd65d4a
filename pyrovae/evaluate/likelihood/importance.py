"""Importance weights, and everything that is read off them.

One array carries the evaluation of a guide q: log w = log p(x, z) − log q(z|x) at z ~ q, per datum, shape (S, N),
nats.  Its mean over particles is the ELBO, its log-mean-exp the importance-weighted log-likelihood, and its spread
tells how far either can be trusted.  With the exact posterior as guide every entry equals log p(x).  The log-mean-exp
and its errors are taken in :func:`pyrovae.evaluate.likelihood.estimate.summarize`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.evaluate.evaluation import Evaluation, Latents, is_latent, is_random
from pyrovae.evaluate.likelihood.estimate import mean_error
from pyrovae.evaluate.likelihood.plates import check_likelihood, plates_of
from pyrovae.evaluate.likelihood.tiles import Tiles, log_densities, total
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.latents import bare
from pyrovae.models.sites import GivenData

PAIRS = 2**16  # (particle, datum) pairs whose z are drawn together; part of the definition of what a seed gives


@dataclass(frozen=True, eq=False)
class Weights:
    """Log-densities at z ~ q(z|x) for a block of n data, each (S, n), nats."""

    log_p_x_given_z: Tensor
    log_p_z: Tensor
    log_q_z: Tensor
    z: Latents

    @property
    def log_w(self) -> Tensor:
        return self.log_p_x_given_z + self.log_p_z - self.log_q_z


@torch.no_grad()
def weigh(run: Evaluation, num_particles: int, *, density: bool = False) -> Iterator[Weights]:
    """Weights for block after block of data, all particles of a block together.

    The guide runs once a block, on as many data as PAIRS allows, and draws all their z.  The model then scores these z
    tile by tile, drawing nothing, so that the draws do not depend on the size of a tile.

    Args:
        run: The model and the data.
        num_particles: S.
        density: Whether log p(x) is wanted, which no scaled site may be part of.
    """
    check_whole("num_particles", num_particles)
    model, guide, num_data = run.model.model, run.guide, len(run.inputs[0])
    tiles = Tiles.of(run, num_particles * num_data, max(PAIRS, num_particles))
    with run.at(0):
        plates = plates_of(run, guide, model)
    if density:
        check_likelihood(plates)
    score = partial(log_densities, model, plates=plates)
    with run.bar(num_data, "importance weights") as bar:
        for number, block in run.blocks(max(1, PAIRS // num_particles)):
            with run.at(number):
                with plates.particles(num_particles), GivenData(len(block[0])):
                    trace = poutine.trace(guide).get_trace(*block)
                trace.compute_log_prob()
                q: dict[str, Any] = {name: site for name, site in trace.nodes.items() if is_random(site)}
                if density and (observed := [name for name, site in q.items() if not is_latent(site)]):
                    raise ValueError(f"`guide` must not observe for log p(x), got the observed site {observed[0]!r}.")
                z = {name: plates.data_first(site["value"]) for name, site in q.items() if is_latent(site)}
                log_p_x_given_z, log_p_z = tiles(score, block, z)
                log_q_z = total(q, torch.zeros_like(log_p_z), plates)
            yield Weights(log_p_x_given_z, log_p_z, log_q_z, z)
            bar.update(len(block[0]))


@keywords_moved(execution=Execution)
def log_weights(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    guide: Program | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> Tensor:
    """Log importance weights log p(x, z) − log q(z|x) at z ~ q.

    Args:
        model: Any model; its program must have one plate over data and latent sites that the guide samples.
        x: N data, Observations or tensor.
        num_particles: S.
        guide: q; by default ``model.guide``.  ``exact_guide(model)`` is the exact posterior of a tractable model.
        chunk_size: (particle, datum) pairs decoded at once; bounds the memory, never changes the result.
        seed: Seed of the draws.
        progress: Show a progress bar; by default one appears after a second.
        execution: With ``distributed=True`` the processes of ``torch.distributed`` (see ``torchrun``) share the data,
            block by block.  All are given the same model and data, and return the values that one alone would.

    Returns:
        Tensor (S, N), nats.

    Raises:
        TypeError: If ``model`` is no model of this form.
        ValueError: If ``num_particles`` is below 1, the data do not fit, the guide leaves a latent site unsampled, or
            there is no process group.

    Example:
        >>> from pyrovae import PPCA, exact_guide
        >>> ppca = PPCA(latent_dim=1, data_shape=(3,))
        >>> x = torch.zeros(2, 3, dtype=torch.float64)
        >>> lw = log_weights(ppca, x, num_particles=5, guide=exact_guide(ppca))
        >>> bool((lw - ppca.log_prob(x)).abs().max() < 1e-10)
        True

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
    """
    run = Evaluation(model, x, guide, chunk_size, seed, progress, execution)
    (log_w,) = run.joined([(block.log_w,) for block in weigh(run, num_particles)])
    return torch.cat(log_w, dim=1)


def draws(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    guide: Program | None = None,
    seed: int = 0,
) -> tuple[Any, Tensor]:
    """Draws of z from the guide, beside the log importance weight of each.

    Args, Raises: as for :func:`log_weights`, which gives the same weights at the same seed.

    Returns:
        z of shape (S, N, ...), by name where there are several latents, and log weights (S, N), nats.
    """
    blocks = list(weigh(Evaluation(model, x, guide, seed=seed), num_particles))
    z = {name: torch.cat([block.z[name] for block in blocks], dim=1) for name in blocks[0].z}
    return bare(z), torch.cat([block.log_w for block in blocks], dim=1)


def elbo(model: LatentVariableModel, x: Observations | Tensor, num_particles: int = 100, **options: Any) -> Tensor:
    """Evidence lower bound per datum, the mean of :func:`log_weights` over particles; shape (N,), nats.

    Args:
        model: As for :func:`log_weights`, like every option.
        x: N data.
        num_particles: S.
        **options: ``guide``, ``chunk_size``, ``seed``, ``progress``, ``execution``.
    """
    return elbo_terms(model, x, num_particles, **options).elbo


@dataclass(frozen=True, eq=False)
class ELBOTerms:
    """The two terms of the ELBO per datum, nats, each shape (N,): ``elbo`` = ``reconstruction`` − ``kl``.

    ``standard_error`` is the Monte-Carlo standard error of ``elbo``, NaN by a single particle.
    """

    reconstruction: Tensor
    kl: Tensor
    standard_error: Tensor

    @property
    def elbo(self) -> Tensor:
        return self.reconstruction - self.kl


@keywords_moved(execution=Execution)
def elbo_terms(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    guide: Program | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> ELBOTerms:
    """Monte-Carlo estimates of E_q[log p(x|z)] and KL(q(z|x) ‖ p(z)) per datum, from the same particles.

    Args, Raises: as for :func:`log_weights`.

    Returns:
        The terms, each (N,), nats.
    """
    run = Evaluation(model, x, guide, chunk_size, seed, progress, execution)
    blocks = weigh(run, num_particles)
    terms = [
        (each.log_p_x_given_z.mean(0), (each.log_q_z - each.log_p_z).mean(0), mean_error(each.log_w)) for each in blocks
    ]
    return ELBOTerms(*map(torch.cat, run.joined(terms)))
