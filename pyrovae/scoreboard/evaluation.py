"""Everything that there is to say of one model on held-out data: its row, where its ELBO loses, what its z holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.evaluate import CollapseReport, ELBOGap, LatentInformation, LatentReport
from pyrovae.evaluate.latents.encoding import is_continuous, posteriors
from pyrovae.models import VAE
from pyrovae.models.base import LatentVariableModel
from pyrovae.scoreboard.comparison import compare
from pyrovae.scoreboard.figures import Figure
from pyrovae.scoreboard.rows import Row


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate_model` returns; what was not asked for, or has no meaning for the model, is None.

    Attributes:
        rows: The one row of a scoreboard.
        data: The held-out data.
        units: What the units of a VAE's z carry.
        gaps: Where the ELBO loses.
        information: How much z tells of x.
        collapse: What a linear model of the same noise would do with as many units, on training data.
    """

    rows: tuple[Row, ...]
    data: Observations
    units: LatentReport | None = None
    gaps: ELBOGap | None = None
    information: LatentInformation | None = None
    collapse: CollapseReport | None = None

    @property
    def row(self) -> Row:
        """The row."""
        return self.rows[0]

    @property
    def figures(self) -> list[Figure]:
        """Every figure that the model has."""
        found = [*self.row.figures.values(), *_gap_figures(self.gaps), *_information_figures(self.information)]
        if self.units is not None:
            meaning = f"active units of {len(self.units.kl)}"
            found.append(Figure("num_active", meaning, self.units.num_active, unit="count"))
        if self.collapse is not None:
            meaning, number = "units that a linear model of the same σ would use", self.collapse.linear.num_active
            found.append(Figure("linear_num_active", meaning, number, unit="count"))
        return [figure for figure in found if figure.value is not None]

    @property
    def sentences(self) -> list[str]:
        """What the figures are."""
        said = [self.row.meaning]
        if self.row.at_floor is not None:
            said.append(self.row.at_floor.meaning)
        if self.gaps is not None and self.row.kind == "bound":
            said.append("The approximation gap is as much of a lower bound in expectation as log p(x) is.")
        return said

    @property
    def details(self) -> list[tuple[str, str]]:
        """What has a table of its own: heading and text."""
        every = {
            "ELBO gap": self.gaps,
            "What z tells of x": self.information,
            "Units of z, beside those of a linear model, on training data": self.collapse,
        }
        return [(heading, str(each)) for heading, each in every.items() if each is not None]

    def to_plain(self) -> dict[str, Any]:
        """Every figure and word, as JSON holds them."""
        row = self.row
        plain = {
            "space": self.data.space.reference,
            "num_data": len(self.data),
            "units": "nats per datum",
            "how": row.kind,
            **{name: getattr(row, name) for name in ("meaning", "conditional", "num_particles")},
            "values": {figure.name: figure.value for figure in self.figures},
            "standard_errors": {figure.name: figure.error for figure in self.figures if figure.error is not None},
            "worst_k_hat": row.worst(),
        }
        return plain if self.units is None else {**plain, "kl_per_unit": self.units.kl.tolist()}


def evaluate_model(
    name: str,
    model: LatentVariableModel,
    data: Observations,
    train: Observations,
    *,
    gaps: Literal["diag", "full"] | None = None,
    latents: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    **bound: Any,
) -> Evaluation:
    """Measure one model on held-out data.

    Args:
        name: What the row is called.
        model: Any model.
        data: Held-out data.
        train: Training data, for what collapse asks of them.
        gaps: Split log p(x) − ELBO by the best q of this covariance.
        latents: Say what z holds.
        seed: Of all draws.
        progress: Show progress bars; by default they appear after a second.
        **bound: How log p(x) is bounded; see :func:`pyrovae.compare`.
    """
    board = compare({name: model}, data, seed=seed, progress=progress, **bound)
    held_out, estimate = board.data, board.rows[0].estimate
    units = gap = information = collapse = None
    if isinstance(model, VAE) and len(held_out) > 1:
        units = evaluate.latent_report(evaluate.encode(model, held_out.fixed()))
    if gaps is not None:
        gap = evaluate.elbo_gap(model, held_out, gaps, log_prob=estimate, seed=seed, progress=progress)
    if latents:
        information = evaluate.latent_information(model, held_out, seed=seed)
        if all(is_continuous(q) for q in posteriors(model, held_out[:1])):
            collapse = evaluate.collapse_report(model, train)
    return Evaluation(board.rows, held_out, units, gap, information, collapse)


def _gap_figures(gaps: ELBOGap | None) -> list[Figure]:
    if gaps is None:
        return []
    parts = (
        ("approximation_gap", f"approximation gap, {gaps.family} q, nats", gaps.approximation_standard_error),
        ("amortization_gap", "amortization gap, nats", gaps.amortization_standard_error),
    )
    return [
        Figure(name, meaning, getattr(gaps, name).double().mean().item(), _error_of_mean(errors))
        for name, meaning, errors in parts
    ]


def _error_of_mean(errors: Tensor) -> float:
    return (errors.double().square().sum().sqrt() / len(errors)).item()


def _information_figures(information: LatentInformation | None) -> list[Figure]:
    if information is None:
        return []
    meanings = {
        "mutual_information": f"information I_q(x; z), nats (at most log N = {information.ceiling:.2f})",
        "marginal_kl": "KL(q(z) ‖ prior), nats",
    }
    errors = information.standard_errors
    return [Figure(name, meaning, getattr(information, name), errors[name]) for name, meaning in meanings.items()]
