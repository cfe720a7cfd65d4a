"""Models side by side on held-out data, in nats per datum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyrovae import evaluate
from pyrovae.data import Observations, Space, as_observations
from pyrovae.fit import FitResult
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.tractable import TractableModel

if TYPE_CHECKING:
    import pandas as pd

Entry = FitResult | LatentVariableModel


@dataclass(frozen=True, eq=False)
class Row:
    """One model on the scoreboard; likelihoods in nats per datum, in the reference space of the data.

    Attributes:
        name: As the caller named it.
        method: How it was fitted, or ``""``.
        log_prob: log p(x) per held-out datum, shape (N,), float64.
        mean, standard_error: Of ``log_prob`` over data.
        kind: ``"exact"``, or ``"bound"``: importance-weighted, below log p(x) in expectation.
        conditional: Whether ``log_prob`` is log p(x given y), with the label y told, and not log p(x).
        num_particles: S of a bound, else 0.
        k_hat_share: Share of data whose Pareto k̂ is over its threshold.
        difference, difference_standard_error: To the best row, paired over data; zero for the best.
        bits_per_dim: In bits per dimension, or None where that has no meaning.
        reconstruction, kl: Means of E_q[log p(x given z)], brought to the reference space, and of KL(q(z given x) ‖
            p(z)); q is the guide of a model fitted by SVI that has one, else the exact posterior.
        num_free_parameters: Of p(x).
        seconds: Wall time of the fit, or None.
        seed_means: ``mean`` of every refit, the first the one shown.
    """

    name: str
    method: str
    log_prob: Tensor
    mean: float
    standard_error: float
    kind: str
    conditional: bool
    num_particles: int
    k_hat_share: float
    difference: float
    difference_standard_error: float
    bits_per_dim: float | None
    reconstruction: float
    kl: float
    num_free_parameters: int
    seconds: float | None
    seed_means: tuple[float, ...]

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the mean over refits with other seeds; None without refits."""
        return torch.tensor(self.seed_means, dtype=torch.float64).std().item() if len(self.seed_means) > 1 else None


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
        return {row.name: _model(self.fits[row.name]) for row in self.rows}

    def to_dataframe(self) -> pd.DataFrame:
        """One row a model, best first, without the pointwise values."""
        import pandas as pd

        fields = [name for name in Row.__dataclass_fields__ if name not in ("log_prob", "seed_means")]
        records = [
            {**{name: getattr(row, name) for name in fields}, "seed_spread": row.seed_spread} for row in self.rows
        ]
        return pd.DataFrame.from_records(records).set_index("name")

    def to_inference_data(self, num_draws: int = 100, *, seed: int = 0) -> dict[str, Any]:
        """ArviZ data of every model by name: pointwise log-likelihoods and draws of z.

        Groups: ``posterior`` with z (chain, draw, datum, …) drawn from p(z given x) where it is known and from the
        guide where not (attribute ``drawn_from``); ``log_likelihood`` with x (chain, draw, datum), one draw, log p(x)
        in the space of the scoreboard; ``sample_stats`` with the log importance weight of every z, in that space too;
        ``observed_data`` with x as the model sees it.

        Args:
            num_draws: Draws of z for each datum.
            seed: Of the draws.

        Returns:
            Name → ``InferenceData`` (ArviZ 0.23) or ``DataTree`` (1.x).
        """
        from pyrovae import interchange

        return {
            row.name: interchange.inference_data(
                _model(self.fits[row.name]), _seen_by(self.fits[row.name], self.data), row.log_prob, num_draws, seed
            )
            for row in self.rows
        }

    def save(self, folder: Any) -> Any:
        """Write table, pictures, ArviZ files and models to a folder, whole or not at all; see :mod:`pyrovae.output`."""
        from pyrovae import output

        return output.save(self, folder)

    def __str__(self) -> str:
        header = [
            "",
            "log p(x)",
            "± s.e.",
            "how",
            "Δ best",
            "± s.e.",
            "bits/dim",
            "E log p(x|z)",
            "KL",
            "params",
            "fit s",
            "± seeds",
        ]
        lines = [header]
        for row in self.rows:
            cells = [
                row.name,
                f"{row.mean:.2f}",
                f"{row.standard_error:.2f}",
                f"{row.kind}, given y" if row.conditional else row.kind,
                f"{row.difference:z.2f}" if row.difference else "best",
                f"{row.difference_standard_error:.2f}" if row.difference else "",
                "" if row.bits_per_dim is None else f"{row.bits_per_dim:.3f}",
                f"{row.reconstruction:.2f}",
                f"{row.kl:z.2f}",
                f"{row.num_free_parameters:,}",
                "" if row.seconds is None else f"{row.seconds:.1f}",
                "" if row.seed_spread is None else f"{row.seed_spread:.2f}",
            ]
            lines.append(cells)
        columns = [column for column in zip(*lines, strict=True) if any(column[1:])]  # those with something to say
        lines = [list(line) for line in zip(*columns, strict=True)]
        widths = [max(map(len, column)) for column in columns]
        table = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        return "\n".join([table[0], "-" * len(table[0]), *table[1:], "", *self._legend()])

    def _legend(self) -> list[str]:
        space = self.data.space
        legend = [
            f"Means over {len(self.data):,} held-out data, nats per datum, higher is better; space: {space.reference}."
        ]
        bounds = [row for row in self.rows if row.kind == "bound"]
        if bounds:
            threshold = evaluate.k_hat_threshold(self.num_particles)
            legend.append(
                f"bound: importance-weighted with {self.num_particles:,} particles, below log p(x) in expectation."
            )
            if threshold > 0:  # a handful of particles has no tail to look at
                shares = "; ".join(f"{row.k_hat_share:.0%} of the data under {row.name}" for row in bounds)
                legend.append(f"Pareto k̂ > {threshold:.2f}, where more particles may raise the value: {shares}.")
        if any(row.conditional for row in self.rows):
            legend.append(
                "given y: log p(x given y), the label told, where the other rows are log p(x): not to be ranked "
                "against them (evaluate.log_likelihood_by_class leads from the one to the other)."
            )
        return legend


