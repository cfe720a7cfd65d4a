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

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_choice, check_share, check_whole
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.evaluate.checks import check_density
from pyrovae.evaluate.evaluation import Evaluation, Latents
from pyrovae.evaluate.likelihood.estimate import LogLikelihood, summarize
from pyrovae.evaluate.likelihood.hmc import Path, transition
from pyrovae.evaluate.likelihood.importance import PAIRS
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.plates import check_likelihood, plates_of
from pyrovae.evaluate.likelihood.tiles import Tiles
from pyrovae.models.base import LatentVariableModel, Program

Start = Literal["prior", "guide"]
Schedule = Literal["sigmoid", "linear"]

PILOT_CHAINS = 4
PILOT_TRANSITIONS = 100  # at least so many, over all β
PILOT_WARM_UP = 50  # more, at the first β
FIRST_STEP = 0.1
ADAPTATION = 0.1
SIGMOID_REACH = 4.0


@dataclass(frozen=True)
class AISOptions:
    """How to anneal, from f_0 at β = 0 to p(x, z) at β = 1.

    Attributes:
        num_chains: S.
        num_temperatures: T: the values of β above 0.  The bound tightens with it.
        start: f_0: ``"prior"``, or ``"guide"`` for q(z|x).
        num_leapfrog: Leapfrog steps of a transition.
        acceptance: The probability of acceptance that a pilot run adapts the step sizes to.
        schedule: ``"linear"``, β_t = t/T, or ``"sigmoid"``, a logistic curve from −4 to 4, rescaled, which takes
            smaller steps near 0 and 1.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> AISOptions(num_temperatures=4, schedule="linear").inverse_temperatures
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    num_chains: int = 16
    num_temperatures: int = 1000
    start: Start = "prior"
    num_leapfrog: int = 10
    acceptance: float = 0.65
    schedule: Schedule = "sigmoid"

    def __post_init__(self) -> None:
        for name in ("num_chains", "num_temperatures", "num_leapfrog"):
            check_whole(name, getattr(self, name))
        check_choice("start", self.start, ("prior", "guide"))
        check_choice("schedule", self.schedule, ("sigmoid", "linear"))
        check_share("acceptance", self.acceptance)

    @property
    def inverse_temperatures(self) -> list[float]:
        """β_0 = 0, …, β_T = 1."""
        even = torch.linspace(0, 1, self.num_temperatures + 1, dtype=torch.float64)
        if self.schedule == "linear":
            return even.tolist()
        curve = torch.sigmoid(SIGMOID_REACH * (2 * even - 1))
        return ((curve - curve[0]) / (curve[-1] - curve[0])).tolist()


DEFAULT_OPTIONS = AISOptions()


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


@keywords_moved(options=AISOptions, execution=Execution)
def ais(
    model: LatentVariableModel,
    data: Observations | Tensor,
    options: AISOptions = DEFAULT_OPTIONS,
    *,
    guide: Program | None = None,
    reverse_from: Tensor | dict[str, Tensor] | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> AnnealedLikelihood:
    """log p(x) per datum by annealed importance sampling, for any program with continuous latents in its plate of data.

    Args:
        model: Any model; several latent sites are annealed together, constrained ones in unconstrained coordinates.
        data: N data, Observations or tensor.
        options: How to anneal.
        guide: q; by default ``model.guide``.
        reverse_from: z from the exact posterior of every datum, shape (N, ...), by site if there are several: run down
            from it, for an upper bound in expectation.
        chunk_size: (chain, datum) pairs decoded at once; bounds the memory, never changes a draw.
        seed: Seed of all draws.
        progress: Show a progress bar; by default one appears after a second.
        execution: As for :func:`log_weights`.

    Returns:
        The estimates, their delta-method standard errors, effective numbers of chains, and rates of acceptance.

    Raises:
        ValueError: If an argument is out of range, the data do not fit, a latent is discrete or outside the plate, or
            p(x|z) is no density, or a site is scaled.

    Example:
        >>> from pyrovae import PPCA
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> estimate = ais(ppca, torch.zeros(3, 5), AISOptions(num_temperatures=20, num_chains=4))
        >>> estimate.values.shape, estimate.bound
        (torch.Size([3]), 'lower')

    Reference:
        Neal (2001), Annealed importance sampling; Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative
        analysis of decoder-based generative models; Grosse, Ghahramani and Adams (2015), Sandwiching the marginal
        likelihood using bidirectional Monte Carlo.
    """
    run = Evaluation(model, data, guide, chunk_size, seed, progress, execution)
    if reverse_from is None:
        return bounds(run, options)["lower"]
    z = {"z": reverse_from} if isinstance(reverse_from, Tensor) else reverse_from
    return bounds(run, options, z, forward=False)["upper"]


@torch.no_grad()
def bounds(
    run: Evaluation, options: AISOptions, posterior_draws: Latents | None = None, forward: bool = True
) -> dict[str, AnnealedLikelihood]:
    """The lower bound by chains up, and, where draws of the exact posterior are given, the upper one by chains down.

    Both are weighed after one pilot run, block after block of data.
    """
    check_density(run.model)
    names = ["lower"] * forward + ["upper"] * (posterior_draws is not None)
    size, num_data = max(1, PAIRS // options.num_chains), len(run.inputs[0])
    num_legs = (1 + len(names)) * options.num_temperatures
    found = []
    with run.bar(math.ceil(num_data / size) * num_legs, "annealing", "β") as bar:
        for number, block in run.blocks(size):
            num_pairs = options.num_chains * len(block[0])
            tiles = Tiles.of(run, num_legs * options.num_leapfrog * num_pairs, num_pairs, cost=3)  # with gradients
            with run.at(number):
                guides = [run.guide] if options.start == "guide" else []
                joint = Joint(run.model.model, block, tiles, plates_of(run, *guides, run.model.model))
                check_likelihood(joint.plates)
                path = Path(joint, *guides)
                z = None if posterior_draws is None else _exact_draws(joint, posterior_draws, num_data, number * size)
                chains = Chains(path, options, bar)
                found.append([each for name in names for each in chains.weigh(z if name == "upper" else None)])
    columns = run.joined(found)
    return {name: _likelihood(name, next(columns), next(columns), options.num_temperatures) for name in names}


class Chains:
    """Chains along the path of one block of data, at step sizes that a pilot run has found.

    Args:
        path: From f_0 to p(x, z).
        options: How to anneal.
        bar: The progress bar.
    """

    def __init__(self, path: Path, options: AISOptions, bar: Any) -> None:
        self.path, self.options, self.bar = path, options, bar
        self.betas = options.inverse_temperatures
        self.steps = self._pilot()

    def _pilot(self) -> Tensor:
        """Step sizes (T − 1, n) for the β between the ends, from chains that are then forgotten."""
        betas, num_chains = self.betas[1:-1], min(self.options.num_chains, PILOT_CHAINS)
        point = self.path.at(self.path.start(num_chains))
        step = torch.full_like(point.base[0], FIRST_STEP)
        steps = step.new_empty(len(betas), len(step))
        repeats = math.ceil(PILOT_TRANSITIONS / max(1, len(betas)))
        for t, beta in enumerate(betas):
            for _ in range(repeats + (PILOT_WARM_UP if t == 0 else 0)):
                point, probability = transition(self.path, point, beta, step, self.options.num_leapfrog)
                step = step * (ADAPTATION * (probability.mean(0) - self.options.acceptance)).exp()
            steps[t] = step
            self.bar.update()
        self.bar.update()
        return steps

    def weigh(self, exact: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log w (S, n) of chains from f_0 up, or from ``exact`` draws of the posterior down; their mean acceptance."""
        betas, steps, num_chains = self.betas, self.steps, self.options.num_chains
        if exact is not None:
            betas, steps = betas[::-1], steps.flip(0)
        point = self.path.at(self.path.start(num_chains) if exact is None else exact.expand(num_chains, -1, -1))
        log_w, accepted = torch.zeros_like(point.rise, dtype=torch.float64), torch.zeros_like(point.base[0])
        for leg, (here, there) in enumerate(itertools.pairwise(betas)):
            if leg > 0:
                point, probability = transition(self.path, point, here, steps[leg - 1], self.options.num_leapfrog)
                accepted += probability.mean(0)
            log_w += abs(there - here) * point.rise.double()
            self.bar.update()
        return log_w, accepted / len(steps) if len(steps) else torch.full_like(accepted, math.nan)


def _exact_draws(joint: Joint, latents: Latents, num_data: int, first: int) -> Tensor:
    """The given z of a block of data, (n, L)."""
    for name, value in latents.items():
        if len(value) != num_data:
            raise ValueError(
                f"`reverse_from` must hold one z for each of the {num_data} data, got shape {tuple(value.shape)} of "
                f"site {name!r}."
            )
    x = joint.inputs[0]
    values = {name: value[first : first + len(x)].to(x) for name, value in latents.items()}
    return joint.flat(values, "`reverse_from` must hold")


def _likelihood(
    bound: Any, log_weights: tuple[Tensor, ...], acceptance: tuple[Tensor, ...], num_temperatures: int
) -> AnnealedLikelihood:
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
        acceptance=torch.cat(acceptance),
        num_temperatures=num_temperatures,
    )
