"""Where a model and its guide are wrong, and not only how much: calibration of q, and replicated data.

No leave-one-out by importance weights is offered here.  With the parameters fixed, p(x_n|all other data) is
log p(x_n) itself, which :func:`log_likelihood` gives; and z_n belongs to x_n alone, so that weights 1/p(x_n|z_n)
over draws of its posterior, which leave x_n out, lead back to the prior, with a variance that mostly is infinite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_choice, check_whole
from pyrovae.engine.progress import progress_bar
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.evaluate.evaluation import simulated
from pyrovae.evaluate.latents.encoding import (
    Posterior,
    continuous_posteriors,
    joined,
    posteriors_by_site,
    unit_names,
)
from pyrovae.evaluate.samples.decoding import decode_samples
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.latents import bare

Statistic = Callable[[Tensor], Tensor | float]
KEPT_NUMBERS = 2**20  # of replicated data, for pictures
ROUNDING = 8  # in units of the last digit: statistics that differ by less are equal
LEAST_EXPECTED = 5  # ranks in a bin, for the χ² distribution to hold

STATISTICS: dict[str, Statistic] = {
    "mean": lambda x: x.mean(),
    "standard deviation": lambda x: x.std(),
    "smallest": lambda x: x.min(),
    "largest": lambda x: x.max(),
    "spread between data": lambda x: x.flatten(1).mean(1).std(),
    "spread within data": lambda x: x.flatten(1).std(1).mean(),
}


@dataclass(frozen=True, eq=False)
class SimulationBasedCalibration:
    """Where true latents rank among draws of a guide, over simulated data.

    Attributes:
        ranks: How many of the draws of q(z_l|x_n) are below the z_l that x_n was made from, shape (N, L), in 0,
            …, S.
        pit: The ranks as numbers in [0, 1], spread evenly within (rank, rank + 1)/(S + 1), shape (N, L), float64.
        num_draws: S.
        num_bins: Of the χ² test.
        units: What the L units are called, those of one site after those of another.
    """

    ranks: Tensor
    pit: Tensor
    num_draws: int
    num_bins: int
    units: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.units:
            object.__setattr__(self, "units", unit_names({"z": self.ranks.shape[1]}))

    @property
    def statistic(self) -> Tensor:
        """χ² of the ranks in bins of equal size against evenly many in each, shape (L,)."""
        size = (self.num_draws + 1) // self.num_bins
        binned = torch.nn.functional.one_hot(self.ranks // size, self.num_bins).sum(0).double()
        expected = len(self.ranks) / self.num_bins
        return (binned - expected).square().sum(1) / expected

    @property
    def p_values(self) -> Tensor:
        """Of a larger χ² under a calibrated guide, shape (L,)."""
        degrees = torch.tensor((self.num_bins - 1) / 2, dtype=torch.float64)
        return torch.special.gammaincc(degrees, self.statistic / 2)

    @property
    def p_value(self) -> float:
        """Of all latents together: the smallest, times their number (Bonferroni), at most 1."""
        return min(1.0, self.p_values.min().item() * len(self.p_values))

    def coverage(self, level: float = 0.9) -> Tensor:
        """Share of the data whose z_l lies within the central interval of so much mass of q, shape (L,).

        It is below ``level`` where q is too narrow, above it where q is too wide.
        """
        return ((self.pit - 0.5).abs() <= level / 2).double().mean(0)

    def __str__(self) -> str:
        columns = (self.statistic.tolist(), self.p_values.tolist(), self.coverage().tolist())
        lines = [
            f"{unit:<6} {chi2:8.1f} {p:9.4f} {share:18.1%}"
            for unit, chi2, p, share in zip(self.units, *columns, strict=True)
        ]
        header = f"{'unit':<6} {'chi2':>8} {'p-value':>9} {'90% interval holds':>18}"
        end = f"p-value of all: {self.p_value:.4f}; N = {len(self.ranks):,}, {self.num_bins} bins"
        return "\n".join([header, *lines, end])


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Statistics of data, beside those of data that a model has replicated.

    Attributes:
        observed: T(x), by name.
        replicated: T of every replicate, by name, each shape (R,), float64.
        latents: ``"posterior"`` or ``"prior"``: what the z of the replicates were drawn from.
        data: x, those that were kept for pictures, shape (n, *data_shape).
        replicates: The same of some replicates, shape (r, n, *data_shape).
    """

    observed: dict[str, float]
    replicated: dict[str, Tensor]
    latents: Literal["posterior", "prior"]
    data: Tensor
    replicates: Tensor

    @property
    def p_values(self) -> dict[str, float]:
        """Of a T as large as that of the data: (#{T_r > T} + ½ #{T_r = T} + ½) / (R + 1), never 0 nor 1.

        T_r that differ from T by rounding are equal to it.
        """
        eps = torch.finfo(self.data.dtype).eps
        return {name: _share_above(self.replicated[name], value, eps) for name, value in self.observed.items()}

    def __str__(self) -> str:
        header = f"{'statistic':<22} {'data':>10} {'replicates':>10} {'± s.d.':>9} {'p-value':>8}"
        lines = [
            f"{name:<22} {value:10.4g} {self.replicated[name].mean():10.4g} {self.replicated[name].std():9.2g} {p:8.3f}"
            for (name, value), p in zip(self.observed.items(), self.p_values.values(), strict=True)
        ]
        return "\n".join([header, *lines])


