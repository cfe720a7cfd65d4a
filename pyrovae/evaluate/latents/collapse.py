"""Which latents a linear model of the same noise would use: collapse that is the maximum's, not the optimiser's fault.

The rule itself is in :mod:`pyrovae.models.collapse`.
"""

from dataclasses import dataclass

from torch import Tensor

from pyrovae.data import Observations
from pyrovae.evaluate.latents.encoding import LatentReport, encode, latent_report, posterior_moments
from pyrovae.evaluate.samples.decoding import decode_deviations
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.collapse import LinearForecast as LinearForecast, linear_forecast as linear_forecast
from pyrovae.models.latents import bare


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
