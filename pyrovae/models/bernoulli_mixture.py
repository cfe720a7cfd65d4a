"""The Bernoulli mixture: p(x) = Σ_k π_k Π_d θ_kd^x_d (1 − θ_kd)^(1 − x_d), every θ in [ε, 1 − ε]."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data.observations import Support
from pyrovae.models.base import Missing
from pyrovae.models.guides import AmortizedGuide, MarginalGuide
from pyrovae.models.mixture import Mixture, MixtureModel
from pyrovae.models.starts import Clusters
from pyrovae.models.tractable import derived


class BernoulliMixtureModel(MixtureModel):
    """z ~ Categorical(π);  x_d ~ Bernoulli(θ_zd), θ = ε + (1 − 2ε) sigmoid(·)."""

    raw_probs: Tensor

    def __init__(self, num_components: int, num_dims: int, floor: float, dtype: torch.dtype) -> None:
        super().__init__(num_components, floor, dtype)
        self.raw_probs = nn.Parameter(torch.zeros(num_components, num_dims, dtype=dtype))

    def probs(self) -> Tensor:
        """θ, shape (K, D)."""
        return self.floor + (1 - 2 * self.floor) * self.raw_probs.sigmoid()

    def component(self, k: Any) -> dist.TorchDistribution:
        return dist.Bernoulli(probs=self.probs()[k]).to_event(1)


class BernoulliMixture(Mixture):
    """Mixture of K products of Bernoullis (latent class analysis): the exact baseline for binary data.

    Args:
        num_components: K.
        data_shape: ``(D,)``.
        floor: ε, every probability is in [ε, 1 − ε]; without it a pixel that is always off in a component would make
            held-out data with that pixel on impossible.
        missing: ``"nan"`` lets a NaN stand for a value that was not observed.
        encoder: For an amortized q(z|x), as for :class:`~pyrovae.GaussianMixture`.
        dtype: Type of the parameters.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mixture = BernoulliMixture(num_components=3, data_shape=(4,))
        >>> mixture.log_prob(torch.ones(2, 4)).exp()  # at the start every pixel is a fair coin
        tensor([0.0625, 0.0625], dtype=torch.float64, grad_fn=<ExpBackward0>)

    Reference:
        Bishop (2006), Pattern recognition and machine learning, section 9.3.3.
    """

    support: Support | None = "boolean"
    model: BernoulliMixtureModel

    def __init__(
        self,
        num_components: int,
        data_shape: int | tuple[int, ...],
        floor: float = 1e-3,
        *,
        missing: Missing = "error",
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(num_components, data_shape, missing)
        if not 0 < floor < 0.5:
            raise ValueError(f"`floor` must be a probability between 0 and 0.5, got {floor}.")
        self.floor = float(floor)
        self.model = BernoulliMixtureModel(num_components, self.num_dims, self.floor, dtype)
        self.guide = MarginalGuide() if encoder is None else AmortizedGuide(encoder)
        if encoder is None:
            self.config = self._plain("num_components", "data_shape", "floor", "missing")

    @property
    def probs(self) -> Tensor:
        """θ, shape (K, D)."""
        return self.model.probs()

    @property
    def num_free_parameters(self) -> int:
        """K − 1 weights and K D probabilities, or the 2^D − 1 of all distributions over D bits if that is less.

        Those of K = 3 over D = 4 bits are one less, 13: three classes of four bits are not identified.

        Reference:
            Goodman (1974), Exploratory latent structure analysis using both identifiable and unidentifiable models.
        """
        counted = self.num_components - 1 + self.num_components * self.num_dims
        return min(counted - ((self.num_components, self.num_dims) == (3, 4)), 2**self.num_dims - 1)

    @derived
    def _log_odds(self) -> tuple[Tensor, Tensor]:
        """log θ − log(1 − θ) and log(1 − θ), (K, D)."""
        off = (self.floor + (1 - 2 * self.floor) * (-self.model.raw_probs).sigmoid()).log()  # 1 − θ would cancel
        return self.probs.log() - off, off

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k + Σ_d log Bernoulli(x_d; θ_kd) for a chunk of data (n, D), shape (K, n)."""
        log_odds, off = self._log_odds()
        if self._incomplete(x):
            log_likelihood = log_odds @ x.nan_to_num(0.0).T + off @ (~x.isnan()).to(x).T
        else:
            log_likelihood = log_odds @ x.T + off.sum(1, keepdim=True)
        return self.model.logits.log_softmax(0)[:, None] + log_likelihood

    def _moments_given_observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P(x = 1|the observed), p, and p(1 − p)."""
        p = self._log_joint(x).softmax(0).T @ self.probs
        return p, p * (1 - p)

    # ------------------------------------------------------------------------------------------------- EM

    def _start_components(self, x: Tensor, weight: Tensor, clusters: Clusters) -> None:
        """The probabilities of each cluster, drawn towards ½."""
        ones = x.new_zeros(self.num_components, self.num_dims).index_add_(0, clusters.nearest, x * weight[:, None])
        self._set_probs((ones + 1) / (clusters.mass[:, None] + 2))

    def _component_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        """Σr x and Σr over the data in which a dimension was observed."""
        seen = responsibilities.sum(1, keepdim=True).expand(-1, self.num_dims)
        if self._incomplete(x):
            x, seen = x.nan_to_num(0.0), responsibilities @ (~x.isnan()).to(x)
        return {"ones": (responsibilities @ x).double(), "observed": seen.double()}

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step: θ = Σr x / Σr, clipped to [ε, 1 − ε], which is exact because each term is concave in its θ."""
        self._set_weights(statistics["mass"])
        observed = statistics["observed"]
        kept = self.probs.double()
        self._set_probs(torch.where(observed > 0, statistics["ones"] / observed.clamp_min(1e-300), kept))

    def _set_probs(self, probs: Tensor) -> None:
        share = ((probs - self.floor) / (1 - 2 * self.floor)).clamp(0, 1)
        bound = -math.log(torch.finfo(self.model.raw_probs.dtype).eps)  # sigmoid of it is 1 to rounding
        self.model.raw_probs.copy_(share.logit().clamp(-bound, bound))
