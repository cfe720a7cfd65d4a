"""The closed form that a model with latents is to beat: one full Gaussian, or independent Bernoullis."""

from torch import Tensor

from pyrovae.models.bernoulli_mixture import BernoulliMixture
from pyrovae.models.floors import FLOOR, relative_floor
from pyrovae.models.gmm import GaussianMixture
from pyrovae.models.tractable import TractableModel


def one_gaussian(x: Tensor, floor: float | None = None) -> TractableModel:
    """The Gaussian of full covariance Σ ⪰ ε I of the highest likelihood.

    Args:
        x: Data, shape (N, D), in float64.
        floor: ε; by default one that follows the data.
    """
    gaussian = GaussianMixture(1, x.shape[1], floor=relative_floor(x, FLOOR) if floor is None else floor)
    gaussian.to(x.device).maximum_likelihood(x)
    return gaussian


def independent_bernoullis(x: Tensor) -> TractableModel:
    """The product of Bernoullis of the highest likelihood, for binary data (N, D), in float64."""
    bernoullis = BernoulliMixture(1, x.shape[1]).to(x.device)
    bernoullis.maximize(bernoullis.expected_statistics(x))
    return bernoullis
