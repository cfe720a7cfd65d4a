"""Three ways to fit, and the objectives of one of them; none knows a concrete model."""

from pyrovae.engine.capture import NotStatic
from pyrovae.fit.closed_form import closed_form
from pyrovae.fit.em import em
from pyrovae.fit.objectives import BetaELBO, ImportanceWeightedELBO, LinearWarmup
from pyrovae.fit.result import ConvergenceWarning, DegeneracyWarning, DivergenceError, FitResult, FitWarning
from pyrovae.fit.select import Selection, select
from pyrovae.fit.steps.captured import CompiledELBO, CompiledLoss
from pyrovae.fit.svi import svi

__all__ = [
    "BetaELBO",
    "CompiledELBO",
    "CompiledLoss",
    "ConvergenceWarning",
    "DegeneracyWarning",
    "DivergenceError",
    "FitResult",
    "FitWarning",
    "ImportanceWeightedELBO",
    "LinearWarmup",
    "NotStatic",
    "Selection",
    "closed_form",
    "em",
    "select",
    "svi",
]
