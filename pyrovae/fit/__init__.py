"""Three ways to fit, none of which knows a concrete model."""

from pyrovae.fit.closed_form import closed_form
from pyrovae.fit.em import em
from pyrovae.fit.result import ConvergenceWarning, DivergenceError, FitResult
from pyrovae.fit.svi import svi

__all__ = ["ConvergenceWarning", "DivergenceError", "FitResult", "closed_form", "em", "svi"]
