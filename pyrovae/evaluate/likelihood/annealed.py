"""Annealed importance sampling: log p(x) of a model whose posterior no guide matches, bounded from one side or both.

A chain goes from f_0, the prior or a guide, to the posterior by way of f_β = f_0^(1−β) p(x, z)^β at 0 = β_0 < … < β_T =
1, with a step of Hamiltonian Monte Carlo at every β between.  Its weight, Π_t f_{β_t}(z_{t−1}) / f_{β_{t−1}}(z_{t−1}),
has mean p(x), so that log (1/S) Σ_s w_s is below log p(x) in expectation.  Run from a draw of the exact posterior back
to f_0, the weight's reciprocal has mean 1/p(x), and −log (1/S) Σ_s 1/w_s is above log p(x) in expectation.  Such a draw
is at hand for simulated data: the z that x was made from.

**What is adapted, and when.**  Both statements need transitions that leave their f_β invariant, and a step size that
follows its own chain does not.  So a pilot run with chains of its own goes up the same β first, and multiplies the step
of every datum by exp(0.1 (a − target)) after each transition, a being the chains' mean probability of acceptance.  What
it found at each β is then frozen; the chains that are weighed draw other random numbers, and given the steps are an
ordinary annealed importance sampler.  The pilot sees x and never the z that x was made from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.processes import ALONE, ProcessGroup, process_group
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.evaluate.likelihood.hmc import Path, transition
from pyrovae.evaluate.likelihood.importance import PAIRS, LogLikelihood, summarize
from pyrovae.evaluate.likelihood.joint import Joint, evaluating, progress_bar
from pyrovae.evaluate.likelihood.scoring import Tiles, floats_per_pair, is_latent, pairs_at_once
from pyrovae.models.base import LatentVariableModel, Program, check_model, check_whole

Start = Literal["prior", "guide"]
Schedule = Literal["sigmoid", "linear"]

PILOT_CHAINS = 4
PILOT_TRANSITIONS = 100  # at least so many, over all β
PILOT_WARM_UP = 50  # more, at the first β
FIRST_STEP = 0.1
ADAPTATION = 0.1
SIGMOID_REACH = 4.0


@dataclass(frozen=True, eq=False, repr=False)
class AnnealedLikelihood(LogLikelihood):
    """log p(x) by annealed importance sampling: a :class:`LogLikelihood`, of which ``num_particles`` are chains.

    The chains of an upper bound all start from the one exact z of their datum, and ``standard_error`` knows nothing of
    what another z would have changed; over many data, each with its own z, that averages out.

    Attributes:
        bound: ``"lower"``, or from reverse chains ``"upper"``: on which side of log p(x) the expectation is.
        log_weights: log w of every chain, shape (S, N), float64.
        acceptance: Mean probability of acceptance, shape (N,).
        num_temperatures: T.
    """

    bound: Literal["lower", "upper"]
    log_weights: Tensor
    acceptance: Tensor
    num_temperatures: int

    @property
    def bias(self) -> Tensor:
        """As for any :class:`LogLikelihood`; upwards for an upper bound."""
        return super().bias if self.bound == "lower" else -super().bias

    @property
    def meaning(self) -> str:
        return (
            f"{'A lower' if self.bound == 'lower' else 'An upper'} bound of log p(x) in expectation, by "
            f"{self.num_particles:,} annealed chains of {self.num_temperatures:,} temperatures a datum."
        )


@dataclass(frozen=True, eq=False)
class Sandwich:
    """log p(x) of simulated data, from both sides.

    Attributes:
        lower: From chains up to the posterior: below log p(x) in expectation.
        upper: From chains down from the exact posterior: above it in expectation.
        data: The simulated x.
        latents: The z of every x, by site.
    """

    lower: AnnealedLikelihood
    upper: AnnealedLikelihood
    data: Observations
    latents: dict[str, Tensor]

    @property
    def gap(self) -> float:
        """Mean of upper − lower, nats per datum: what is not known of the mean log p(x), up to its standard error."""
        return (self.upper.values - self.lower.values).mean().item()

    @property
    def gap_standard_error(self) -> float:
        """Standard error of :attr:`gap`, by its spread over data: that of the z the chains start from is in it."""
        difference = self.upper.values - self.lower.values
        return (difference.std(correction=1) / math.sqrt(len(difference))).item()

    def __str__(self) -> str:
        rows = [
            f"{name} bound in expectation {each.mean:12.4f} ± {each.monte_carlo_standard_error:.4f} nats per datum, "
            f"acceptance {each.acceptance.mean():.2f}"
            for name, each in (("lower", self.lower), ("upper", self.upper))
        ]
        return "\n".join([*rows, f"gap {self.gap:.4f} ± {self.gap_standard_error:.4f}, N = {len(self.data):,}"])


@dataclass(frozen=True)
class _Settings:
    num_chains: int
    betas: list[float]
    start: Start
    num_leapfrog: int
    acceptance: float


def ais(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    start: Start = "prior",
    num_leapfrog: int = 10,
    acceptance: float = 0.65,
    schedule: Schedule = "sigmoid",
    guide: Program | None = None,
    reverse_from: Tensor | dict[str, Tensor] | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    distributed: bool = False,
) -> AnnealedLikelihood:
    """log p(x) per datum by annealed importance sampling, for any program with continuous latents in its plate of data.

    Args:
        model: Any model; several latent sites are annealed together, constrained ones in unconstrained coordinates.
        data: N data, Observations or tensor.
        num_chains: S.
        num_temperatures: T: the values of β above 0.  The bound tightens with it.
        start: f_0: ``"prior"``, or ``"guide"`` for q(z|x).
        num_leapfrog: Leapfrog steps of a transition.
        acceptance: The probability of acceptance that a pilot run adapts the step sizes to.
        schedule: ``"linear"``, β_t = t/T, or ``"sigmoid"``, which takes smaller steps near 0 and 1.
        guide: q; by default ``model.guide``.
        reverse_from: z from the exact posterior of every datum, shape (N, ...), by site if there are several: run down
            from it, for an upper bound in expectation.
        chunk_size: (chain, datum) pairs decoded at once; bounds the memory, never changes a draw.
        seed: Seed of all draws.
        progress: Show a progress bar; by default one appears after a second.
        distributed: Share the data among processes, as in :func:`log_weights`.

    Returns:
        The estimates, their delta-method standard errors, effective numbers of chains, and rates of acceptance.

    Raises:
        ValueError: If an argument is out of range, the data do not fit, a latent is discrete or outside the plate, or
            p(x|z) is no density.

    Example:
        >>> from pyrovae import PPCA
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> estimate = ais(ppca, torch.zeros(3, 5, dtype=torch.float64), num_temperatures=20, num_chains=4)
        >>> estimate.values.shape, estimate.bound
        (torch.Size([3]), 'lower')

    Reference:
        Neal (2001), Annealed importance sampling; Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative
        analysis of decoder-based generative models; Grosse, Ghahramani and Adams (2015), Sandwiching the marginal
        likelihood using bidirectional Monte Carlo.
    """
    settings = _settings(model, num_chains, num_temperatures, start, num_leapfrog, acceptance, schedule)
    values = {"z": reverse_from} if isinstance(reverse_from, Tensor) else reverse_from
    forward = values is None
    bounds = _run(model, data, settings, guide, values, forward, chunk_size, seed, progress, process_group(distributed))
    return bounds["lower" if forward else "upper"]


def sandwich(
    model: LatentVariableModel,
    num_data: int = 100,
    *,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    start: Start = "prior",
    num_leapfrog: int = 10,
    acceptance: float = 0.65,
    schedule: Schedule = "sigmoid",
    guide: Program | None = None,
    labels: Tensor | int | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    distributed: bool = False,
) -> Sandwich:
    """log p(x) of data that the model itself simulates, bounded from both sides by the same annealed chains.

    What it says of simulated data, it says of real ones only as far as those are like them.

    Args:
        model: Any model.
        num_data: N.
        labels: For a model of p(x|y), as for its ``sample``.
        num_chains, num_temperatures, start, num_leapfrog, acceptance, schedule, guide, chunk_size, progress,
        distributed: As for :func:`ais`.
        seed: Seed of the data and of the chains.

    Returns:
        Both bounds, and the data.

    Raises:
        ValueError: As :func:`ais`.

    Example:
        >>> from pyrovae import PPCA
        >>> both = sandwich(PPCA(latent_dim=2, data_shape=(5,)), 3, num_temperatures=20, num_chains=4)
        >>> both.lower.bound, both.upper.bound
        ('lower', 'upper')

    Reference:
        Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional Monte Carlo.
    """
    settings = _settings(model, num_chains, num_temperatures, start, num_leapfrog, acceptance, schedule)
    check_whole("num_data", num_data)
    with torch.no_grad(), evaluating(model):
        sites = model._generate(num_data, labels, seed)
        given = model._labels_to_generate(num_data, labels)
    observations = Observations(sites["x"]["value"], labels=given[0] if given else None)
    latents = {name: site["value"] for name, site in sites.items() if is_latent(site) and name != "x"}
    group = process_group(distributed)
    bounds = _run(model, observations, settings, guide, latents, True, chunk_size, seed, progress, group)
    return Sandwich(bounds["lower"], bounds["upper"], observations, latents)


def _settings(
    model: LatentVariableModel,
    num_chains: int,
    num_temperatures: int,
    start: Start,
    num_leapfrog: int,
    acceptance: float,
    schedule: Schedule,
) -> _Settings:
    check_model(model)
    if not model.is_density:
        raise ValueError(
            f"`model` must have a likelihood that is a density or a mass, got a {type(model).__name__} trained by a "
            "loss that is neither."
        )
    check_whole("num_chains", num_chains)
    check_whole("num_temperatures", num_temperatures)
    check_whole("num_leapfrog", num_leapfrog)
    if start not in ("prior", "guide"):
        raise ValueError(f'`start` must be "prior" or "guide", got {start!r}.')
    if not 0 < acceptance < 1:
        raise ValueError(f"`acceptance` must be between 0 and 1, got {acceptance}.")
    return _Settings(num_chains, inverse_temperatures(num_temperatures, schedule), start, num_leapfrog, acceptance)


def inverse_temperatures(num_temperatures: int, schedule: Schedule = "sigmoid") -> list[float]:
    """β_0 = 0, …, β_T = 1: evenly spaced, or those of a logistic curve from −4 to 4, rescaled.

    Raises:
        ValueError: If the schedule is unknown.

    Example:
        >>> inverse_temperatures(4, "linear")
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if schedule not in ("sigmoid", "linear"):
        raise ValueError(f'`schedule` must be "sigmoid" or "linear", got {schedule!r}.')
    even = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return even.tolist()
    curve = torch.sigmoid(SIGMOID_REACH * (2 * even - 1))
    return ((curve - curve[0]) / (curve[-1] - curve[0])).tolist()


