"""One model on the scoreboard: its likelihood on held-out data, how that is known, and how far it can be trusted."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.evaluate.likelihood.estimate import data_part, error_of_mean, short_by, standard_error
from pyrovae.fit import FitResult
from pyrovae.fit.select import TIE
from pyrovae.io import arviz
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.tractable import TractableModel
from pyrovae.scoreboard.figures import FIGURES, FLOOR, NOT_AVAILABLE, Figure

Entry = FitResult | LatentVariableModel
BoundMethod = Literal["importance", "ais"]

WORST = 10  # data with the highest k̂ that are named
FEW_PARTICLES = 100  # at most, for what is no likelihood: the two terms of the ELBO, and the share at the floor
POINTWISE = ("entry", "log_prob", "estimate", "degeneracy", "seed_means")  # fields that are no cell of a table
PARTS = ("monte_carlo_standard_error", "data_standard_error")
DERIVED = ("meaning", *PARTS, "doubt", "told_apart", "seed_spread")


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """One model on the scoreboard; likelihoods in nats per datum, in the reference space of the data.

    Attributes:
        name: As the caller named it.
        entry: The fit or the model.
        method: How it was fitted, or ``""``.
        log_prob: log p(x) per held-out datum, shape (N,), float64.
        mean, standard_error: Of ``log_prob`` over data.
        kind: ``"exact"``, or ``"bound"``: importance-weighted or annealed, below log p(x) in expectation.
        estimate: What ``log_prob`` comes from, in the space that the model sees, with the errors and k̂ of every datum.
        conditional: Whether ``log_prob`` is log p(x|y), with the label y told, and not log p(x).
        num_particles: S of a bound, else 0.
        k_hat_share: Share of data whose Pareto k̂ is over its threshold; NaN where no k̂ is available.
        difference, difference_standard_error: To the best row, paired over data; zero for the best.
        bits_per_dim: In bits per dimension, or None where that has no meaning.
        reconstruction, kl: Means of E_q[log p(x|z)], brought to the reference space, and of KL(q(z|x) ‖
            p(z)); q is the guide of a model fitted by SVI that has one, else the exact posterior.
        elbo_standard_error: Monte-Carlo standard error of their difference, the ELBO; 0 when exact.
        degeneracy: What the model's floor has to do with the score, brought to the reference space; None without one.
        num_free_parameters: Of p(x), or None where the model does not say.
        seconds: Wall time of the fit, or None.
        seed_means: ``mean`` of every refit, the first the one shown.
    """

    name: str
    entry: Entry
    method: str
    log_prob: Tensor
    mean: float
    standard_error: float
    kind: str
    estimate: evaluate.LogLikelihood
    conditional: bool
    num_particles: int
    k_hat_share: float
    difference: float = 0.0
    difference_standard_error: float = 0.0
    bits_per_dim: float | None
    reconstruction: float
    kl: float
    elbo_standard_error: float
    degeneracy: evaluate.DegeneracyReport | None
    num_free_parameters: int | None
    seconds: float | None
    seed_means: tuple[float, ...]

    @property
    def model(self) -> LatentVariableModel:
        """The model itself."""
        return model_of(self.entry)

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the mean over refits with other seeds; None without refits."""
        return torch.tensor(self.seed_means, dtype=torch.float64).std().item() if len(self.seed_means) > 1 else None

    @property
    def monte_carlo_standard_error(self) -> float:
        """The part of ``standard_error`` that other particles would change; 0 when exact, NaN where not known."""
        return self.estimate.monte_carlo_standard_error

    @property
    def data_standard_error(self) -> float:
        """The part of ``standard_error`` that other held-out data would change."""
        return data_part(self.standard_error, self.monte_carlo_standard_error)

    @property
    def doubt(self) -> str:
        """One sentence on why ``mean`` has no Monte-Carlo error; ``""`` where it has one."""
        return self.estimate.doubt

    @property
    def short_by(self) -> float:
        """What a bound lies below the model's own ELBO, a lower bound too, by more than chance.

        0 where it does not, and for an exact ``mean``.
        """
        if self.kind == "exact":
            return 0.0
        elbo = self.reconstruction - self.kl
        return short_by(self.mean, self.monte_carlo_standard_error, elbo, self.elbo_standard_error)

    @property
    def too_low(self) -> str:
        """One sentence on that; ``""`` where there is nothing to say."""
        if not self.short_by:
            return ""
        more = "temperatures" if self.estimate.method == "annealed" else "particles"
        return f"The bound lies {self.short_by:,.3f} nats below the ELBO, which is a lower bound too; take more {more}."

    @property
    def told_apart(self) -> bool:
        """Whether ``difference`` is more than chance over data explains: by the t test of 5%, paired over data."""
        from scipy.stats import t  # which adds a filter of warnings on import

        if math.isinf(self.difference):
            return True
        quantile = t.ppf(0.975, len(self.log_prob) - 1)  # NaN from a single datum
        by_rounding = math.isclose(self.mean - self.difference, self.mean, rel_tol=TIE)
        return bool(abs(self.difference) > quantile * self.difference_standard_error) and not by_rounding

    @property
    def meaning(self) -> str:
        """One sentence on what ``mean`` is: exact, or a bound in expectation, and from which side."""
        return self.estimate.meaning.replace("log p(x)", self._likelihood)

    @property
    def _likelihood(self) -> str:
        return "log p(x|y)" if self.conditional else "log p(x)"

    @property
    def at_floor(self) -> evaluate.DegeneracyReport | None:
        """``degeneracy``, if any of the likelihood comes from the floor."""
        return self.degeneracy if self.degeneracy is not None and self.degeneracy.flagged else None

    @property
    def has_tail(self) -> bool:
        """Whether the weights are many enough for k̂ to say something."""
        several = evaluate.k_hat_threshold(self.num_particles) > 0
        return self.kind == "bound" and several and not bool(self.estimate.k_hat.isnan().all())

    def worst(self, number: int = WORST) -> list[int]:
        """Indices of the held-out data with the highest Pareto k̂, the worst first; none where k̂ says nothing."""
        if not self.has_tail:
            return []
        k_hat = self.estimate.k_hat.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        order = k_hat.argsort(descending=True, stable=True)[:number].tolist()
        return [n for n in order if k_hat[n] > -math.inf]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Every number that is shown of the row, by name; ``value`` is None for what the row has not."""
        draws = "chains" if self.estimate.method == "annealed" else "particles"
        is_bound = self.kind == "bound"
        told = {
            "likelihood": self._likelihood,
            "basis": f"bound, {self.num_particles:,} {draws}" if is_bound else "exact",
            "draws": draws,
            "threshold": max(evaluate.k_hat_threshold(self.num_particles), 0.0),
        }
        values = {
            **{name: getattr(self, name, None) for name in FIGURES},
            **{name: getattr(self.degeneracy, attribute, None) for name, attribute in FLOOR.items()},
            "log_likelihood": self.mean,
            **({} if is_bound else dict.fromkeys((*PARTS, "k_hat_share"))),
            "difference": self.difference or None,
            "elbo": self.reconstruction - self.kl,
        }
        errors = {
            "log_likelihood": self.standard_error,
            "difference": self.difference_standard_error if self.difference else None,
            "change_under_higher_floor": getattr(self.degeneracy, "change_standard_error", None),
        }
        marks = {"k_hat_share": "not available", **dict.fromkeys(PARTS, self.estimate.mark or NOT_AVAILABLE)}
        return {
            name: Figure(
                name,
                meaning.format(**told),
                values[name],
                errors.get(name),
                unit,
                heading,
                marks.get(name, NOT_AVAILABLE),
            )
            for name, (heading, unit, meaning) in FIGURES.items()
        }

    def beside(self, best: "Row") -> "Row":
        """The row with its difference to the best one, datum by datum."""
        difference = self.log_prob - best.log_prob
        return replace(self, difference=difference.mean().item(), difference_standard_error=standard_error(difference))

    def record(self) -> dict[str, Any]:
        """Every number and word of the row but the pointwise values, by name."""
        names = [name for name in type(self).__dataclass_fields__ if name not in POINTWISE]
        plain = {name: getattr(self, name) for name in (*names, *DERIVED)}
        return {**plain, **{name: self.figures[name].value for name in FLOOR}}

    def inference_data(self, held_out: Observations, num_draws: int, seed: int = 0) -> Any:
        """ArviZ data of the model; see :meth:`pyrovae.scoreboard.comparison.Scoreboard.to_inference_data`."""
        return arviz.inference_data(self.model, seen_by(self.entry, held_out), self.log_prob, num_draws, seed)


@dataclass(frozen=True)
class Measure:
    """How likelihoods are found where they are not exact; see :func:`pyrovae.compare`."""

    num_particles: int
    method: BoundMethod
    ais: evaluate.AISOptions
    seed: int
    progress: bool | None

    def log_prob(self, entry: Entry, held_out: Observations) -> tuple[Tensor, evaluate.LogLikelihood]:
        """log p(x) in the reference space, (N,) float64 on the CPU, exact where it can be, and how it was found."""
        model, seen = model_of(entry), seen_by(entry, held_out)
        method: Any = "auto" if hasattr(model, "log_prob") else self.method
        likelihood = evaluate.log_likelihood(
            model, seen, self.num_particles, method, ais=self.ais, seed=self.seed, progress=self.progress
        )
        return likelihood.values.double().cpu() + seen.log_abs_det.cpu(), likelihood

    def row(self, name: str, entry: Entry, held_out: Observations, seeds: int = 1) -> Row:
        """One row, as if it were the best; a fit is made again with ``seeds`` − 1 other seeds."""
        model, seen = model_of(entry), seen_by(entry, held_out)
        values, likelihood = self.log_prob(entry, held_out)
        mean, jacobian = values.mean(), seen.log_abs_det.cpu()
        shift = jacobian.mean().item()
        reconstruction, kl, elbo_errors = self._terms(entry, values - jacobian, seen)
        bits = held_out.bits_per_dim(mean)
        fitted = entry if isinstance(entry, FitResult) else None
        refits = _refits(fitted, self.seed, seeds - 1) if fitted else []
        return Row(
            name=name,
            entry=entry,
            method=fitted.method if fitted else "",
            log_prob=values,
            mean=mean.item(),
            standard_error=standard_error(values),
            kind="exact" if likelihood.method == "exact" else "bound",
            estimate=likelihood,
            conditional=model.num_classes is not None,
            num_particles=likelihood.num_particles,
            k_hat_share=likelihood.k_hat_share,
            bits_per_dim=None if bits is None else bits.item(),
            reconstruction=reconstruction.mean().item() + shift,
            kl=kl.mean().item(),
            elbo_standard_error=error_of_mean(elbo_errors),
            degeneracy=self._degeneracy(model, seen, mean.item(), shift),
            num_free_parameters=model.num_free_parameters,
            seconds=fitted.seconds if fitted else None,
            seed_means=(mean.item(), *(self.log_prob(refit, held_out)[0].mean().item() for refit in refits)),
        )

    def _terms(self, entry: Entry, log_prob: Tensor, seen: Observations) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, KL and the ELBO's Monte-Carlo error, per datum.

        Of what SVI learned as guide, else exactly, of the exact posterior; of that too where values are missing, which
        no guide takes.
        """
        model = model_of(entry)
        learned = isinstance(entry, FitResult) and entry.method == "SVI" and any(True for _ in model.guide.parameters())
        if isinstance(model, TractableModel) and (not learned or seen.x.isnan().any()):
            with torch.no_grad():
                kl = model.posterior_kl(seen).double().cpu()
            return log_prob + kl, kl, torch.zeros_like(kl)
        terms = evaluate.elbo_terms(model, seen, self._few, seed=self.seed, progress=self.progress)
        return terms.reconstruction.double().cpu(), terms.kl.double().cpu(), terms.standard_error

    def _degeneracy(
        self, model: LatentVariableModel, seen: Observations, mean: float, shift: float
    ) -> evaluate.DegeneracyReport | None:
        """What the floor changes, by few particles, added to the mean by all of them; in the reference space."""
        report = evaluate.degeneracy_report(
            model, seen, num_particles=self._few, seed=self.seed, progress=self.progress
        )
        if report is None:
            return None
        return replace(report, score=mean, raised_score=mean + report.change, ceiling=report.ceiling + shift)

    @property
    def _few(self) -> int:
        return min(self.num_particles, FEW_PARTICLES)


def _refits(result: FitResult, seed: int, number: int) -> list[FitResult]:
    """The same fit with so many other seeds: others than its own, which is ``seed`` if the fit does not say."""
    used = getattr(result.refit, "arguments", {}).get("seed", seed)
    return [result.refit(used + i) for i in range(1, number + 1)]


def model_of(entry: Entry) -> LatentVariableModel:
    """The model of a fit, or the model itself."""
    return entry.model if isinstance(entry, FitResult) else entry


def seen_by(entry: Entry, held_out: Observations) -> Observations:
    """Held-out data as the model was trained to see them."""
    return held_out.in_space(entry.space) if isinstance(entry, FitResult) else held_out
