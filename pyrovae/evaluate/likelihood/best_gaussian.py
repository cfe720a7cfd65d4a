"""The best Gaussian q for each datum: the ELBO maximised over its own mean and covariance, all data at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from pyrovae.engine.checks import check_whole
from pyrovae.evaluate.evaluation import Inputs, Latents
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.models.linear_algebra import log_det

Family = Literal["diag", "full"]

LEARNING_RATES = (0.1, 0.03, 0.01, 0.003)  # in units of the starting q's own standard deviations
STRETCH = 50  # steps between two looks at the monitored ELBO
ROUNDING = 8  # in units of an ELBO's last digit: by less no q is better than another
MONITORED = 256  # particles of a look, the same noise at each


@dataclass(frozen=True)
class SearchOptions:
    """How the best q of each datum is searched for.

    Attributes:
        step_particles: Particles of a step.
        max_steps: Most steps.
        tolerance: Nats per datum; the search ends when 50 steps at its lowest rate gain less.

    Raises:
        ValueError: If a number is out of range.
    """

    step_particles: int = 16
    max_steps: int = 2000
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_whole("step_particles", self.step_particles)
        check_whole("max_steps", self.max_steps)


DEFAULT_SEARCH = SearchOptions()


class GaussianPosteriors(NamedTuple):
    """q_n = Normal(m_n, A_n A_nᵀ) for n data: means m (n, L), and factors A (n, L, L), lower triangular."""

    mean: Tensor
    scale_tril: Tensor

    def of(self, index: Tensor) -> "GaussianPosteriors":
        """Those of some of the data."""
        return GaussianPosteriors(self.mean[index], self.scale_tril[index])

    def put(self, index: Tensor, others: "GaussianPosteriors") -> "GaussianPosteriors":
        """These, with others in the place of some."""
        return GaussianPosteriors(
            self.mean.index_copy(0, index, others.mean), self.scale_tril.index_copy(0, index, others.scale_tril)
        )

    def at(self, noise: Tensor) -> Tensor:
        """z = m + A ε for noise (S, n, L)."""
        return self.mean + torch.einsum("nij,snj->sni", self.scale_tril, noise)  # one copy of A, not S

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), (S, n)."""
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril, validate_args=False).log_prob(z)

    def kl(self, other: "GaussianPosteriors") -> Tensor:
        """KL(q ‖ p) = ½(|B⁻¹A|² + |B⁻¹(m − μ)|² − L) + log|B| − log|A| for p = Normal(μ, B Bᵀ), (n,)."""
        together = torch.cat([self.scale_tril, (self.mean - other.mean)[..., None]], dim=-1)
        squares = torch.linalg.solve_triangular(other.scale_tril, together, upper=False).square().sum((-2, -1))
        return 0.5 * (squares - self.mean.shape[-1]) + log_det(other.scale_tril) - log_det(self.scale_tril)

    def diagonal(self) -> "GaussianPosteriors":
        """The same means, each unit with its own standard deviation and no correlation."""
        return GaussianPosteriors(self.mean, self.scale_tril.square().sum(-1).sqrt().diag_embed())

    def where(self, chosen: Tensor, other: "GaussianPosteriors") -> "GaussianPosteriors":
        """These where ``chosen`` (n,), the others elsewhere."""
        return GaussianPosteriors(
            self.mean.where(chosen[:, None], other.mean),
            self.scale_tril.where(chosen[:, None, None], other.scale_tril),
        )


def as_gaussian(q: Any) -> GaussianPosteriors:
    """The means and factors of a guide's distribution of batch shape (n,), event shape (L,).

    Raises:
        TypeError: If it is no Gaussian.
    """
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        return GaussianPosteriors(q.mean, q.scale_tril)
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1:
        return GaussianPosteriors(q.mean, q.stddev.diag_embed())
    raise TypeError(
        f"`guide` must sample z from a Gaussian of event shape (L,), got {type(q).__name__} of event shape "
        f"{tuple(q.event_shape)}."
    )


@torch.no_grad()
def log_weights_at(joint: Joint, q: GaussianPosteriors, noise: Tensor) -> Tensor:
    """log p(x, z) − log q(z) at z = m + A ε, (S, n): their mean is the ELBO of q."""
    z = q.at(noise)
    return joint.log_prob(z) - q.log_prob(z)


