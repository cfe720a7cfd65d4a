"""Models side by side on held-out data, in nats per datum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm.auto import tqdm

from pyrovae import evaluate
from pyrovae.data import Observations, Space, as_observations
from pyrovae.engine.execution import keywords_moved
from pyrovae.evaluate.likelihood.annealed import DEFAULT_OPTIONS, AISOptions
from pyrovae.fit import FitResult
from pyrovae.models.base import LatentVariableModel
from pyrovae.scoreboard.rows import BoundMethod, Entry, Measure, Row, model_of, seen_by, standard_error

if TYPE_CHECKING:
    import pandas as pd


SHOWN = 3  # degeneracies of a fit, in its note


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
        return {row.name: model_of(self.fits[row.name]) for row in self.rows}

    def to_dataframe(self) -> pd.DataFrame:
        """One row a model, best first, without the pointwise values."""
        import pandas as pd

        return pd.DataFrame.from_records([row.record() for row in self.rows]).set_index("name")

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
        from pyrovae.io import arviz

        return {
            row.name: arviz.inference_data(
                model_of(self.fits[row.name]), seen_by(self.fits[row.name], self.data), row.log_prob, num_draws, seed
            )
            for row in self.rows
        }

    def save(self, folder: Any) -> Any:
        """Write table, pictures, ArviZ files and models to a folder; see :mod:`pyrovae.scoreboard.results_folder`."""
        from pyrovae.scoreboard import results_folder

        return results_folder.save(self, folder)

    def cells(self) -> list[list[str]]:
        """The table as text: a header, then one line a model; columns with nothing to say are left out."""
        columns = [[header, *map(cell, self.rows)] for header, cell in COLUMNS]
        return [list(line) for line in zip(*(column for column in columns if any(column[1:])), strict=True)]

    def notes(self) -> list[str]:
        """What the numbers are, in sentences."""
        scale = f"Means over {len(self.data):,} held-out data, nats per datum, higher is better"
        notes = [f"{scale}; space: {self.data.space.reference}."]
        bounds = [row for row in self.rows if row.kind == "bound"]
        notes += dict.fromkeys(
            f"{row.kind}: {row.estimate.meaning[0].lower()}{row.estimate.meaning[1:]}" for row in bounds
        )
        if tails := [row for row in bounds if row.has_tail]:
            threshold = evaluate.k_hat_threshold(tails[0].num_particles)
            shares = "; ".join(f"{row.k_hat_share:.0%} of the data under {row.name}" for row in tails)
            notes.append(f"Pareto k̂ > {threshold:.2f}, where more particles may raise the value: {shares}.")
        if any(row.conditional for row in self.rows):
            notes.append(
                "given y: log p(x|y), the label told, where the other rows are log p(x): not to be ranked "
                "against them (evaluate.log_likelihood_by_class leads from the one to the other)."
            )
        for name, entry in self.fits.items():
            if isinstance(entry, FitResult) and entry.degeneracies:
                more = ", and more" if len(entry.degeneracies) > SHOWN else ""
                notes.append(f"{name} is a degenerate fit: {'; '.join(entry.degeneracies[:SHOWN])}{more}.")
        flagged = [(row.name, row.at_floor) for row in self.rows if row.at_floor is not None]
        if flagged:
            notes.append(
                "at floor: the share of variances that a floor ε holds up, so that a choice is part of the score."
            )
        return notes + [
            f"{name}: ε = {r.floor:g}, at {r.share_of_data:.0%} of the data; with {r.raised_floor:g} the score "
            f"changes by {r.change:+z.2f}; ceiling {r.ceiling:.2f}."
            for name, r in flagged
        ]

    def __str__(self) -> str:
        lines = self.cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        return "\n".join([table[0], "-" * len(table[0]), *table[1:], "", *self.notes()])


def _how(row: Row) -> str:
    annealed = ", AIS" if row.estimate.method == "annealed" else ""
    return f"{row.kind}{annealed}{', given y' if row.conditional else ''}"


def _at_floor(row: Row) -> str:
    if row.at_floor is None:
        return ""
    share = row.at_floor.share_of_dimensions
    return f"{share:.0%}" if share >= 0.01 else "<1%"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("", lambda row: row.name),
    ("log p(x)", lambda row: f"{row.mean:.2f}"),
    ("± s.e.", lambda row: f"{row.standard_error:.2f}"),
    ("of it MC", lambda row: f"{row.monte_carlo_standard_error:.2f}" if row.kind == "bound" else ""),
    ("how", _how),
    ("Δ best", lambda row: f"{row.difference:z.2f}" if row.difference else "best"),
    ("± s.e.", lambda row: f"{row.difference_standard_error:.2f}" if row.difference else ""),
    ("bits/dim", lambda row: "" if row.bits_per_dim is None else f"{row.bits_per_dim:.3f}"),
    ("E log p(x|z)", lambda row: f"{row.reconstruction:.2f}"),
    ("KL", lambda row: f"{row.kl:z.2f}"),
    ("at floor", _at_floor),
    ("params", lambda row: f"{row.num_free_parameters:,}"),
    ("fit s", lambda row: "" if row.seconds is None else f"{row.seconds:.1f}"),
    ("± seeds", lambda row: "" if row.seed_spread is None else f"{row.seed_spread:.2f}"),
)


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
        data: Held-out data.  A fit result made in another view of the same reference space (say logit-transformed) sees
            the data as it was trained to, and its density is brought back by log|det J|.
        num_particles: S of the importance-weighted bounds.
        method: Of the bounds: ``"importance"``, or ``"ais"`` for the tighter and slower ones of annealing.
        ais: How to anneal.
        seeds: Fits with so many seeds, the given one among them: refits every fit result ``seeds − 1`` times.
        seed: Of the draws.
        progress: Show a progress bar; by default one appears after a second.

    Returns:
        The scoreboard, best row first.

    Raises:
        ValueError: If ``models`` is empty, ``method`` unknown, a model lives on another support or space than the
            data, or is trained by a loss that is no likelihood.
        TypeError: If ``models`` is no mapping, or an entry neither a fit result nor a model.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> fits = {f"PPCA-{q}": fit.closed_form(PPCA(q, (64,)), d.train) for q in (2, 8)}
        >>> [row.name for row in compare(fits, d.test).rows]
        ['PPCA-8', 'PPCA-2']
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"`models` must be a mapping of names to fits or models, got {type(models).__name__}.")
    if not models:
        raise ValueError("`models` must hold at least one model, got none.")
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1, got {seeds}.")
    if method not in ("importance", "ais"):
        raise ValueError(f'`method` must be "importance" or "ais", got {method!r}; exact values are never replaced.')
    held_out = as_observations(data).fixed(seed)
    for name, entry in models.items():
        _check_comparable(name, entry, held_out)
    supports = sorted({support for entry in models.values() if (support := model_of(entry).support) is not None})
    if len(supports) > 1:
        raise ValueError(
            f"`models` must be of one support, got a {' beside a '.join(map(_kind, supports))}, which no scale joins."
        )
    measure = Measure(num_particles, method, ais, seed, progress)
    rows = []
    hidden = None if progress is None else not progress
    bar = tqdm(models.items(), desc="comparing", unit="model", delay=1.0, leave=False, disable=hidden)
    for name, entry in bar:
        bar.set_postfix_str(name)
        row = measure.row(name, entry, held_out)
        if seeds > 1 and isinstance(entry, FitResult):
            refits = [entry.refit(seed + 1 + i) for i in range(seeds - 1)]
            others = [measure.log_prob(refit, held_out)[0].mean().item() for refit in refits]
            row["seed_means"] = (row["mean"], *others)
        rows.append(row)
    rows.sort(key=lambda row: -row["mean"])
    for row in rows:
        difference = row["log_prob"] - rows[0]["log_prob"]
        row["difference"] = difference.mean().item()
        row["difference_standard_error"] = standard_error(difference)
    return Scoreboard(tuple(Row(**row) for row in rows), dict(models), held_out, num_particles)


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
