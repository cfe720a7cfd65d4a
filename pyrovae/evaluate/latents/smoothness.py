"""Are nearby z decoded to nearby x?  How fast E[x|z] moves as z does."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrovae.evaluate.samples.decoding import Labels, decode_means, interpolate
from pyrovae.models.base import LatentVariableModel


@dataclass(frozen=True, eq=False)
class Smoothness:
    """Speeds of a decoder's mean along paths of z.

    Attributes:
        speeds: ‖E[x|z'] − E[x|z]‖ / ‖z' − z‖ of every step, shape (num_steps − 1, P): units of x per
            standard deviation of a N(0, I) prior.
    """

    speeds: Tensor

    @property
    def lipschitz(self) -> float:
        """The largest speed: no Lipschitz constant of the decoder is smaller."""
        return self.speeds.max().item()

    @property
    def typical(self) -> float:
        """The median speed."""
        return self.speeds.median().item()

    @property
    def unevenness(self) -> float:
        """The mean over paths of the largest over the mean speed along the path; 1 for every linear decoder."""
        return (self.speeds.amax(0) / self.speeds.mean(0)).mean().item()

    def __str__(self) -> str:
        return (
            f"speed of the mean: median {self.typical:.3g}, largest {self.lipschitz:.3g} (a lower bound of the "
            f"Lipschitz constant), largest over mean along a path {self.unevenness:.2f}"
        )


def smoothness(
    model: LatentVariableModel,
    start: Tensor,
    end: Tensor,
    *,
    num_steps: int = 50,
    method: Literal["linear", "spherical"] = "linear",
    labels: Labels = None,
) -> Smoothness:
    """How fast E[x|z] moves along paths between pairs of z.

    A decoder with Lipschitz constant C has ‖E[x|z'] − E[x|z]‖ ≤ C ‖z' − z‖ everywhere.  What is measured
    along paths bounds C from below; it tells where the decoder is slow, and where it jumps.  For x = Wz + μ the speed
    is the same all along a path, and the constant is the largest singular value of W.

    Args:
        model: Any model with a continuous z.
        start: P codes, shape (P, L), drawn from the prior, say, or codes of data.
        end: P others.
        num_steps: Points of a path, at least 2; equal points have no speed.
        method: As for :func:`interpolate`.
        labels: For a model of p(x|z, y): y, shape (P,), or one label for all.

    Returns:
        The speeds.

    Raises:
        ValueError: If shapes differ or do not fit the model, two codes of a pair are equal, or an argument is out of
            range.

    Example:
        >>> from pyrovae import PPCA
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(50, 5, dtype=torch.float64, generator=generator)
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> ppca.maximum_likelihood(x)
        >>> start, end = torch.randn(2, 10, 2, generator=generator)
        >>> found = smoothness(ppca, start, end)
        >>> found.lipschitz <= torch.linalg.matrix_norm(ppca.weight, 2).item() + 1e-9, round(found.unevenness, 6)
        (True, 1.0)
    """
    if start.ndim != 2 or start.shape != end.shape:
        raise ValueError(
            f"`start` and `end` must both have shape (P, L), got {tuple(start.shape)}, {tuple(end.shape)}."
        )
    z = interpolate(start, end, num_steps, method)
    distances = z.diff(dim=0).norm(dim=-1)
    if not (distances > 0).all():
        raise ValueError("`start` and `end` must differ in every pair, got a pair of equal codes.")
    if labels is not None:
        labels = torch.as_tensor(labels).expand(len(start)).expand(num_steps, -1)
    means = decode_means(model, z, labels).flatten(2)
    return Smoothness(means.diff(dim=0).norm(dim=-1) / distances.to(means))
