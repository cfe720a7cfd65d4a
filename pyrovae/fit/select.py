"""Choosing among candidates by their exact likelihood on validation data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from tqdm.auto import tqdm

from pyrovae.data import Observations
from pyrovae.fit.progress import hidden
from pyrovae.fit.result import FitResult
from pyrovae.models.base import TractableModel


@dataclass(frozen=True, eq=False)
class Selection:
    """The outcome of :func:`select`.

    Attributes:
        best: The fit with the highest log p(x) on validation data.
        scores: Mean log p(x) of every candidate on validation data, nats per datum, in the order given.
    """

    best: FitResult
    scores: tuple[float, ...]


def select(
    candidates: Sequence[TractableModel],
    how: Callable[[TractableModel], FitResult],
    valid: Observations | Tensor,
    *,
    progress: bool | None = None,
) -> Selection:
    """Fit every candidate, and keep the one that gives validation data the highest exact likelihood.

    Args:
        candidates: Unfitted models.
        how: Fits one, e.g. ``lambda model: fit.em(model, train)``.
        valid: Validation data.
        progress: Show a progress bar; by default one appears after a second.

    Raises:
        ValueError: If there is no candidate.

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
    best: FitResult | None = None
    scores: list[float] = []
    for candidate in tqdm(candidates, desc="choosing", unit="model", delay=1.0, leave=False, disable=hidden(progress)):
        result = how(candidate)
        score = result.model.score(valid)  # type: ignore[operator]
        if best is None or score > max(scores):
            best = result
        scores.append(score)
    assert best is not None
    return Selection(best, tuple(scores))
