"""Importance weights, and everything that is read off them.

One array carries the evaluation of a guide q: log w = log p(x, z) − log q(z|x) at z ~ q, per datum, shape (S, N),
nats.  Its mean over particles is the ELBO, its log-mean-exp the importance-weighted log-likelihood, and its spread
tells how far either can be trusted.  With the exact posterior as guide every entry equals log p(x).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from pyrovae.data import Observations
from pyrovae.engine.processes import ALONE, ProcessGroup, process_group
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.evaluate.likelihood.pareto import k_hat_threshold, pareto_k
from pyrovae.evaluate.likelihood.scoring import Scorer, Tiles, floats_per_pair, is_latent, pairs_at_once, total
from pyrovae.models.base import LatentVariableModel, Program, check_model

PAIRS = 2**16  # (particle, datum) pairs whose z are drawn together; part of the definition of what a seed gives


@dataclass(frozen=True, eq=False)
class ELBOTerms:
    """The two terms of the ELBO per datum, nats, each shape (N,): ``elbo`` = ``reconstruction`` − ``kl``."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        return self.reconstruction - self.kl


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood:
    """log p(x) of held-out data, per datum, nats.

    Attributes:
        values: log p(x) or its estimate, shape (N,).
        method: ``"exact"``; ``"importance"``, the log-mean-exp of S weights, a lower bound of log p(x) in expectation;
            or ``"annealed"``, the same of S annealed chains.
        num_particles: S; 0 when exact.
        standard_error: Monte-Carlo standard error of each value (delta method), shape (N,); 0 when exact.
        ess: Effective sample size of the weights, (Σw)²/Σw², shape (N,); infinite when exact.
        k_hat: Pareto k̂ of the weights, shape (N,); −∞ when exact.
    """

    values: Tensor
    method: Literal["exact", "importance", "annealed"]
    num_particles: int
    standard_error: Tensor
    ess: Tensor
    k_hat: Tensor

    @property
    def mean(self) -> float:
        """Mean log p(x), nats per datum."""
        return self.values.double().mean().item()

    @property
    def mean_standard_error(self) -> float:
        """Standard error of ``mean`` over data, the spread of the Monte-Carlo noise included."""
        return (self.values.double().std(correction=1) / math.sqrt(len(self.values))).item()

    @property
    def monte_carlo_standard_error(self) -> float:
        """The part of it that other particles would change: √(Σ_n SE_n²) / N, what ``mean`` errs by on these data."""
        return (self.standard_error.double().square().sum().sqrt() / len(self.values)).item()

    @property
    def data_standard_error(self) -> float:
        """The part of it that other data would change: what is left when the Monte-Carlo part is taken out."""
        return math.sqrt(max(0.0, self.mean_standard_error**2 - self.monte_carlo_standard_error**2))

    @property
    def bias(self) -> Tensor:
        """What each value is off by in expectation, to the first order in 1/S: −½ SE², shape (N,), nats.

        By the delta method, E[log p̂] = log p − Var(p̂)/(2p²) + …; of no use where the weights are so heavy-tailed (see
        :attr:`k_hat`) that SE itself cannot be trusted.
        """
        return -0.5 * self.standard_error.square()

    @property
    def meaning(self) -> str:
        """One sentence on what ``values`` are: exact, or a bound in expectation, and from which side."""
        if self.method == "exact":
            return "log p(x), exact."
        return f"A lower bound of log p(x) in expectation, by {self.num_particles:,} importance weights a datum."

    def __repr__(self) -> str:
        """What there is to say in one line; the numbers of each datum are in the attributes."""
        value = f"log p(x) {self.mean:.3f} ± {self.mean_standard_error:.3f} nats per datum, N = {len(self.values):,}"
        if self.num_particles == 0:
            return f"{value}, exact"
        doubt = f"k̂ over its threshold for {self.k_hat_share:.0%} of the data"
        error = f"± {self.monte_carlo_standard_error:.3f} of it Monte Carlo"
        return f"{value}; {error}; {self.meaning[0].lower()}{self.meaning[1:-1]}; {doubt}"

    @property
    def k_hat_share(self) -> float:
        """Share of data whose k̂ is over its threshold, so that more particles may move their value."""
        return (self.k_hat > k_hat_threshold(self.num_particles)).double().mean().item() if self.num_particles else 0.0


