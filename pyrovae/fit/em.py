"""Expectation-maximisation: one loop over sums of expected statistics, for every model with an E and an M step.

The E step returns sums over data, so the loop adds up chunks and never needs all of the data's intermediate values at
once.
"""

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm.auto import tqdm

from pyrovae.data import Observations
from pyrovae.data.observations import named
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.engine.isolation import alone
from pyrovae.engine.processes import ProcessGroup
from pyrovae.engine.progress import progress_bar
from pyrovae.engine.seeding import seeded
from pyrovae.fit.defaults import em_options
from pyrovae.fit.parts import Parts
from pyrovae.fit.result import ConvergenceWarning, DegeneracyWarning, DivergenceError, FitResult, Refit, nats, warn
from pyrovae.fit.select import tied_for_best
from pyrovae.fit.sources import Source, open_source
from pyrovae.fit.sums import Statistics
from pyrovae.fit.units import warn_of_floor
from pyrovae.models.tractable import TractableModel


@keywords_moved(execution=Execution)
def em(
    model: TractableModel,
    data: Observations | Tensor | np.ndarray | Parts | Iterable[Any],
    *,
    sample_weight: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 1000,
    num_restarts: int = 1,
    accelerate: bool | None = None,
    warm_start: bool = False,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> FitResult:
    """Fit by expectation-maximisation; log p(x) never falls.

    The loop stops when the log-likelihood still to be gained falls below ``tolerance``.  EM converges linearly: with
    the ratio a of the last two gains, a gain g leaves about g a / (1 − a) to come (Aitken's extrapolation), which a
    slow fit, whose gains are small but hardly shrink, does not pass by mistake.

    A restart that ends with a component at the floor, or with next to no data, is kept only if all do, and then a
    warning says so: its likelihood is that of the floor.

    Args:
        model: A model with ``initialize``, ``expected_statistics`` and ``maximize``; it is left as it was.
        data: N data: Observations or a tensor; a numpy array, memory-mapped too (``np.load(..., mmap_mode="r")``), of
            which only a chunk at a time is in memory; any iterable of batches that can be gone through once for every
            iteration (a DataLoader, say); or :class:`~pyrovae.fit.Parts` on the workers of a cluster.
        sample_weight: What each datum counts for, shape (N,): a weight of 2 is that datum twice.
        tolerance: On the mean log-likelihood, nats per datum; by default 1e-6, and 1e-3 for a tensor or an array of
            more than four million numbers.
        max_iterations: Bound on the iterations of one restart.
        num_restarts: Starts to try; the best is kept, of those within rounding (1e-9, relative) the first.
        accelerate: Extrapolate from every two EM steps to a third point (SQUAREM), which is taken only if log p(x)
            does not fall by it; on slow fits an order of magnitude fewer E steps.  Such a pair counts as one iteration.
            By default for linear Gaussian models, which climb slowly, and for no others.
        warm_start: Start from the parameters of ``model`` rather than from the data.
        chunk_size: Data in one E step; by default as many as keep intermediate values small.
        seed: Seed of the starts.
        progress: Show a progress bar; by default one appears when a fit takes over a second.
        execution: ``distributed`` and ``memory_budget``, see :class:`~pyrovae.Execution`.  With ``distributed`` every
            process gets the same tensor or array, and reads its own part of the rows; batches are each process's own.
            ``memory_budget`` bounds the bytes of the data in memory and of what is derived from them, parameters and
            their statistics aside.

    Returns:
        The fit.  ``trace[t]`` is the (weighted) mean log p(x) after t updates, nats per datum.

    Raises:
        TypeError: If the model has no E and M step, or the data are of no kind named above.
        ValueError: If an argument is out of range, or the data do not fit the model.
        DivergenceError: If log p(x) is not finite.

    Warns:
        ConvergenceWarning: If the kept restart did not meet the tolerance within ``max_iterations``.
        DegeneracyWarning: If it has a component at the floor, or with next to no data.

    Example:
        >>> import torch
        >>> from pyrovae import GaussianMixture
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> result = em(GaussianMixture(num_components=2, data_shape=(2,), floor=1e-3), x)
        >>> bool((result.trace.diff() >= 0).all()), abs(result.trace[-1].item() - result.model.score(x)) < 1e-12
        (True, True)

    Reference:
        Dempster, Laird and Rubin (1977); Böhning et al. (1994) for the stopping rule; Varadhan and
        Roland (2008), Simple and globally convergent methods for accelerating the convergence of any EM algorithm.
    """
    refit = Refit(em, locals())
    _check_arguments(model, tolerance, max_iterations, num_restarts, chunk_size, warm_start)
    chosen = em_options(model, data, tolerance=tolerance, accelerate=accelerate)
    tolerance, accelerate = chosen["tolerance"], chosen["accelerate"]
    began, group = time.perf_counter(), execution.process_group()
    restarts: list[Ascent] = []
    with alone(), seeded(seed), progress_bar(desc="EM", unit=" it", progress=progress, rank=group.rank) as bar:
        source = open_source(model, data, sample_weight, chunk_size, execution.memory_budget, group)
        for number in range(1, 2 if warm_start else num_restarts + 1):
            restarts.append(Ascent(model.copy(), source, group, number, bar))
            x = source.first() if warm_start else restarts[-1].initialize()
            warn_of_floor(restarts[-1].model, data, x)
            restarts[-1].ascend(accelerate, tolerance, max_iterations)
    eligible = [restart for restart in restarts if not restart.degeneracies] or restarts
    best = tied_for_best((restart.trace[-1], restart) for restart in eligible)[0][1]
    best.degeneracies = [named(line, data) for line in best.degeneracies]
    if not best.converged:
        last = best.trace[-1] - best.trace[-2]
        warn(
            f"EM did not converge within `max_iterations` = {max_iterations}: the last iteration gained {last:.2e} "
            f"nats per datum, and `tolerance` is {tolerance:g}.",
            ConvergenceWarning,
        )
    if best.degeneracies:
        warn(
            f"EM ended in a degenerate fit, whose likelihood says little: {'; '.join(best.degeneracies[:3])}"
            f"{', and more' if len(best.degeneracies) > 3 else ''}; raise `floor`, or ask for fewer components.",
            DegeneracyWarning,
        )
    return FitResult(
        model=best.model,
        method="EM",
        trace=nats(best.trace),
        objective="log p(x)",
        converged=best.converged,
        seconds=time.perf_counter() - began,
        kept=f"best of {num_restarts} restarts" if len(restarts) > 1 else f"iteration {len(best.trace) - 1}",
        space=source.space,
        restarts=tuple(restart.trace[-1] for restart in restarts),
        degeneracies=tuple(best.degeneracies),
        refit=refit,
    )


def remaining_gain(trace: list[float]) -> float:
    """Aitken's estimate of the gain still to come after the last entry of a linearly converging trace.

    A gain within rounding is none: log p(x) never falls by more than that.

    Example:
        >>> round(remaining_gain([0.0, 0.5, 0.75]), 12)  # a geometric series with the limit 1
        0.25
    """
    gain = trace[-1] - trace[-2]
    rounding = 8 * torch.finfo(torch.float64).eps * max(1.0, abs(trace[-1]))
    if gain <= rounding:
        return 0.0
    if len(trace) < 3:
        return float("inf")
    ratio = gain / max(trace[-2] - trace[-3], gain * 1e-12)
    return gain * ratio / (1 - ratio) if ratio < 1 else float("inf")


class Ascent:
    """One ascent of log p(x): the model on its way, the trace, and whether the stopping rule was met."""

    def __init__(self, model: TractableModel, source: Source, group: ProcessGroup, number: int, bar: tqdm) -> None:
        self.model, self.source, self.group, self.number, self.bar = model, source, group, number, bar
        self.trace: list[float] = []
        self.converged = False
        self.degeneracies: list[str] = []

    def initialize(self) -> Tensor:
        """Start from the data, and return those that were looked at."""
        x, *weight = self.source.start()
        self.model.initialize(x, *weight)
        self.group.copy_from_first(self.model)
        return x

    def ascend(self, accelerate: bool, tolerance: float, max_iterations: int) -> None:
        """Alternate M and E steps until the rule is met; ``statistics`` are always those of the present parameters."""
        statistics = self.e_step()
        self.trace.append(self.mean_log_prob(statistics))
        while not self.converged and len(self.trace) <= max_iterations:
            if accelerate:
                statistics = self.squared_extrapolation(statistics)
            else:
                self.model.maximize(statistics)  # the M step
                statistics = self.e_step()
            self.trace.append(self.mean_log_prob(statistics))
            self.converged = remaining_gain(self.trace) < tolerance
            self.bar.update()
            self.bar.set_postfix_str(f"log p {self.trace[-1]:.4f} nats, restart {self.number}", refresh=False)
        self.degeneracies = self.model.degeneracies(statistics)

    def e_step(self) -> Statistics:
        """The sums over all data: those of the chunks, added up in float64, of this process and of the others."""
        with self.model.unchanged():
            total = self.source.statistics(self.model)
        if missing := [name for name in ("log_prob", "count") if name not in total]:
            raise TypeError(
                f"`model` must give {missing[0]!r} among its expected_statistics, got {', '.join(total) or 'nothing'}; "
                '"log_prob" is the sum of log p(x), and "count" that of the weights.'
            )
        return dict(zip(total, self.group.sums(list(total.values())), strict=True))

    @torch.no_grad()
    def squared_extrapolation(self, statistics: Statistics) -> Statistics:
        """Two EM steps θ0 → θ1 → θ2, then θ' extrapolated from them; the sums at the point that is kept.

        With α = −``length``, r = ``step`` and v = ``curvature``, θ' = θ0 − 2αr + α²v.  It is kept if log p at θ' is not
        below that at θ1, so that log p never falls; else θ2 is.
        """
        parameters = list(self.model.model.parameters())
        start = parameters_to_vector(parameters)
        self.model.maximize(statistics)
        first = parameters_to_vector(parameters)
        after_first = self.e_step()
        self.mean_log_prob(after_first)  # raises where it is not finite
        self.model.maximize(after_first)
        second = parameters_to_vector(parameters)
        step, curvature = first - start, second - 2 * first + start
        length = (step.norm() / curvature.norm()).clamp_min(1.0)
        if torch.isfinite(length):
            vector_to_parameters(start + 2 * length * step + length**2 * curvature, parameters)
            with suppress(torch.linalg.LinAlgError):  # too far out
                extrapolated = self.e_step()
                if extrapolated["log_prob"] >= after_first["log_prob"]:
                    self.model.match_guide()
                    return extrapolated
            vector_to_parameters(second, parameters)
        return self.e_step()

    def mean_log_prob(self, statistics: Statistics) -> float:
        """log p(x), nats per datum.

        Raises:
            DivergenceError: If it is not finite.
        """
        value = (statistics["log_prob"] / statistics["count"]).item()
        if not math.isfinite(value):
            raise DivergenceError(
                f"log p(x) is {value} after iteration {len(self.trace)} of restart {self.number}; "
                "raise `floor`, or rescale the data to unit variance.",
                None,
            )
        return value


def _is_given(model: object, step: str) -> bool:
    """Whether the model, or a class it descends from, has the step, rather than the base class's refusal."""
    return getattr(type(model), step, None) not in (None, getattr(TractableModel, step))


def _check_arguments(
    model: TractableModel,
    tolerance: float | None,
    max_iterations: int,
    num_restarts: int,
    chunk_size: int | None,
    warm_start: bool,
) -> None:
    if not all(_is_given(model, step) for step in ("expected_statistics", "maximize")):
        raise TypeError(
            f"`model` must have an E and an M step to be fitted by EM, got {type(model).__name__}; use fit.svi."
        )
    if not (warm_start or _is_given(model, "initialize")):
        raise TypeError(
            f"`model` must have a method initialize(x, weight) to start from the data, got {type(model).__name__} "
            "without one; write it, or pass warm_start=True to start from the parameters as they are."
        )
    if model.data_shape is None:
        raise TypeError(f"`model` must say its data_shape to be fitted by EM, got None from {type(model).__name__}.")
    check_whole("max_iterations", max_iterations)
    check_whole("num_restarts", num_restarts)
    check_whole("chunk_size", chunk_size, optional=True)
    if tolerance is not None:
        check_positive("tolerance", tolerance, "number of nats per datum")
