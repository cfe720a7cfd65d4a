"""What every fit returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrovae.data import Space
from pyrovae.models.base import LatentVariableModel


class FitWarning(UserWarning):
    """A fit came to an end that its user should know about."""


class ConvergenceWarning(FitWarning):
    """A fit stopped before its stopping rule was met."""


class DegeneracyWarning(FitWarning):
    """The likelihood of a fit comes from a floor, or from a handful of data."""


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fitted model, and how it came to be.

    Attributes:
        model: The fitted model, a copy; the model given to the fit is as it was.
        method: ``"closed form"``, ``"EM"`` or ``"SVI"``.
        trace: The objective after each update, nats per datum, shape (T,).  For EM, entry t is log p(x) of the
            parameters after update t, entry 0 that of the start, and the last equals ``score(x)`` of ``model``.  For
            SVI, entry t is the mean over the mini-batches of epoch t of the ELBO estimates that the steps were taken
            on.
        objective: What ``trace`` holds: ``"log p(x)"``, ``"ELBO"``, or the name of what was given in its place.
        converged: Whether the stopping rule was met; None where a fit has none.
        seconds: Wall time.
        kept: Which parameters ``model`` holds, e.g. ``"best on validation, epoch 41 of 100"``.
        space: The space of the data that the model was fitted to.
        valid_trace: SVI with validation data: ELBO on them after each epoch, nats per datum.
        elbo: SVI: the ELBO of what was kept, on validation data if there were any, else the last entry of ``trace``.
        restarts: EM: final log p(x) of every restart, nats per datum.
        degeneracies: EM: one line for each component that is at the floor or has next to no data.
        refit: Fits the same model to the same data again, ``refit(seed)``.
    """

    model: LatentVariableModel
    method: str
    trace: Tensor
    objective: str
    converged: bool | None
    seconds: float
    kept: str
    space: Space
    valid_trace: Tensor | None = None
    elbo: float | None = None
    restarts: tuple[float, ...] = ()
    degeneracies: tuple[str, ...] = ()
    refit: Callable[[int], FitResult] = field(repr=False, kw_only=True)

    def __repr__(self) -> str:
        name = type(self.model).__name__
        last = self.elbo if self.elbo is not None else self.trace[-1].item()
        value = f"{self.objective} {last:.3f} nats per datum"
        return f"FitResult({name} by {self.method}: {value}, {self.kept}, {self.seconds:.1f} s)"


class DivergenceError(FloatingPointError):
    """A fit met a value that is not finite; ``last_good`` is the last result before it, or None."""

    def __init__(self, message: str, last_good: FitResult | None) -> None:
        super().__init__(message)
        self.last_good = last_good


def nats(values: list[float]) -> Tensor:
    """A trace as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)
