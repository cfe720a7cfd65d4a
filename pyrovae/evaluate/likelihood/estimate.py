"""An estimate of log p(x) per datum, and what log weights say of it: its error, their spread."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrovae.evaluate.likelihood.pareto import k_hat_threshold, pareto_k

CERTAIN = 3  # standard errors, that a lower bound lies below another
ROUNDING = 1e-6  # of log p(x) in single precision, relative
LEAST_ESS = 5  # where there is no k̂; weights of fewer effective particles claim too small an error, at any S
NO_ERROR = {  # what stands in place of a Monte-Carlo error, and why
    "k̂": "weights whose k̂ is over its threshold do not show how far off they are",
    "ESS": f"there is no k̂, and fewer than {LEAST_ESS} effective draws, or all alike, do not show how far off they are",
}


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood:
    """log p(x) of held-out data, per datum, nats.

    Attributes:
        values: log p(x) or its estimate, shape (N,).
        method: ``"exact"``; ``"importance"``, the log-mean-exp of S weights, a lower bound of log p(x) in expectation;
            ``"adaptive"``, the same from proposals of each datum's own; or ``"annealed"``, that of S annealed chains.
        num_particles: S; 0 when exact.
        standard_error: Monte-Carlo standard error of each value (delta method), shape (N,); 0 when exact.  NaN where
            the weights do not know it: their k̂ is over its threshold, or there is no k̂ and the effective sample size
            is below 5, or all draws are one value of a discrete z.
        ess: Effective sample size of the weights, (Σw)²/Σw², shape (N,); infinite when exact.
        k_hat: Pareto k̂ of the weights, shape (N,); −∞ when exact, NaN where it is not available.
    """

    values: Tensor
    method: Literal["exact", "importance", "adaptive", "annealed"]
    num_particles: int
    standard_error: Tensor
    ess: Tensor
    k_hat: Tensor

    @property
    def mean(self) -> float:
        """Mean log p(x), nats per datum."""
        return self.values.double().mean().item()

    @property
    def mean_standard_error(self) -> float:
        """Standard error of ``mean`` over data, the spread of the Monte-Carlo noise included."""
        return standard_error(self.values.double())

    @property
    def monte_carlo_standard_error(self) -> float:
        """The part of it that other particles would change, what ``mean`` errs by on these data.

        NaN if that of any datum is not known; see :attr:`doubt`.
        """
        return error_of_mean(self.standard_error)

    @property
    def data_standard_error(self) -> float:
        """The part of it that other data would change: what is left when the Monte-Carlo part is taken out."""
        return data_part(self.mean_standard_error, self.monte_carlo_standard_error)

    @property
    def bias(self) -> Tensor:
        """What each value is off by in expectation, to the first order in 1/S: −½ SE², shape (N,), nats.

        By the delta method, E[log p̂] = log p − Var(p̂)/(2p²) + …; NaN where SE is.
        """
        return -0.5 * self.standard_error.square()

    @property
    def meaning(self) -> str:
        """One sentence on what ``values`` are: exact, or a bound in expectation, and from which side."""
        if self.method == "exact":
            return "log p(x), exact."
        return f"A lower bound of log p(x) in expectation, by {self.num_particles:,} importance weights a datum."

    @property
    def mark(self) -> str:
        """Why no Monte-Carlo error can be given, as a key of ``NO_ERROR``; ``""`` where one can."""
        unknown = self.standard_error.isnan().cpu()
        return "" if not unknown.any() else "ESS" if self.k_hat[unknown].isnan().all() else "k̂"

    @property
    def doubt(self) -> str:
        """One sentence on why no Monte-Carlo error can be given; ``""`` where one can."""
        if not (mark := self.mark):
            return ""
        number, num_data = int(self.standard_error.isnan().sum()), len(self.values)
        return f"No Monte-Carlo error can be given, for {number:,} of the {num_data:,} data: {NO_ERROR[mark]}."

    def __repr__(self) -> str:
        """What there is to say in one line; the numbers of each datum are in the attributes."""
        error = known(self.mean_standard_error, 3)
        value = f"log p(x) {self.mean:.3f} ± {error} nats per datum, N = {len(self.values):,}"
        if self.num_particles == 0:
            return f"{value}, exact"
        share = self.k_hat_share
        tail = "k̂ is not available" if math.isnan(share) else f"k̂ over its threshold for {share:.0%} of the data"
        of_it = self.doubt[:-1] or f"± {known(self.monte_carlo_standard_error, 3)} of it Monte Carlo"
        return "; ".join([value, *(f"{each[0].lower()}{each[1:]}" for each in (of_it, self.meaning[:-1])), tail])

    @property
    def k_hat_share(self) -> float:
        """Share of data whose k̂ is over its threshold, so that more particles may move their value.

        Of those that have a k̂; NaN if none has.
        """
        k_hat = self.k_hat[~self.k_hat.isnan()]
        return (k_hat > k_hat_threshold(self.num_particles)).double().mean().item() if self.num_particles else 0.0


def standard_error(values: Tensor) -> float:
    """Of the mean of values (N,), by their spread; NaN of a single value."""
    return mean_error(values).item()


def mean_error(values: Tensor) -> Tensor:
    """Standard error of the mean over the first axis, by the spread along it; NaN of a single value."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)


def data_part(whole: float, monte_carlo: float) -> float:
    """What is left of a standard error when its Monte-Carlo part is taken out; NaN where that is not known."""
    return math.sqrt(max(whole**2 - monte_carlo**2, 0.0))  # in this order, which keeps NaN


def known(value: float, decimals: int = 4) -> str:
    """A number as text; "n/a", not available, for NaN.

    Example:
        >>> known(0.25), known(math.nan)
        ('0.2500', 'n/a')
    """
    return "n/a" if math.isnan(value) else f"{value:.{decimals}f}"


def short_by(value: float, error: float, bound: float, bound_error: float) -> float:
    """How far a value lies below a lower bound, if by more than chance and rounding, else 0.

    An error of the value that is not known (NaN) counts for nothing: as it stands, the value is too low.

    Example:
        >>> short_by(-3.0, math.nan, -1.0, 0.1), short_by(-3.0, 0.1, -2.9, 0.1)
        (2.0, 0.0)
    """
    chance = CERTAIN * math.hypot(0.0 if math.isnan(error) else error, bound_error)
    short = bound - value
    return short if short > chance + ROUNDING * abs(bound) else 0.0


def error_of_mean(errors: Tensor) -> float:
    """Standard error of a mean of independent estimates, from their own (N,): √(Σ_n SE_n²) / N."""
    return (errors.double().square().sum().sqrt() / len(errors)).item()


def summarize(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What (S, N) log weights say of each datum: log-mean-exp, its standard error, ESS and k̂, each (N,).

    The standard error is the delta method's, sd(w) / (mean(w) √S).  It can never exceed 1, however bad the weights are.
    So it is NaN where k̂ is over its threshold; and, where no tail can be fitted, for few effective particles.
    """
    num_particles = len(log_w)
    log_sum = log_w.logsumexp(0)
    share = (log_w - log_sum).exp()  # normalised weights
    variance = (share - 1 / num_particles).square().sum(0) * num_particles / max(num_particles - 1, 1)
    ess, k_hat = 1 / share.square().sum(0), pareto_k(log_w)
    told = torch.where(k_hat.isnan(), ess.cpu() >= LEAST_ESS, k_hat <= k_hat_threshold(num_particles))
    return log_sum - math.log(num_particles), variance.sqrt().where(told.to(ess.device), math.nan), ess, k_hat