@torch.no_grad()
def simulation_based_calibration(
    model: LatentVariableModel,
    num_data: int = 1000,
    num_draws: int = 99,
    *,
    num_bins: int = 20,
    guide: Program | None = None,
    labels: Tensor | int | None = None,
    seed: int = 0,
) -> SimulationBasedCalibration:
    """Simulation-based calibration of a guide: z from the prior, x from the model, the rank of z among draws of q.

    If q(z|x) is the posterior, every rank is equally likely.  Ranks that pile up at both ends mean a q that is
    too narrow, in the middle one that is too wide, at one end one that is shifted.  This is a statement about data that
    the model makes, on average over them: q may be calibrated and yet ignore x, as the prior is.

    Args:
        model: Any model of continuous latents; those of several sites are ranked side by side.
        num_data: N data to simulate.
        num_draws: S draws of q for each.
        num_bins: Bins of the χ² test, a divisor of S + 1.
        guide: q; by default ``model.guide``.
        labels: For a model of p(x|y), as for its ``sample``.
        seed: Of the data and the draws.

    Returns:
        The ranks, and the test of their uniformity.

    Raises:
        ValueError: If an argument is out of range, or z is discrete.

    Example:
        >>> from pyrovae import PPCA
        >>> ranks = simulation_based_calibration(PPCA(latent_dim=2, data_shape=(5,)), num_data=200)
        >>> ranks.ranks.shape, ranks.p_value > 1e-3
        (torch.Size([200, 2]), True)

    Reference:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms with
        simulation-based calibration.
    """
    check_whole("num_bins", num_bins, 2)
    check_whole("num_data", num_data, LEAST_EXPECTED * num_bins)
    check_whole("num_draws", num_draws)
    if (num_draws + 1) % num_bins:
        raise ValueError(
            f"`num_bins` must be a divisor of `num_draws` + 1 = {num_draws + 1}, got {num_bins}; take 99 draws and 20."
        )
    data, latents = simulated(model, num_data, labels, block_seed(seed, 0))
    blocks = continuous_posteriors(model, data, "to be ranked", guide=guide or model.guide)
    with seeded(block_seed(seed, 1)):
        drawn = joined([block.draws(num_draws) for block in blocks], dim=1)
        if set(drawn) != set(latents):
            raise ValueError(f"`guide` must sample the latents {list(latents)}, got {list(drawn)}.")
        below = {name: (drawn[name] < value).sum(0).reshape(num_data, -1) for name, value in latents.items()}
        ranks = torch.cat(list(below.values()), dim=1).cpu()
        within = torch.rand(ranks.shape, dtype=torch.float64)
    units = unit_names({name: each.shape[1] for name, each in below.items()})
    return SimulationBasedCalibration(ranks, (ranks + within) / (num_draws + 1), num_draws, num_bins, units)


