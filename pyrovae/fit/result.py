"""What every fit returns."""

import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Space
from pyrovae.models.base import LatentVariableModel

DATA = ("data", "valid", "sample_weight")  # the arguments of fits that are as large as the data


class FitWarning(UserWarning):
    """A fit came to an end that its user should know about."""


class ConvergenceWarning(FitWarning):
    """A fit stopped before its stopping rule was met."""


class DegeneracyWarning(FitWarning):
    """The likelihood of a fit comes from a floor, or from a handful of data, or its latents carry nothing."""


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fitted model, and how it came to be.

    A result is pickled without the data: see ``refit``.

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
        num_steps: SVI: steps of the optimizer that were taken.
        restarts: EM: final log p(x) of every restart, nats per datum.  SVI: where there were several starts, the ELBO
            of each after its short run, on validation data if there were any.
        degeneracies: EM: one line for each component that is at the floor or has next to no data.  SVI: one line if
            the posterior collapsed, so that no latent carries 0.01 nats, and why.
        latent_kl: SVI: KL(q(z|x) ‖ p(z)) of every unit of z, averaged over up to 1,000 training data, shape (L,), nats;
            None where no continuous z is drawn for every datum.
        refit: Fits the same model to the same data again: ``refit(seed)``; from a pickled result ``refit(seed, data)``.
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
    num_steps: int | None = None
    restarts: tuple[float, ...] = ()
    degeneracies: tuple[str, ...] = ()
    latent_kl: Tensor | None = None
    refit: "Callable[..., FitResult]" = field(repr=False, kw_only=True)

    def __repr__(self) -> str:
        name = type(self.model).__name__
        last = self.elbo if self.elbo is not None else self.trace[-1].item()
        value = f"{self.objective} {last:.3f} nats per datum"
        return f"FitResult({name} by {self.method}: {value}, {self.kept}, {self.seconds:.1f} s)"


@dataclass(frozen=True, eq=False)
class Refit:
    """A fit that can be done again: ``refit(seed)``.

    It is pickled without the data, and without arguments that cannot be pickled, such as a lambda.  After that they
    must be given again: ``refit(seed, data)``, ``refit(seed, data, optimizer=...)``.

    Attributes:
        function: What made the fit, such as ``fit.svi``.
        arguments: Its arguments by name.
        missing: Names of the arguments that were left out when this was pickled.
    """

    function: Callable[..., FitResult]
    arguments: dict[str, Any]
    missing: tuple[str, ...] = ()

    def __call__(self, seed: int, data: Any = None, **others: Any) -> FitResult:
        """Fit again.

        Args:
            seed: Seed of the new fit.  A closed form needs none, and ignores it.
            data: Data to fit to; by default the same as before.
            **others: Other arguments of the fit to change.

        Raises:
            ValueError: If arguments were left out when the result was pickled, and are not given here.
        """
        changes = {**others, **({} if data is None else {"data": data})}
        if lost := [f"`{name}`" for name in self.missing if name not in changes]:
            raise ValueError(
                f"{' and '.join(lost)} must be given to refit a result that was pickled, which holds no data and no "
                "functions without a name; pass refit(seed, data), and others by keyword."
            )
        arguments = {**self.arguments, **changes}
        return self.function(**{**arguments, "seed": seed} if "seed" in arguments else arguments)

    def __getstate__(self) -> dict[str, Any]:
        kept = {
            name: value
            for name, value in self.arguments.items()
            if value is None or (name not in DATA and _can_be_pickled(value))
        }
        missing = (*self.missing, *(name for name in self.arguments if name not in kept))
        return {"function": self.function, "arguments": kept, "missing": missing}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Refit":
        return self  # nothing of it changes; a copy made like a pickle would lack the data


class DivergenceError(FloatingPointError):
    """A fit met a value that is not finite; ``last_good`` is the last result before it, or None."""

    def __init__(self, message: str, last_good: FitResult | None) -> None:
        super().__init__(message, last_good)  # both, so that it can be pickled
        self.last_good = last_good

    def __str__(self) -> str:
        return self.args[0]


def nats(values: list[float]) -> Tensor:
    """A trace as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def warn(message: str, category: type[FitWarning]) -> None:
    """Warn at the line that called into this package, however deep the fit is."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("pyrovae."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _can_be_pickled(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # each kind of object refuses in its own way
        return False
    return True
