"""Three ways to fit, none of which knows a concrete model."""

from pyrovae.fit.closed_form import closed_form
from pyrovae.fit.em import em
from pyrovae.fit.result import ConvergenceWarning, DegeneracyWarning, DivergenceError, FitResult, FitWarning
from pyrovae.fit.select import Selection, select
from pyrovae.fit.svi import svi

__all__ = [
    "ConvergenceWarning",
    "DegeneracyWarning",
    "DivergenceError",
    "FitResult",
    "FitWarning",
    "Selection",
    "closed_form",
    "em",
    "select",
    "svi",
]
