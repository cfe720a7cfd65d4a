"""Choosing among candidates by their exact likelihood on validation data, or by an information criterion."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_choice
from pyrovae.engine.progress import progress_bar
from pyrovae.fit.result import FitResult
from pyrovae.models.tractable import TractableModel

TIE = 1e-9  # relative; scores closer than that differ by rounding

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Selection:
    """The outcome of :func:`select`.

    Attributes:
        best: The fit that the criterion prefers; of equals the first.
        scores: The criterion of every candidate, in the order given: mean log p(x) on validation data, nats per datum,
            or BIC or AIC of the training data.
    """

    best: FitResult
    scores: tuple[float, ...]


def select(
    candidates: Sequence[TractableModel],
    fit_function: Callable[[TractableModel], FitResult],
    data: Observations | Tensor,
    *,
    criterion: Literal["log_likelihood", "bic", "aic"] = "log_likelihood",
    sample_weight: Tensor | None = None,
    progress: bool | None = None,
) -> Selection:
    """Fit every candidate, and keep the one that gives validation data the highest exact likelihood (or the best BIC).

    Of candidates whose scores are within rounding of the best (1e-9, relative) the first is kept: the last bits of a
    score depend on the machine, and the choice should not.  So give the simplest first.

    Args:
        candidates: Unfitted models, the simplest first.
        fit_function: Fits one, e.g. ``lambda model: fit.em(model, train)``.
        data: Validation data; for ``"bic"`` and ``"aic"`` the data that ``fit_function`` fits to.
        criterion: ``"log_likelihood"`` (higher is better), ``"bic"`` or ``"aic"`` (lower is better).
        sample_weight: What each datum of ``data`` counts for in the criterion, shape (N,).  ``fit_function`` gives its
            fit the weights itself: ``lambda model: fit.em(model, train, sample_weight=weight)``.
        progress: Show a progress bar; by default one appears after a second.

    Raises:
        ValueError: If there is no candidate, or no such criterion, or the weights do not fit the data.

    Example:
        >>> import torch
        >>> from pyrovae import PPCA, fit
        >>> x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
        >>> chosen = select([PPCA(q, (4,)) for q in (1, 2)], lambda m: fit.closed_form(m, x[:60]), x[60:])
        >>> chosen.best.model.score(x[60:]) == max(chosen.scores)
        True
    """
    if not candidates:
        raise ValueError("`candidates` must hold at least one model, got none.")
    check_choice("criterion", criterion, ("log_likelihood", "bic", "aic"))
    name = "score" if criterion == "log_likelihood" else criterion
    weighted = {} if sample_weight is None else {"sample_weight": sample_weight}
    scores: list[float] = []
    leading: list[tuple[float, FitResult]] = []
    for candidate in progress_bar(candidates, desc="choosing", unit="model", progress=progress):
        result = fit_function(candidate)
        model: Any = result.model
        _check_weighted_alike(result, criterion, sample_weight)
        scores.append(getattr(model, name)(data, **weighted))
        leading = tied_for_best([*leading, (scores[-1] if criterion == "log_likelihood" else -scores[-1], result)])
    return Selection(leading[0][1], tuple(scores))


def _check_weighted_alike(result: FitResult, criterion: str, sample_weight: Any) -> None:
    """BIC and AIC are of the data of the fit, so that they count as much there."""
    weighted = getattr(result.refit, "arguments", {}).get("sample_weight") is not None
    if criterion != "log_likelihood" and weighted and sample_weight is None:
        raise ValueError(
            f'`sample_weight` must be given for `criterion` "{criterion}", as it was to the fit, got None; '
            "pass the same weights to select."
        )


def tied_for_best(scored: Iterable[tuple[float, T]]) -> list[tuple[float, T]]:
    """The entries whose score is within rounding of the highest, in the order given; NaN counts as the lowest.

    Example:
        >>> tied_for_best([(0.2, "a"), (0.1 + 0.2, "b"), (0.3, "c"), (float("nan"), "d")])
        [(0.30000000000000004, 'b'), (0.3, 'c')]
    """
    ranked = [(-math.inf if math.isnan(score) else score, entry) for score, entry in scored]
    best = max(score for score, _ in ranked)
    return [(score, entry) for score, entry in ranked if math.isclose(score, best, rel_tol=TIE)]
