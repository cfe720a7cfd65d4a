"""Expectation-maximisation: one loop over sums of expected statistics, for every model with an E and an M step.

The E step returns sums over data, so the loop adds up chunks and never needs all of the data's intermediate values at
once.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm.auto import tqdm

from pyrovae.data import Observations, as_observations
from pyrovae.fit.progress import hidden
from pyrovae.fit.result import ConvergenceWarning, DivergenceError, FitResult, nats
from pyrovae.models.base import TractableModel
from pyrovae.seeding import seeded

Statistics = dict[str, Tensor]

CHUNK_FLOATS = 2**20  # numbers in the largest intermediate array of a chunk, 8 MiB in float64: it stays in cache


def em(
    model: TractableModel,
    data: Observations | Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    num_restarts: int = 1,
    accelerate: bool = False,
    warm_start: bool = False,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> FitResult:
    """Fit by expectation-maximisation; log p(x) never falls.

    The loop stops when the log-likelihood still to be gained falls below ``tolerance``.  EM converges linearly: with
    the ratio a of the last two gains, a gain g leaves about g a / (1 − a) to come (Aitken's extrapolation), which a
    slow fit, whose gains are small but hardly shrink, does not pass by mistake.

    Args:
        model: A model with ``initialize``, ``expected_statistics`` and ``maximize``; it is left as it was.
        data: Observations or tensor, N data.
        tolerance: On the mean log-likelihood, nats per datum.
        max_iterations: Bound on the iterations of one restart.
        num_restarts: Starts to try; the best is kept.
        accelerate: Extrapolate from every two EM steps to a third (SQUAREM), and take the point only if log p(x) gains
            by it; on slow fits an order of magnitude fewer E steps.
        warm_start: Start from the parameters of ``model`` rather than from the data.
        chunk_size: Data in one E step; by default as many as keep intermediate values small.
        seed: Seed of the starts.
        progress: Show a progress bar; by default one appears when a fit takes over a second.

    Returns:
        The fit.  ``trace[t]`` is the mean log p(x) after t updates, nats per datum.

    Raises:
        TypeError: If the model has no E and M step.
        ValueError: If an argument is out of range, or the data do not fit the model.
        DivergenceError: If log p(x) is not finite.

    Warns:
        ConvergenceWarning: If the kept restart did not meet the tolerance within ``max_iterations``.

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
    if not all(_is_given(model, step) for step in ("expected_statistics", "maximize")):
        raise TypeError(
            f"`model` must have an E and an M step to be fitted by EM, got {type(model).__name__}; use fit.svi."
        )
    if max_iterations < 1 or num_restarts < 1:
        raise ValueError(
            f"`max_iterations` and `num_restarts` must be at least 1, got {max_iterations} and {num_restarts}."
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be a positive number of nats per datum, got {tolerance}.")
    began = time.perf_counter()
    observations = as_observations(data)
    x = model.as_input(observations, "data")
    rows = chunk_size or max(model.smallest_chunk, CHUNK_FLOATS // model.floats_per_datum)
    best: tuple[TractableModel, list[float], bool] | None = None
    finals = []
    with (
        seeded(seed),
        tqdm(total=None, desc="EM", unit=" it", delay=1.0, leave=False, disable=hidden(progress)) as bar,
    ):
        for restart in range(1 if warm_start else num_restarts):
            candidate = model.copy()
            if not warm_start:
                candidate.initialize(x)
            trace, converged = _ascend(
                candidate,
                lambda m: expected_statistics(m, x, rows),
                accelerate,
                tolerance,
                max_iterations,
                bar,
                restart,
            )
            finals.append(trace[-1])
            if best is None or trace[-1] > best[1][-1]:
                best = candidate, trace, converged
    assert best is not None
    fitted, trace, converged = best
    if not converged:
        last = trace[-1] - trace[-2]
        warnings.warn(
            f"EM did not converge within `max_iterations` = {max_iterations}: the last iteration gained {last:.2e} "
            f"nats per datum, and `tolerance` is {tolerance:g}.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return FitResult(
        model=fitted,
        method="EM",
        trace=nats(trace),
        objective="log p(x)",
        converged=converged,
        seconds=time.perf_counter() - began,
        kept=f"best of {num_restarts} restarts" if len(finals) > 1 else f"iteration {len(trace) - 1}",
        space=observations.space,
        restarts=tuple(finals),
        refit=lambda other: em(
            model,
            data,
            tolerance=tolerance,
            max_iterations=max_iterations,
            num_restarts=num_restarts,
            accelerate=accelerate,
            warm_start=warm_start,
            chunk_size=chunk_size,
            seed=other,
            progress=progress,
        ),
    )


def _ascend(
    model: TractableModel,
    e_step: Callable[[TractableModel], Statistics],
    accelerate: bool,
    tolerance: float,
    max_iterations: int,
    bar: tqdm,
    restart: int,
) -> tuple[list[float], bool]:
    """Iterate in place until the stopping rule is met; the trace, and whether it was."""
    statistics = e_step(model)
    trace = [_mean_log_prob(statistics, restart, 0)]
    for iteration in range(1, max_iterations + 1):
        if accelerate:
            statistics = _squared_extrapolation(model, e_step, statistics)
        else:
            model.maximize(statistics)
            statistics = e_step(model)
        trace.append(_mean_log_prob(statistics, restart, iteration))
        bar.update()
        bar.set_postfix_str(f"log p {trace[-1]:.4f} nats, restart {restart + 1}", refresh=False)
        if remaining_gain(trace) < tolerance:
            return trace, True
    return trace, False


@torch.no_grad()
def _squared_extrapolation(
    model: TractableModel, e_step: Callable[[TractableModel], Statistics], statistics: Statistics
) -> Statistics:
    """Two EM steps and the point extrapolated from them, or the second step where that is no better; its statistics."""
    parameters = list(model.model.parameters())
    start = parameters_to_vector(parameters)
    model.maximize(statistics)
    first = parameters_to_vector(parameters)
    after_first = e_step(model)
    model.maximize(after_first)
    second = parameters_to_vector(parameters)
    step, curvature = first - start, second - 2 * first + start
    length = (step.norm() / curvature.norm()).clamp_min(1.0)
    if torch.isfinite(length):
        vector_to_parameters(start + 2 * length * step + length**2 * curvature, parameters)
        extrapolated = e_step(model)
        if extrapolated["log_prob"] >= after_first["log_prob"]:
            return extrapolated
        vector_to_parameters(second, parameters)
    return e_step(model)


def expected_statistics(model: TractableModel, x: Tensor, rows: int) -> Statistics:
    """The E step over all data: the sum of its statistics over chunks of ``rows`` data."""
    total: Statistics = {}
    for chunk in x.split(rows):
        statistics = model.expected_statistics(chunk)
        total = {name: total[name] + value if total else value for name, value in statistics.items()}
    return total


def remaining_gain(trace: list[float]) -> float:
    """Aitken's estimate of the gain still to come after the last entry of a linearly converging trace.

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


def _mean_log_prob(statistics: dict[str, Tensor], restart: int, iteration: int) -> float:
    value = (statistics["log_prob"] / statistics["count"]).item()
    if value - value != 0:  # NaN or infinite
        raise DivergenceError(
            f"log p(x) is {value} after iteration {iteration} of restart {restart + 1}; "
            "raise `floor`, or rescale the data to unit variance.",
            None,
        )
    return value


def _is_given(model: object, step: str) -> bool:
    """Whether the model, or a class it descends from, has the step, rather than the base class's refusal."""
    return getattr(type(model), step, None) not in (None, getattr(TractableModel, step))
