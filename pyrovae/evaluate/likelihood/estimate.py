"""An estimate of log p(x) per datum, and what log weights say of it: its error, their spread."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrovae.evaluate.likelihood.pareto import k_hat_threshold, pareto_k


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood:
    """log p(x) of held-out data, per datum, nats.

    Attributes:
        values: log p(x) or its estimate, shape (N,).
        method: ``"exact"``; ``"importance"``, the log-mean-exp of S weights, a lower bound of log p(x) in expectation;
            or ``"annealed"``, the same of S annealed chains.
        num_particles: S; 0 when exact.
        standard_error: Monte-Carlo standard error of each value (delta method), shape (N,); 0 when exact.
        ess: Effective sample size of the weights, (Σw)²/Σw², shape (N,); infinite when exact.
        k_hat: Pareto k̂ of the weights, shape (N,); −∞ when exact.
    """

    values: Tensor
    method: Literal["exact", "importance", "annealed"]
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
        return (self.values.double().std(correction=1) / math.sqrt(len(self.values))).item()

    @property
    def monte_carlo_standard_error(self) -> float:
        """The part of it that other particles would change: √(Σ_n SE_n²) / N, what ``mean`` errs by on these data."""
        return (self.standard_error.double().square().sum().sqrt() / len(self.values)).item()

    @property
    def data_standard_error(self) -> float:
        """The part of it that other data would change: what is left when the Monte-Carlo part is taken out."""
        return math.sqrt(max(0.0, self.mean_standard_error**2 - self.monte_carlo_standard_error**2))

    @property
    def bias(self) -> Tensor:
        """What each value is off by in expectation, to the first order in 1/S: −½ SE², shape (N,), nats.

        By the delta method, E[log p̂] = log p − Var(p̂)/(2p²) + …; of no use where the weights are so heavy-tailed (see
        :attr:`k_hat`) that SE itself cannot be trusted.
        """
        return -0.5 * self.standard_error.square()

    @property
    def meaning(self) -> str:
        """One sentence on what ``values`` are: exact, or a bound in expectation, and from which side."""
        if self.method == "exact":
            return "log p(x), exact."
        return f"A lower bound of log p(x) in expectation, by {self.num_particles:,} importance weights a datum."

    def __repr__(self) -> str:
        """What there is to say in one line; the numbers of each datum are in the attributes."""
        value = f"log p(x) {self.mean:.3f} ± {self.mean_standard_error:.3f} nats per datum, N = {len(self.values):,}"
        if self.num_particles == 0:
            return f"{value}, exact"
        doubt = f"k̂ over its threshold for {self.k_hat_share:.0%} of the data"
        error = f"± {self.monte_carlo_standard_error:.3f} of it Monte Carlo"
        return f"{value}; {error}; {self.meaning[0].lower()}{self.meaning[1:-1]}; {doubt}"

    @property
    def k_hat_share(self) -> float:
        """Share of data whose k̂ is over its threshold, so that more particles may move their value."""
        return (self.k_hat > k_hat_threshold(self.num_particles)).double().mean().item() if self.num_particles else 0.0


def summarize(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What (S, N) log weights say of each datum: log-mean-exp, its standard error, ESS and k̂, each (N,).

    The standard error is the delta method's, sd(w) / (mean(w) √S).
    """
    num_particles = len(log_w)
    log_sum = log_w.logsumexp(0)
    share = (log_w - log_sum).exp()  # normalised weights
    variance = (share - 1 / num_particles).square().sum(0) * num_particles / max(num_particles - 1, 1)
    standard_error = variance.sqrt() if num_particles > 1 else torch.full_like(log_sum, math.nan)
    return log_sum - math.log(num_particles), standard_error, 1 / share.square().sum(0), pareto_k(log_w)
