"""Which latents a linear model of the same noise would use: collapse that is the maximum's, not the optimiser's fault.

For a linear decoder the ELBO with the KL weighted by β has its maximum at W = U(Λ − βσ²I)₊^½ on the principal axes U of
the data.  A latent whose eigenvalue λ is below βσ² has a weight of zero there, and q(z|x) = p(z); one above it
has means of variance 1 − βσ²/λ over the data, a posterior variance of βσ²/λ, and a KL of ½ log(λ/βσ²) on average.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.evaluate.latents.encoding import LatentReport, encode, latent_report, posterior_moments
from pyrovae.evaluate.samples.decoding import decode_deviations
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.latents import bare

ROUNDING = 1e-12  # of an eigenvalue, in units of the largest


@dataclass(frozen=True, eq=False)
class LinearForecast:
    """What a linear model of L latents would do with them at the maximum of its objective.

    Attributes:
        eigenvalues: Of the data's covariance (divided by N), the L largest, descending, shape (L,).
        noise_variance: σ².
        beta: β, the weight of the KL.
    """

    eigenvalues: Tensor
    noise_variance: float
    beta: float

    @property
    def threshold(self) -> float:
        """βσ², the eigenvalue below which a latent collapses."""
        return self.beta * self.noise_variance

    @property
    def active(self) -> Tensor:
        """Which latents it would use, shape (L,), boolean: those above the threshold by more than rounding."""
        return self.eigenvalues > self.threshold + ROUNDING * self.eigenvalues.max()

    @property
    def num_active(self) -> int:
        """How many."""
        return int(self.active.sum())

    @property
    def kl(self) -> Tensor:
        """Mean KL(q(z_l|x) ‖ p(z_l)) of each, ½ log(λ/βσ²) or 0, shape (L,), nats."""
        return 0.5 * (self.eigenvalues / self.threshold).clamp_min(1).log()

    @property
    def mean_variance(self) -> Tensor:
        """Variance over data of the posterior mean of each, 1 − βσ²/λ or 0, shape (L,)."""
        return 1 - 1 / (self.eigenvalues / self.threshold).clamp_min(1)


@dataclass(frozen=True, eq=False)
class CollapseReport:
    """The latents of a model beside what a linear one of the same σ would do with as many; prints as a table.

    Attributes:
        found: What the model's latents carry.
        linear: The forecast.
    """

    found: LatentReport
    linear: LinearForecast

    @property
    def unexplained(self) -> int:
        """Collapsed latents that a linear model would have used; negative where the model uses more than it would."""
        return self.linear.num_active - self.found.num_active

    def __str__(self) -> str:
        order = self.found.by_kl
        rows = zip(order, self.found.kl[order].tolist(), self.linear.kl.tolist(), strict=True)
        lines = [
            f"{rank + 1:>4} {self.found.units[unit]:>6} {nats:10.3f} {forecast:14.3f}"
            for rank, (unit, nats, forecast) in enumerate(rows)
        ]
        summary = (
            f"{self.found.num_active} of {len(order)} units active; a linear model of sigma^2 = "
            f"{self.linear.noise_variance:.4g} and beta = {self.linear.beta:g} would use {self.linear.num_active}, "
            f"those of eigenvalues above {self.linear.threshold:.4g}"
        )
        return "\n".join([f"{'rank':>4} {'unit':>6} {'KL, nats':>10} {'linear model':>14}", *lines, summary])


def linear_forecast(
    data: Observations | Tensor, noise_variance: float, latent_dim: int, *, beta: float = 1.0
) -> LinearForecast:
    """What a linear decoder with noise σ² would use of L latents, by the eigenvalues of the data's covariance.

    Args:
        data: N data, those that the model in question was fitted to.
        noise_variance: σ², in squared units of the data.
        latent_dim: L.
        beta: The weight of the KL in the objective.

    Returns:
        The forecast.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x = torch.tensor([[2.0, 0.1], [-2.0, 0.1], [2.0, -0.1], [-2.0, -0.1]])
        >>> linear_forecast(x, noise_variance=0.25, latent_dim=2).active.tolist()
        [True, False]

    Reference:
        Lucas, Tucker, Grosse and Norouzi (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse.
    """
    check_whole("latent_dim", latent_dim)
    check_positive("noise_variance", noise_variance)
    check_positive("beta", beta)
    x = as_observations(data).fixed().x.flatten(1).double()
    centred = (x - x.mean(0)) / math.sqrt(len(x))
    gram = centred.T @ centred if len(x) >= x.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(gram).flip(0)[:latent_dim].clamp_min(0)
    return LinearForecast(torch.nn.functional.pad(values, (0, latent_dim - len(values))), noise_variance, beta)


def collapse_report(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    beta: float = 1.0,
    threshold: float = 0.01,
    guide: Program | None = None,
) -> CollapseReport:
    """Which latents of a model are in use, beside how many a linear model of the same σ would use on these data.

    Collapse that the linear model shares is what its objective asks for at this σ and β, and calls for another σ or β;
    collapse beyond that is the optimiser's or the encoder's doing.

    Args:
        model: Any model with a continuous z of L units and a p(x|z) that has a standard deviation.  Its σ² is the
            mean of that of p(x|z), squared, over dimensions and data, at the mean of q(z|x).
        data: N data, those that it was fitted to.
        beta: The weight that the KL had in the fit.
        threshold: As for :func:`latent_report`.
        guide: As for :func:`encode`.

    Returns:
        The report.

    Raises:
        ValueError: If the data do not fit, or are single, or z is discrete or of several sites.

    Reference:
        Lucas, Tucker, Grosse and Norouzi (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse.
    """
    encoding = encode(model, data, guide=guide)
    if isinstance(encoding.mean, dict):
        raise ValueError(f"`model` must have one latent site beside a linear model, got {list(encoding.mean)}.")
    labels = encoding.labels if model.num_classes is not None else None
    means, _ = posterior_moments(model, data, "to be decoded", guide=guide)
    deviations = decode_deviations(model, bare(means), labels)
    forecast = linear_forecast(
        model.as_input(data), deviations.double().square().mean().item(), encoding.latent_dim, beta=beta
    )
    return CollapseReport(latent_report(encoding, threshold=threshold), forecast)