@torch.no_grad()
def _run(
    model: LatentVariableModel,
    data: Observations | Tensor,
    settings: _Settings,
    guide: Program | None,
    latents: dict[str, Tensor] | None,
    forward: bool,
    chunk_size: int | None,
    seed: int,
    progress: bool | None,
    group: ProcessGroup = ALONE,
) -> dict[str, AnnealedLikelihood]:
    """Block after block of data: a pilot run, then chains up, and chains down from ``latents`` where they are given."""
    inputs = model.program_inputs(data)
    guide = guide or model.guide
    pairs = pairs_at_once(model, inputs[0], chunk_size)
    size = max(1, PAIRS // settings.num_chains)
    num_blocks, num_legs = math.ceil(len(inputs[0]) / size), len(settings.betas) - 1
    num_runs = 1 + forward + (latents is not None)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"lower": [], "upper": []}
    with (
        progress_bar(num_blocks * num_runs * num_legs, "annealing", "β", progress and group.rank == 0) as bar,
        evaluating(model, guide),
    ):
        for number in range(group.rank, num_blocks, group.number):
            part = slice(number * size, (number + 1) * size)
            with seeded(block_seed(seed, number)):
                joint = Joint(model.model, tuple(each[part] for each in inputs), pairs)
                exact = None if latents is None else _exact_draws(joint, latents, inputs[0], part)
                points = num_runs * num_legs * settings.num_leapfrog * settings.num_chains * len(joint.inputs[0])
                at_once = min(pairs, settings.num_chains * len(joint.inputs[0]))
                tiles = Tiles(points, at_once, 3 * floats_per_pair(model, inputs[0]))  # 3: with gradients
                path = Path(joint, guide if settings.start == "guide" else None, tiles)
                steps = _pilot(path, settings, bar)
                if forward:
                    parts["lower"].append(_anneal(path, settings, steps, None, bar))
                if exact is not None:
                    parts["upper"].append(_anneal(path, settings, steps, exact, bar))
    joined = {bound: group.joined(each, inputs[0].device) for bound, each in parts.items()}
    return {bound: _likelihood(bound, each, num_legs) for bound, each in joined.items() if each}


