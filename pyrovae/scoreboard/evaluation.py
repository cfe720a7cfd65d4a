"""Everything that there is to say of one model on held-out data: its row, where its ELBO loses, what its z holds."""

import math
from dataclasses import dataclass, field
from typing import Any

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.evaluate.latents.encoding import is_continuous, posteriors
from pyrovae.evaluate.likelihood.best_gaussian import Family
from pyrovae.evaluate.likelihood.estimate import error_of_mean
from pyrovae.models import VAE, exact_guide
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.tractable import TractableModel
from pyrovae.scoreboard.comparison import compare
from pyrovae.scoreboard.figures import Figure
from pyrovae.scoreboard.rows import Row
from pyrovae.scoreboard.table import about_data

COLLAPSE = "Units of z, beside those of a linear model, on training data"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate_model` returns.

    Attributes:
        rows: The one row of a scoreboard.
        data: The held-out data.
        figures: Every figure that the model has.
        sentences: What the figures are.
        details: What has a table of its own: heading and text.
        kl_per_unit: Mean KL of every unit of a VAE's z, nats.
    """

    rows: tuple[Row]
    data: Observations
    figures: list[Figure]
    sentences: list[str]
    details: list[tuple[str, str]] = field(default_factory=list)
    kl_per_unit: list[float] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Every figure and word, as JSON holds them."""
        (row,) = self.rows
        return {
            "space": self.data.space.reference,
            "num_data": len(self.data),
            "units": "nats per datum",
            "how": row.kind,
            **{name: getattr(row, name) for name in ("meaning", "conditional", "num_particles")},
            "doubt": row.doubt,
            "values": {figure.name: _known(figure.value) for figure in self.figures},
            "standard_errors": {each.name: _known(each.error) for each in self.figures if each.error is not None},
            "worst_k_hat": row.worst(),
            **({"kl_per_unit": self.kl_per_unit} if self.kl_per_unit else {}),
        }


def evaluate_model(
    name: str,
    model: LatentVariableModel,
    data: Observations,
    train: Observations | None,
    *,
    gaps: Family | None = None,
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
        train: Training data, for what collapse asks of them; None if they are not at hand.
        gaps: Split log p(x) − ELBO by the best q of this covariance.
        latents: Say what z holds.
        seed: Of all draws.
        progress: Show progress bars; by default they appear after a second.
        **bound: How log p(x) is bounded; see :func:`pyrovae.compare`.
    """
    board = compare({name: model}, data, seed=seed, progress=progress, **bound)
    (row,), held_out = board.rows, board.data
    figures = [figure for figure in row.figures.values() if figure.value is not None]
    said = filter(None, [row.doubt, row.too_low, *about_data(held_out), row.meaning])
    found = Evaluation((row,), held_out, figures, list(said))
    if row.at_floor is not None:
        found.sentences.append(row.at_floor.meaning)
    if isinstance(model, VAE) and len(held_out) > 1:
        units = evaluate.latent_report(evaluate.encode(model, held_out.fixed()))
        figures.append(Figure("num_active", f"active units of {len(units.kl)}", units.num_active, unit="count"))
        found.kl_per_unit.extend(units.kl.tolist())
    if gaps is not None:
        _add_gap(found, _gap(model, held_out, gaps, row.estimate, seed=seed, progress=progress))
    if latents:
        _add_information(found, evaluate.latent_information(model, held_out, seed=seed))
        if train is not None and all(is_continuous(q) for q in posteriors(model, held_out[:1])):
            collapse = evaluate.collapse_report(model, train)
            meaning, number = "units that a linear model of the same σ would use", collapse.linear.num_active
            figures.append(Figure("linear_num_active", meaning, number, unit="count"))
            view = "" if held_out.space.transform_name == "as it is" else f", as seen ({held_out.space.transform_name})"
            found.details.append((f"{COLLAPSE}{view}", str(collapse)))
    return found


def _known(value: float | None) -> float | None:
    """A number, or None for what is not available, as JSON has no NaN."""
    return None if value is None or math.isnan(value) else value


def _gap(
    model: LatentVariableModel, data: Observations, family: Family, log_prob: evaluate.LogLikelihood, **options: Any
) -> evaluate.ELBOGap:
    """Where the ELBO loses, in the reference space; q is the exact posterior where no guide draws z."""
    drawn = any(True for _ in model.guide.parameters())
    guide = exact_guide(model) if isinstance(model, TractableModel) and not drawn else None
    gap = evaluate.elbo_gap(model, data, family, log_prob=log_prob, guide=guide, **options)
    return gap.in_reference(data.log_abs_det)


def _add_gap(found: Evaluation, gap: evaluate.ELBOGap) -> None:
    for name, meaning, errors in (
        ("approximation_gap", f"approximation gap, {gap.family} q, nats", gap.approximation_standard_error),
        ("amortization_gap", "amortization gap, nats", gap.amortization_standard_error),
    ):
        found.figures.append(Figure(name, meaning, getattr(gap, name).double().mean().item(), error_of_mean(errors)))
    found.details.append((f"ELBO gap, {found.data.space.reference}", str(gap)))
    if found.rows[0].kind == "bound":
        found.sentences.append("The approximation gap is as much of a lower bound in expectation as log p(x) is.")


def _add_information(found: Evaluation, information: evaluate.LatentInformation) -> None:
    for name, meaning in (
        ("mutual_information", f"information I_q(x; z), nats (at most log N = {information.ceiling:.2f})"),
        ("marginal_kl", "KL(q(z) ‖ prior), nats"),
    ):
        figure = Figure(name, meaning, getattr(information, name), information.standard_errors[name])
        found.figures.append(figure)
    found.details.append(("What z tells of x", str(information)))