def compare(
    models: Mapping[str, Entry],
    data: Observations | Tensor,
    *,
    num_particles: int = 1000,
    seeds: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> Scoreboard:
    """Rank models by held-out log-likelihood, exact where it can be, importance-weighted where it cannot.

    A model of p(x given y) is marked as such, because what it is told of x, nobody told the others.

    Args:
        models: Name → fit result or model.
        data: Held-out data.  A fit result made in another view of the same reference space (say logit-transformed) sees
            the data as it was trained to, and its density is brought back by log|det J|.
        num_particles: S of the importance-weighted bounds.
        seeds: Fits with so many seeds, the given one among them: refits every fit result ``seeds − 1`` times.
        seed: Of the draws.
        progress: Show a progress bar; by default one appears after a second.

    Returns:
        The scoreboard, best row first.

    Raises:
        ValueError: If ``models`` is empty, a model lives on another support or space than the data, or is trained by a
            loss that is no likelihood.
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
    held_out = as_observations(data).fixed(seed)
    for name, entry in models.items():
        _check_comparable(name, entry, held_out)
    supports = sorted({support for entry in models.values() if (support := _model(entry).support) is not None})
    if len(supports) > 1:
        raise ValueError(
            f"`models` must be of one support, got a {' beside a '.join(map(_kind, supports))}, which no scale joins."
        )
    rows = []
    hidden = None if progress is None else not progress
    bar = tqdm(models.items(), desc="comparing", unit="model", delay=1.0, leave=False, disable=hidden)
    for name, entry in bar:
        bar.set_postfix_str(name)
        row = _row(name, entry, held_out, num_particles, seed, progress)
        if seeds > 1 and isinstance(entry, FitResult):
            refits = [entry.refit(seed + 1 + i) for i in range(seeds - 1)]
            others = [_log_prob(refit, held_out, num_particles, seed, progress)[0].mean().item() for refit in refits]
            row["seed_means"] = (row["mean"], *others)
        rows.append(row)
    rows.sort(key=lambda row: -row["mean"])
    for row in rows:
        difference = row["log_prob"] - rows[0]["log_prob"]
        row["difference"] = difference.mean().item()
        row["difference_standard_error"] = _standard_error(difference)
    return Scoreboard(tuple(Row(**row) for row in rows), dict(models), held_out, num_particles)


def _row(
    name: str, entry: Entry, held_out: Observations, num_particles: int, seed: int, progress: bool | None
) -> dict[str, Any]:
    """The fields of one row that need no other row."""
    model, seen = _model(entry), _seen_by(entry, held_out)
    values, likelihood = _log_prob(entry, held_out, num_particles, seed, progress)
    reconstruction, kl = _terms(entry, values - seen.log_abs_det.cpu(), seen, min(num_particles, 100), seed, progress)
    bits = held_out.bits_per_dim(values.mean())
    return {
        "name": name,
        "method": entry.method if isinstance(entry, FitResult) else "",
        "log_prob": values,
        "mean": values.mean().item(),
        "standard_error": _standard_error(values),
        "kind": "exact" if likelihood.method == "exact" else "bound",
        "conditional": model.num_classes is not None,
        "num_particles": likelihood.num_particles,
        "k_hat_share": likelihood.k_hat_share,
        "bits_per_dim": None if bits is None else bits.item(),
        "reconstruction": (reconstruction + seen.log_abs_det.cpu()).mean().item(),
        "kl": kl.mean().item(),
        "num_free_parameters": model.num_free_parameters,
        "seconds": entry.seconds if isinstance(entry, FitResult) else None,
        "seed_means": (values.mean().item(),),
    }


def _log_prob(
    entry: Entry, held_out: Observations, num_particles: int, seed: int, progress: bool | None
) -> tuple[Tensor, evaluate.LogLikelihood]:
    """log p(x) in the reference space, (N,) float64 on the CPU, and how it was found."""
    seen = _seen_by(entry, held_out)
    likelihood = evaluate.log_likelihood(_model(entry), seen, num_particles, seed=seed, progress=progress)
    return likelihood.values.double().cpu() + seen.log_abs_det.cpu(), likelihood


def _terms(
    entry: Entry, log_prob: Tensor, seen: Observations, num_particles: int, seed: int, progress: bool | None
) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL per datum: of what SVI learned as guide, else exactly, of the exact posterior."""
    model = _model(entry)
    learned = isinstance(entry, FitResult) and entry.method == "SVI" and any(True for _ in model.guide.parameters())
    if isinstance(model, TractableModel) and not learned:
        with torch.no_grad():
            kl = model.posterior_kl(seen).double().cpu()
        return log_prob + kl, kl
    terms = evaluate.elbo_terms(model, seen, num_particles, seed=seed, progress=progress)
    return terms.reconstruction.double().cpu(), terms.kl.double().cpu()


def _model(entry: Entry) -> LatentVariableModel:
    return entry.model if isinstance(entry, FitResult) else entry


def _seen_by(entry: Entry, held_out: Observations) -> Observations:
    """Held-out data as the model was trained to see them."""
    return held_out.in_space(entry.space) if isinstance(entry, FitResult) else held_out


def _standard_error(values: Tensor) -> float:
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan


def _check_comparable(name: str, entry: Any, held_out: Observations) -> None:
    if not isinstance(entry, FitResult | LatentVariableModel):
        raise TypeError(f"`models[{name!r}]` must be a FitResult or a model, got {type(entry).__name__}.")
    if not _model(entry).is_density:
        raise ValueError(
            f"`models[{name!r}]` was trained by a loss that is no density and no mass, so that nothing of it can be "
            "ranked in nats; give it a likelihood, e.g. Bernoulli() on binarized data or ContinuousBernoulli()."
        )
    space, support = held_out.space, _model(entry).support
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
