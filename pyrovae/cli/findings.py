"""What ``pyrovae evaluate`` has to say of a model: figures, each with a key, a few words, and a standard error."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyrovae import evaluate
from pyrovae.evaluate import CollapseReport, DegeneracyReport, ELBOGap, LatentInformation, LatentReport
from pyrovae.scoreboard.rows import Row


@dataclass(frozen=True)
class Finding:
    """A figure: its name in a file, what it is, its value and, where it has one, its standard error."""

    key: str
    what: str
    value: float
    error: float | None = None


def of_row(row: Row) -> list[Finding]:
    """What stands on the scoreboard."""
    given = " given y" if row.conditional else ""
    unit = "chains" if row.estimate.method == "annealed" else "particles"
    how = "exact" if row.kind == "exact" else f"bound, {row.num_particles:,} {unit}"
    found = [Finding("log_likelihood", f"log p(x{given}), nats ({how})", row.mean, row.standard_error)]
    if row.kind == "bound":
        found += [
            Finding("monte_carlo_standard_error", f"of its s.e., by {unit}", row.monte_carlo_standard_error),
            Finding("data_standard_error", "of its s.e., by data", row.data_standard_error),
        ]
    if row.bits_per_dim is not None:
        found.append(Finding("bits_per_dim", "bits per dimension", row.bits_per_dim))
    found += [
        Finding("elbo", "ELBO, nats", row.reconstruction - row.kl),
        Finding("reconstruction", "E log p(x|z), nats", row.reconstruction),
        Finding("kl", "KL(q ‖ prior), nats", row.kl),
    ]
    if row.has_tail:
        threshold = evaluate.k_hat_threshold(row.num_particles)
        found.append(Finding("k_hat_share", f"share of data with Pareto k̂ > {threshold:.2f}", row.k_hat_share))
    return found + ([] if row.degeneracy is None else _of_floor(row.degeneracy))


def _of_floor(report: DegeneracyReport) -> list[Finding]:
    higher = f"change of log p(x) with a floor of {report.raised_floor:.3g}, nats"
    return [
        Finding(
            "share_of_dimensions_at_floor",
            f"share of variances at the floor, {report.floor:.3g}",
            report.share_of_dimensions,
        ),
        Finding("share_of_data_at_floor", "share of data with one there", report.share_of_data),
        Finding("change_under_higher_floor", higher, report.change, report.change_standard_error),
        Finding("ceiling_of_floor", "ceiling that the floor allows, nats", report.ceiling),
    ]


def of_units(report: LatentReport) -> list[Finding]:
    """Which units of z are in use."""
    return [Finding("num_active", f"active units of {len(report.kl)}", report.num_active)]


def of_gaps(gap: ELBOGap) -> list[Finding]:
    """Where the ELBO loses."""
    return [
        Finding(
            "approximation_gap",
            f"approximation gap, {gap.family} q, nats",
            gap.approximation_gap.double().mean().item(),
            _error_of_mean(gap.approximation_standard_error),
        ),
        Finding(
            "amortization_gap",
            "amortization gap, nats",
            gap.amortization_gap.double().mean().item(),
            _error_of_mean(gap.amortization_standard_error),
        ),
    ]


def _error_of_mean(errors: Tensor) -> float:
    return (errors.double().square().sum().sqrt() / len(errors)).item()


def of_information(information: LatentInformation) -> list[Finding]:
    """How much z tells of x."""
    errors = information.standard_errors
    said = f"information I_q(x; z), nats (at most log N = {information.ceiling:.2f})"
    return [
        Finding("mutual_information", said, information.mutual_information, errors["mutual_information"]),
        Finding("marginal_kl", "KL(q(z) ‖ prior), nats", information.marginal_kl, errors["marginal_kl"]),
    ]


def of_collapse(report: CollapseReport) -> list[Finding]:
    """What a linear model would do with as many units, on training data."""
    said = "units that a linear model of the same σ would use"
    return [Finding("linear_num_active", said, report.linear.num_active)]
