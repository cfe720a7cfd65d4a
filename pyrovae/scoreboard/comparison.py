"""Models side by side on held-out data, in nats per datum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.data import Observations, Space, as_observations
from pyrovae.engine.checks import check_whole
from pyrovae.engine.execution import keywords_moved
from pyrovae.engine.progress import progress_bar
from pyrovae.evaluate.likelihood.annealed import DEFAULT_OPTIONS, AISOptions
from pyrovae.fit import FitResult
from pyrovae.fit.select import TIE
from pyrovae.models.base import LatentVariableModel
from pyrovae.scoreboard import table
from pyrovae.scoreboard.figures import aligned
from pyrovae.scoreboard.rows import BoundMethod, Entry, Measure, Row, model_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Scoreboard:
    """What :func:`compare` returns; prints as a table.

    Attributes:
        rows: Best first.
        fits: What was compared, by name.
        data: The held-out data.
        num_particles: S of the bounds.
    """

    rows: tuple[Row, ...]
    fits: dict[str, Entry]
    data: Observations
    num_particles: int

    @property
    def models(self) -> dict[str, LatentVariableModel]:
        """The models by name, best first."""
        return {row.name: row.model for row in self.rows}

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a model, best first, without the pointwise values."""
        return table.to_dataframe(self.rows)

    def to_inference_data(self, num_draws: int = 100, *, seed: int = 0) -> dict[str, Any]:
        """ArviZ data of every model by name: pointwise log-likelihoods and draws of z.

        Groups: ``posterior`` with z (chain, draw, datum, …) drawn from p(z|x) where it is known and from the
        guide where not (attribute ``drawn_from``); ``log_likelihood`` with x (chain, draw, datum), one draw, log p(x)
        in the space of the scoreboard; ``sample_stats`` with the log importance weight of every z, in that space too;
        ``observed_data`` with x as the model sees it.

        Args:
            num_draws: Draws of z for each datum.
            seed: Of the draws.

        Returns:
            Name → ``InferenceData`` (ArviZ 0.23) or ``DataTree`` (1.x).
        """
        return {row.name: row.inference_data(self.data, num_draws, seed) for row in self.rows}

    def save(self, folder: str | Path) -> Path:
        """Write table, pictures, ArviZ files and models to a folder; see :mod:`pyrovae.scoreboard.results_folder`."""
        from pyrovae.scoreboard import results_folder  # which imports matplotlib

        return results_folder.save(self, folder)

    def notes(self) -> list[str]:
        """What the numbers are, in sentences."""
        return table.notes(self.rows, self.data)

    def __str__(self) -> str:
        header, *lines = aligned(table.cells(self.rows))
        return "\n".join([header, "-" * len(header), *lines, "", *self.notes()])