@torch.no_grad()
def posterior_predictive_check(
    model: LatentVariableModel,
    data: Observations | Tensor,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    num_replicates: int = 200,
    latents: Literal["posterior", "prior"] = "posterior",
    seed: int = 0,
    progress: bool | None = None,
) -> PredictiveCheck:
    """Statistics of the data beside those of data that the model replicates, each replicate a whole data set.

    With ``latents="posterior"`` every datum is replicated from its own z ~ q(z|x): the question is whether p(x|z)
    makes such data.  The replicates have then seen the data, and p-values near ½ come too easily.  With
    ``"prior"`` nothing of these data is in them: they are N new samples, and under a true model a p-value of held-out
    data is uniform.

    Args:
        model: Any model; q is its exact posterior where that is known, else its guide, which must sample z.
        data: N data.
        statistics: Name → T, from x (N, *data_shape) as the model sees them to a number; by default mean and standard
            deviation of all numbers, the smallest and the largest, and the spread between and within data.
        num_replicates: R.
        latents: What the replicates' z are drawn from.
        seed: Of the replicates.
        progress: Show a progress bar; by default one appears after a second.

    Returns:
        The statistics, their p-values, and some of the replicates.

    Raises:
        ValueError: If an argument is out of range, there are no statistics, or one is no finite number.

    Example:
        >>> from pyrovae import PPCA
        >>> ppca = PPCA(latent_dim=1, data_shape=(3,))
        >>> x, _ = ppca.sample(50)
        >>> check = posterior_predictive_check(ppca, 3 * x, num_replicates=20, latents="prior")
        >>> check.p_values["standard deviation"] < 0.05
        True

    Reference:
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies.
    """
    check_whole("num_replicates", num_replicates)
    check_choice("latents", latents, ("posterior", "prior"))
    statistics = STATISTICS if statistics is None else statistics
    if not statistics:
        raise ValueError("`statistics` must hold at least one statistic, got none.")
    x, *labels = model.program_inputs(data)
    if statistics is STATISTICS and len(x) < 2:
        raise ValueError("`data` must hold at least 2 data for the default `statistics`, got 1; give your own.")
    observed = {name: _number(name, statistic, x) for name, statistic in statistics.items()}
    every_q = list(posteriors_by_site(model, data)) if latents == "posterior" else None
    rows = max(1, min(len(x), KEPT_NUMBERS // x[0].numel()))
    kept: list[Tensor] = []
    found: list[list[float]] = []
    for number in progress_bar(range(num_replicates), desc="replicated data", unit="replicate", progress=progress):
        replicate = _replicate(model, every_q, len(x), labels[0] if labels else None, block_seed(seed, number))
        found.append([_number(name, statistic, replicate) for name, statistic in statistics.items()])
        if len(kept) * rows * x[0].numel() < KEPT_NUMBERS:
            kept.append(replicate[:rows].cpu())
    replicated = dict(zip(statistics, torch.tensor(found, dtype=torch.float64).T.contiguous(), strict=True))
    return PredictiveCheck(observed, replicated, latents, x[:rows].cpu(), torch.stack(kept))


def _replicate(
    model: LatentVariableModel, every_q: list[Posterior] | None, num_data: int, labels: Tensor | None, seed: int
) -> Tensor:
    """A data set from the model, its z from q of every datum or, without, from the prior."""
    if every_q is None:
        return model.sample(num_data, labels=labels, seed=seed)[0]
    with seeded(seed):
        z = joined([q.draws(1) for q in every_q], dim=1)
    return decode_samples(model, bare({name: value[0] for name, value in z.items()}), labels, seed=block_seed(seed))


def _number(name: str, statistic: Statistic, x: Tensor) -> float:
    value = float(statistic(x))
    if not torch.isfinite(torch.tensor(value)):
        raise ValueError(f"`statistics[{name!r}]` must give a finite number, got {value}.")
    return value


def _share_above(replicated: Tensor, value: float, eps: float) -> float:
    rounding = ROUNDING * eps * max(abs(value), replicated.abs().max().item())
    above, below = (replicated > value + rounding).sum().item(), (replicated < value - rounding).sum().item()
    return (len(replicated) + above - below + 1) / (2 * len(replicated) + 2)
