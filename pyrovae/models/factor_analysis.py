"""Factor analysis: z ~ Normal(0, I), x ~ Normal(Wz + μ, Ψ), with Ψ diagonal and every variance at least ε."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.models.floors import ON_FLOOR, degenerate
from pyrovae.models.linear_gaussian import LinearGaussian
from pyrovae.models.sklearn_bridge import factor_estimator, factor_parameters

if TYPE_CHECKING:
    import sklearn.decomposition


class FactorAnalysis(LinearGaussian):
    """Factor analysis, exact likelihood and posterior: probabilistic PCA with a noise variance for every dimension.

    With more latents than Ledermann's bound, (D − L)² < D + L, neither W nor Ψ is unique, and BIC and AIC count the
    parameters of one full Gaussian: see ``num_free_parameters``.

    Args:
        latent_dim: L, from 0 (independent Gaussians) to D − 1.
        data_shape: ``(D,)``.
        floor: ε, the lower bound of every noise variance, in squared units of the data.  The likelihood is unbounded
            without it: a factor may take one dimension's variance whole (a Heywood case).  Left out, a fit takes it
            from the data: 1e-6 times the mean variance of a dimension; until then it is 1e-6.
        missing: ``"nan"`` lets a NaN stand for a value that was not observed.
        encoder: For a learned q(z|x), as for :class:`~pyrovae.PPCA`.
        dtype: Type of the parameters.

    Raises:
        ValueError: If ``latent_dim`` is not in [0, D − 1].

    Example:
        >>> FactorAnalysis(latent_dim=2, data_shape=(5,)).noise_variance.shape
        torch.Size([5])

    Reference:
        Rubin and Thayer (1982), EM algorithms for ML factor analysis.
    """

    noise_is_shared = False

    @classmethod
    def from_sklearn(cls, estimator: "sklearn.decomposition.FactorAnalysis") -> "FactorAnalysis":
        """The model that a fitted ``sklearn.decomposition.FactorAnalysis`` holds.

        Raises:
            TypeError: If it is another estimator.
            ValueError: If it is not fitted.
        """
        return cls._holding(*factor_parameters(estimator))

    def to_sklearn(self) -> "sklearn.decomposition.FactorAnalysis":
        """A fitted ``sklearn.decomposition.FactorAnalysis`` with these parameters; its ``n_iter_`` is 0."""
        return factor_estimator(self.weight, self.mean, self.noise_variance)

    def _set_noise_from(self, residuals: Tensor, observed: Tensor) -> None:
        self._set_noise(torch.where(observed > 0, residuals / observed.clamp_min(1e-300), self.noise_variance))

    @torch.no_grad()
    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """Dimensions that vary, but whose noise is at the floor: a Heywood case."""
        whole = self.noise_variance + self.weight.square().sum(1)
        at_floor = degenerate(self.noise_variance, ON_FLOOR, whole, self.floor)
        return [
            f"the noise of dimension {d} is at the floor, {self.floor:g}" for d in at_floor.nonzero().flatten().tolist()
        ]