@keywords_moved(ais=AISOptions)
def compare(
    models: Mapping[str, Entry],
    data: Observations | Tensor,
    *,
    num_particles: int = 1000,
    method: BoundMethod = "importance",
    ais: AISOptions = DEFAULT_OPTIONS,
    seeds: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> Scoreboard:
    """Rank models by held-out log-likelihood, exact where it can be, a lower bound in expectation where it cannot.

    A model of p(x|y) is marked as such, because what it is told of x, nobody told the others.

    Args:
        models: Name → fit result or model.
        data: Held-out data; with NaN for missing values if every model takes them, and then log p(x) is that of the
            observed ones.  A fit result made in another view of the same reference space (say logit-transformed) sees
            the data as it was trained to, and its density is brought back by log|det J|.
        num_particles: S of the importance-weighted bounds.
        method: Of the bounds: ``"importance"``, or ``"ais"`` for the tighter and slower ones of annealing.
        ais: How to anneal.
        seeds: Fits with so many seeds: refits every fit result ``seeds − 1`` times, with the seeds after its own.
        seed: Of the draws.
        progress: Show a progress bar; by default one appears after a second.

    Returns:
        The scoreboard, best row first.

    Raises:
        ValueError: If ``models`` is empty, ``method`` unknown, a model lives on another support or space than the
            data, or is trained by a loss that is no likelihood, or values are missing that it does not take.
        TypeError: If ``models`` is no mapping, or an entry neither a fit result nor a model.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> fits = {f"PPCA-{q}": fit.closed_form(PPCA(q, (64,)), d.train) for q in (2, 8)}
        >>> [row.name for row in compare(fits, d.test).rows]
        ['PPCA-8', 'PPCA-2']
    """
    check_whole("seeds", seeds)
    if method not in ("importance", "ais"):
        raise ValueError(f'`method` must be "importance" or "ais", got {method!r}; exact values are never replaced.')
    if not isinstance(models, Mapping):
        raise TypeError(f"`models` must be a mapping of names to fits or models, got {type(models).__name__}.")
    takes_nan = any(getattr(model_of(entry), "missing", "error") == "nan" for entry in models.values())
    held_out = as_observations(data, allow_nan=takes_nan).fixed(seed)
    _check_models(models, held_out)
    measure = Measure(num_particles, method, ais, seed, progress)
    rows = []
    bar = progress_bar(models.items(), desc="comparing", unit="model", progress=progress)
    for name, entry in bar:
        bar.set_postfix_str(name)
        rows.append(measure.row(name, entry, held_out, seeds))
    best, *others = _ranked(rows)
    return Scoreboard((best, *(row.beside(best) for row in others)), dict(models), held_out, num_particles)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Best first; of rows that differ by rounding alone, the one that was given first."""
    left, ranked = list(rows), list[Row]()
    while left:
        best = min(left, key=lambda row: (math.isnan(row.mean), -row.mean))
        equal = [row for row in left if row is best or math.isclose(row.mean, best.mean, rel_tol=TIE)]
        ranked += equal
        left = [row for row in left if row not in equal]
    return ranked


def _check_models(models: Mapping[str, Entry], held_out: Observations) -> None:
    """Refuse what no scale joins."""
    if not models:
        raise ValueError("`models` must hold at least one model, got none.")
    for name, entry in models.items():
        _check_comparable(name, entry, held_out)
    if incomplete := int(held_out.x.isnan().flatten(1).any(1).sum()):
        for name in (name for name, entry in models.items() if model_of(entry).missing != "nan"):
            raise ValueError(
                f"`models[{name!r}]` takes no missing values, and {incomplete} of the {len(held_out)} data have some; "
                'build it with missing="nan" if it has that argument, or compare it on complete data alone.'
            )
    supports = sorted({support for entry in models.values() if (support := model_of(entry).support) is not None})
    if len(supports) > 1:
        raise ValueError(
            f"`models` must be of one support, got a {' beside a '.join(map(_kind, supports))}, which no scale joins."
        )


def _check_comparable(name: str, entry: Any, held_out: Observations) -> None:
    if not isinstance(entry, FitResult | LatentVariableModel):
        raise TypeError(f"`models[{name!r}]` must be a FitResult or a model, got {type(entry).__name__}.")
    if not model_of(entry).is_density:
        raise ValueError(
            f"`models[{name!r}]` was trained by a loss that is no density and no mass, so that nothing of it can be "
            "ranked in nats; give it a likelihood, e.g. Bernoulli() on binarized data or ContinuousBernoulli()."
        )
    space, support = held_out.space, model_of(entry).support
    if space.support is not None and support is not None and support != space.support:
        raise ValueError(
            f"`models[{name!r}]` is a {_kind(support)}, and the data are {space.support}, so that its likelihood "
            "cannot be ranked here; compare models of one support."
        )
    if isinstance(entry, FitResult) and not entry.space.comparable_with(space):
        raise ValueError(
            f"`models[{name!r}]` was fitted on {_described(entry.space)}, and the data are {_described(space)}: "
            "densities on different spaces are not comparable, and no Jacobian joins the two; "
            "fit and compare on Observations of one space."
        )


def _described(space: Space) -> str:
    return f"{space.reference!r} (support {space.support or 'not stated'})"


def _kind(support: str) -> str:
    return {"boolean": "mass on {0, 1}", "integer": "mass on integers", "real": "density on the real numbers"}[support]
