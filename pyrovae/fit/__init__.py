"""Three ways to fit, and the objectives of one of them; none knows a concrete model.

Fits and evaluators may run in any thread, where they take turns: to save time, run them in processes that start afresh
(``ProcessPoolExecutor(mp_context=get_context("spawn"))``).  A callback must not wait for another thread that fits or
evaluates; it may do so itself.
"""

from pyrovae.engine.capture import NotStatic as NotStatic
from pyrovae.fit.closed_form import closed_form as closed_form
from pyrovae.fit.em import em as em
from pyrovae.fit.objectives import (
    BetaELBO as BetaELBO,
    ImportanceWeightedELBO as ImportanceWeightedELBO,
    LinearWarmup as LinearWarmup,
)
from pyrovae.fit.parts import Parts as Parts
from pyrovae.fit.result import (
    ConvergenceWarning as ConvergenceWarning,
    DegeneracyWarning as DegeneracyWarning,
    DivergenceError as DivergenceError,
    FitResult as FitResult,
    FitWarning as FitWarning,
)
from pyrovae.fit.select import Selection as Selection, select as select
from pyrovae.fit.steps.captured import CompiledELBO as CompiledELBO, CompiledLoss as CompiledLoss
from pyrovae.fit.sums import expected_statistics as expected_statistics, merge as merge
from pyrovae.fit.svi import svi as svi