def best_gaussians(
    joint: Joint, start: GaussianPosteriors, family: Family, search: SearchOptions
) -> tuple[GaussianPosteriors, int]:
    """The q of every datum whose ELBO is highest, from a start, by stochastic gradient ascent.

    In coordinates in which the starting q is standard, Adam moves the mean, the logarithms of the scales and, for
    ``"full"``, what is below the diagonal.  Noise is fresh at every step, in antithetic pairs, and the gradient is the
    pathwise one, without the score of q, whose noise vanishes as q comes to the posterior.

    It stops by a monitor, the ELBO of each datum at noise that never changes and no step sees.  When 50 steps raise its
    mean by less than ``tolerance``, the learning rate goes down to the next of four, and after the last the search
    ends, or after ``max_steps``.  A datum whose end is no better than its start keeps the start, so that none ends
    below it but for the monitor's noise.

    Args:
        joint: log p(x, z) of n data.
        start: Where to start.
        family: ``"diag"`` or ``"full"``.
        search: How.

    Returns:
        The best q, and the number of steps taken.

    Reference:
        Roeder, Wu and Duvenaud (2017), Sticking the landing; Cremer, Li and Duvenaud (2018), Inference suboptimality in
        variational autoencoders.
    """
    start = start.diagonal() if family == "diag" else start
    num_data, latent_dim = start.mean.shape
    shift, log_scale = (torch.zeros_like(start.mean).requires_grad_() for _ in range(2))
    below = torch.zeros_like(start.scale_tril).requires_grad_()

    def current() -> GaussianPosteriors:
        inner = log_scale.exp().diag_embed()
        if family == "full":
            inner = inner + below.tril(-1)
        mean = start.mean + (start.scale_tril @ shift[..., None]).squeeze(-1)
        return GaussianPosteriors(mean, start.scale_tril @ inner)

    parameters = [shift, log_scale, *([below] if family == "full" else [])]
    monitor = torch.randn(MONITORED, num_data, latent_dim, dtype=shift.dtype, device=shift.device)
    start_elbo = log_weights_at(joint, start, monitor).mean(0)
    end, elbo = start, start_elbo
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATES[0])
    lower_rates = iter(LEARNING_RATES[1:])
    num_steps, half = 0, math.ceil(search.step_particles / 2)
    while num_steps < search.max_steps:
        for _ in range(min(STRETCH, search.max_steps - num_steps)):
            noise = torch.randn(half, num_data, latent_dim, dtype=shift.dtype, device=shift.device)
            optimizer.zero_grad()
            _ascend(joint, current, torch.cat([noise, -noise]))
            optimizer.step()
            num_steps += 1
        before = elbo.mean()
        with torch.no_grad():
            end = current()
        elbo = log_weights_at(joint, end, monitor).mean(0)
        if not elbo.mean() - before >= search.tolerance:
            rate = next(lower_rates, None)
            if rate is None:
                break
            optimizer.param_groups[0]["lr"] = rate
    rounding = ROUNDING * torch.finfo(elbo.dtype).eps * elbo.abs()
    return end.where(elbo - start_elbo > rounding, start), num_steps


def _ascend(joint: Joint, current: Callable[[], GaussianPosteriors], noise: Tensor) -> None:
    """Leave the gradient of −Σ_n ELBO_n in the parameters of q: first that in z, tile by tile, then that of z."""

    def gradient(inputs: Inputs, latents: Latents) -> tuple[Tensor, ...]:
        z = latents["z"].detach().requires_grad_()
        likelihood, prior = joint.terms(inputs, {"z": z})
        return torch.autograd.grad((likelihood + prior).sum(), z)

    with torch.enable_grad():
        q = current()
        z = q.at(noise)
        fixed = GaussianPosteriors(q.mean.detach(), q.scale_tril.detach())
        slope = joint.in_tiles(gradient, z.detach())[0]
        entropy = -fixed.log_prob(z)
        (-((slope * z).sum() + entropy.sum()) / len(noise)).backward()
