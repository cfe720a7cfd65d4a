"""Choosing among candidates by their exact likelihood on validation data, or by an information criterion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_choice
from pyrovae.engine.progress import progress_bar
from pyrovae.fit.result import FitResult
from pyrovae.models.tractable import TractableModel


@dataclass(frozen=True, eq=False)
class Selection:
    """The outcome of :func:`select`.

    Attributes:
        best: The fit that the criterion prefers.
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
    progress: bool | None = None,
) -> Selection:
    """Fit every candidate, and keep the one that gives validation data the highest exact likelihood (or the best BIC).

    Args:
        candidates: Unfitted models.
        fit_function: Fits one, e.g. ``lambda model: fit.em(model, train)``.
        data: Validation data; for ``"bic"`` and ``"aic"`` the data that ``fit_function`` fits to.
        criterion: ``"log_likelihood"`` (higher is better), ``"bic"`` or ``"aic"`` (lower is better).
        progress: Show a progress bar; by default one appears after a second.

    Raises:
        ValueError: If there is no candidate, or no such criterion.

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
    scores: list[float] = []
    for candidate in progress_bar(candidates, desc="choosing", unit="model", progress=progress):
        result = fit_function(candidate)
        model: Any = result.model
        scores.append(model.score(data) if criterion == "log_likelihood" else getattr(model, criterion)(data))
        better = max if criterion == "log_likelihood" else min
        if scores[-1] == better(scores):
            best = result
    return Selection(best, tuple(scores))