def _pilot(path: Path, settings: _Settings, bar: Any) -> Tensor:
    """Step sizes (T − 1, n) for the β between the ends, from chains that are then forgotten."""
    betas = settings.betas[1:-1]
    point = path.at(path.start(min(settings.num_chains, PILOT_CHAINS)))
    step = torch.full_like(point.base[0], FIRST_STEP)
    steps = step.new_empty(len(betas), len(step))
    repeats = math.ceil(PILOT_TRANSITIONS / max(1, len(betas)))
    for t, beta in enumerate(betas):
        for _ in range(repeats + (PILOT_WARM_UP if t == 0 else 0)):
            point, probability = transition(path, point, beta, step, settings.num_leapfrog)
            step = step * (ADAPTATION * (probability.mean(0) - settings.acceptance)).exp()
        steps[t] = step
        bar.update()
    bar.update()
    return steps


def _anneal(path: Path, settings: _Settings, steps: Tensor, exact: Tensor | None, bar: Any) -> tuple[Tensor, Tensor]:
    """log w (S, n) of chains from f_0 up, or from ``exact`` draws of the posterior down; and their mean acceptance."""
    betas = settings.betas
    up = exact is None
    point = path.at(path.start(settings.num_chains) if exact is None else exact.expand(settings.num_chains, -1, -1))
    log_w, accepted = torch.zeros_like(point.rise, dtype=torch.float64), torch.zeros_like(point.base[0])
    legs = range(1, len(betas))  # leg t lies between β_{t−1} and β_t, and adds its part of log w
    for number, t in enumerate(legs if up else reversed(legs)):
        if number > 0:  # at the β where this leg begins
            between = t - 1 if up else t
            step = steps[between - 1]
            point, probability = transition(path, point, betas[between], step, settings.num_leapfrog)
            accepted += probability.mean(0)
        log_w += (betas[t] - betas[t - 1]) * point.rise.double()
        bar.update()
    return log_w, accepted / max(1, len(betas) - 2) if len(betas) > 2 else torch.full_like(accepted, math.nan)


def _exact_draws(joint: Joint, latents: Any, x: Tensor, part: slice) -> Tensor:
    """The given z of a block of data, (n, L)."""
    for name, value in latents.items():
        if len(value) != len(x):
            raise ValueError(
                f"`reverse_from` must hold one z for each of the {len(x)} data, got shape {tuple(value.shape)} of site "
                f"{name!r}."
            )
    return joint.flat({name: value[part].to(x) for name, value in latents.items()}, "`reverse_from` must hold")


def _likelihood(bound: Any, parts: list[list[Tensor]], num_temperatures: int) -> AnnealedLikelihood:
    log_weights, acceptances = zip(*parts, strict=True)
    log_w, sign = torch.cat(log_weights, dim=1), 1 if bound == "lower" else -1
    values, standard_error, ess, k_hat = summarize(sign * log_w)
    return AnnealedLikelihood(
        values=sign * values,
        method="annealed",
        num_particles=len(log_w),
        standard_error=standard_error,
        ess=ess,
        k_hat=k_hat,
        bound=bound,
        log_weights=log_w,
        acceptance=torch.cat(acceptances),
        num_temperatures=num_temperatures,
    )