@dataclass(frozen=True, eq=False)
class _Terms:
    """Log-densities at z ~ q for a block of data, each (S, n): log p(x|z), log p(z), log q(z|x)."""

    likelihood: Tensor
    prior: Tensor
    guide: Tensor
    latents: dict[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        return self.likelihood + self.prior - self.guide


def log_weights(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    guide: Program | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    distributed: bool = False,
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
        distributed: Share the data, block by block, among the processes of ``torch.distributed`` (see ``torchrun``),
            which must be initialised.  Every process is given the same model and data, and all return the values that
            one alone would.

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
    group = process_group(distributed)
    blocks = block_terms(model, x, num_particles, guide, chunk_size, seed, progress, group)
    own = [(terms.log_weights,) for terms in blocks]
    return torch.cat([weights for (weights,) in group.joined(own, model.program_inputs(x)[0].device)], dim=1)


def draws(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    guide: Program | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draws of z from the guide, beside the log importance weight of each.

    Args, Raises: as for :func:`log_weights`, which gives the same weights at the same seed.

    Returns:
        z of shape (S, N, ...), and log weights (S, N), nats.
    """
    blocks = list(block_terms(model, x, num_particles, guide, None, seed, None))
    return torch.cat([b.latents["z"] for b in blocks], dim=1), torch.cat([b.log_weights for b in blocks], dim=1)


def elbo(model: LatentVariableModel, x: Observations | Tensor, num_particles: int = 100, **options: Any) -> Tensor:
    """Evidence lower bound per datum, the mean of :func:`log_weights` over particles; shape (N,), nats.

    Args:
        model: As for :func:`log_weights`, like every option.
        x: N data.
        num_particles: S.
        **options: ``guide``, ``chunk_size``, ``seed``, ``progress``, ``distributed``.
    """
    return elbo_terms(model, x, num_particles, **options).elbo


def elbo_terms(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    guide: Program | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    distributed: bool = False,
) -> ELBOTerms:
    """Reconstruction E_q[log p(x|z)] and KL(q(z|x) ‖ p(z)) per datum, from the same particles.

    Args, Raises: as for :func:`log_weights`.

    Returns:
        The terms, each (N,), nats.
    """
    group = process_group(distributed)
    blocks = block_terms(model, x, num_particles, guide, chunk_size, seed, progress, group)
    own = [(terms.likelihood.mean(0), (terms.guide - terms.prior).mean(0)) for terms in blocks]
    reconstruction, kl = zip(*group.joined(own, model.program_inputs(x)[0].device), strict=True)
    return ELBOTerms(torch.cat(reconstruction), torch.cat(kl))


def summarize(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What (S, N) log weights say of each datum: log-mean-exp, its standard error, ESS and k̂, each (N,).

    The standard error is the delta method's, sd(w) / (mean(w) √S).
    """
    num_particles = len(log_w)
    log_sum = log_w.logsumexp(0)
    share = (log_w - log_sum).exp()  # normalised weights
    variance = (share - 1 / num_particles).square().sum(0) * num_particles / max(num_particles - 1, 1)
    standard_error = variance.sqrt() if num_particles > 1 else torch.full_like(log_sum, math.nan)
    return log_sum - math.log(num_particles), standard_error, 1 / share.square().sum(0), pareto_k(log_w)


@torch.no_grad()
def block_terms(
    model: LatentVariableModel,
    data: Observations | Tensor,
    num_particles: int,
    guide: Program | None,
    chunk_size: int | None,
    seed: int,
    progress: bool | None,
    group: ProcessGroup = ALONE,
) -> Iterator[_Terms]:
    """Terms for block after block of data, all particles of a block together; of every so many, one for each process.

    The guide runs once a block, on as many data as PAIRS allows, and draws all their z; the model then scores those z
    in chunks of any size, drawing nothing.  So the draws do not depend on ``chunk_size``.
    """
    check_model(model)
    if not (isinstance(num_particles, int) and num_particles >= 1):
        raise ValueError(f"`num_particles` must be a whole number of at least 1, got {num_particles!r}.")
    inputs = model.program_inputs(data)
    x = inputs[0]
    guide = guide or model.guide
    pairs = pairs_at_once(model, x, chunk_size)
    tiles = Tiles(num_particles * len(x), min(pairs, max(PAIRS, num_particles)), floats_per_pair(model, x))
    score = Scorer(model.model, tiles)
    bar = tqdm(
        total=len(x),
        desc="importance weights",
        unit="datum",
        delay=1.0,
        leave=False,
        disable=group.rank > 0 or (None if progress is None else not progress),
    )
    modes = [(program, program.training) for program in (model, guide)]
    try:
        model.eval()
        guide.eval()
        blocks = zip(*(each.split(max(1, PAIRS // num_particles)) for each in inputs), strict=True)
        for number, block in itertools.islice(enumerate(blocks), group.rank, None, group.number):
            with pyro.get_param_store().scope(), seeded(block_seed(seed, number)):
                terms = _block(score, guide, block, num_particles, pairs)
            yield terms
            bar.update(len(block[0]))
    finally:
        bar.close()
        for program, training in modes:
            program.train(training)


def _block(score: Scorer, guide: Program, inputs: tuple[Tensor, ...], num_particles: int, pairs: int) -> _Terms:
    """Terms (S, n) for one block of data, decoded at most ``pairs`` (particle, datum) pairs at a time."""
    x = inputs[0]
    with pyro.plate("particles", num_particles, dim=-2):
        drawn = poutine.trace(guide).get_trace(*inputs)
    latents: dict[str, Any] = {name: site for name, site in drawn.nodes.items() if is_latent(site)}
    columns = min(pairs, len(x))
    rows = pairs // columns
    tiles = []
    for i in range(0, num_particles, rows):
        row = []
        for j in range(0, len(x), columns):
            values = {name: site["value"][i : i + rows, j : j + columns] for name, site in latents.items()}
            part = tuple(each[j : j + columns] for each in inputs)
            row.append(score(part, values, min(rows, num_particles - i)))
        tiles.append([torch.cat(parts, dim=1) for parts in zip(*row, strict=True)])
    likelihood, prior = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    values = {name: site["value"] for name, site in latents.items()}
    return _Terms(likelihood, prior, total(latents.values(), num_particles, x), values)
