"""What every mixture is: p(x) = Σ_k π_k p(x|k), with responsibilities p(k|x) by Bayes' rule."""

from abc import abstractmethod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.models.base import Missing, Program, check_missing, flat_dims
from pyrovae.models.linear_algebra import first_largest
from pyrovae.models.missing import column_means, fill_columns
from pyrovae.models.starts import Clusters, start_clusters
from pyrovae.models.stored import MixtureOfModel
from pyrovae.models.tractable import TractableModel


class MixtureModel(Program):
    """z ~ Categorical(π);  x ~ p(x|z), the component z.  The site ``"z"`` is marked for enumeration."""

    logits: Tensor

    def __init__(self, num_components: int, floor: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.floor = floor
        self.logits = nn.Parameter(torch.zeros(num_components, dtype=dtype))

    def component(self, k: Any) -> dist.TorchDistribution:
        """p(x|z = k), for a tensor or a slice of k."""
        raise NotImplementedError

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            return pyro.sample("x", self.component(z), obs=x)


class Mixture(TractableModel):
    """A mixture of K components of one kind; ``model`` is its :class:`MixtureModel`.

    A subclass gives ``_log_joint`` and ``_component_statistics`` for the E step, ``maximize`` for the M step, and
    ``_start_components`` for the start.

    Args:
        num_components: K.
        data_shape: ``(D,)`` or D.
        missing: What a NaN among the data is.

    Raises:
        ValueError: If an argument is out of range.
    """

    model: MixtureModel
    takes_particles = True
    start: str | Tensor = "k-means++"

    def __init__(self, num_components: int, data_shape: int | tuple[int, ...], missing: Missing = "error") -> None:
        super().__init__()
        check_whole("num_components", num_components)
        self.missing = check_missing(missing)
        self.num_components, self.num_dims = int(num_components), flat_dims(data_shape)
        self.data_shape = (self.num_dims,)
        self.floats_per_datum = num_components + 3 * self.num_dims

    @abstractmethod
    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log p(x|k) for a chunk of data (n, D), shape (K, n)."""

    @abstractmethod
    def _component_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        """Sums over a chunk of data (n, D), for responsibilities (K, n), beside the mass of each component."""

    def _eigenvalues(self) -> Tensor:
        """Of the covariance of every component, (K, D)."""
        raise NotImplementedError

    def _floored_variances(self, data: Observations | Tensor) -> Tensor:
        return self._eigenvalues()[self.predict(data)]

    @property
    def weights(self) -> Tensor:
        """π, shape (K,)."""
        return self.model.logits.softmax(0)

    def as_distribution(self) -> dist.MixtureSameFamily:
        """p(x) as a distribution of Pyro, event shape (D,): the prior of another program, say.

        Its parameters are this model's own: gradients flow into them, and a later change of them does not show.  In a
        copy they are constant.

        Example:
            >>> from pyrovae import GaussianMixture
            >>> gmm = GaussianMixture(num_components=3, data_shape=(2,))
            >>> gmm.as_distribution().log_prob(torch.zeros(4, 2, dtype=torch.float64)).shape
            torch.Size([4])
        """
        component = self.model.component(slice(None))
        return MixtureOfModel(dist.Categorical(logits=self.model.logits), component)

    # ------------------------------------------------------------------------------------------------- densities

    def log_prob(self, x: Observations | Tensor) -> Tensor:
        """Exact log p(x) = log Σ_k π_k p(x|k), shape (N,), nats per datum; with missing values of the rest."""
        return self._log_joints(x).logsumexp(1)

    def posterior(self, x: Observations | Tensor) -> dist.Categorical:
        """Exact p(z|x), the responsibilities: categorical over K, batch shape (N,)."""
        return dist.Categorical(logits=self._log_joints(x))

    def posterior_kl(self, x: Observations | Tensor) -> Tensor:
        """Exact KL(p(z|x) ‖ p(z)) = Σ_k r_k log(r_k / π_k), shape (N,), nats."""
        posterior = self.posterior(x)
        log_ratio = posterior.logits - self.model.logits.log_softmax(0)
        return (posterior.probs * log_ratio.nan_to_num(0.0)).sum(1)

    @torch.no_grad()
    def predict_proba(self, x: Observations | Tensor) -> Tensor:
        """Responsibilities p(z|x), shape (N, K)."""
        return self.posterior(x).probs

    @torch.no_grad()
    def predict(self, x: Observations | Tensor) -> Tensor:
        """The most probable component of each datum, shape (N,); of equally probable ones, to rounding, the first."""
        return first_largest(self._log_joints(x), 1)

    def _log_joints(self, data: Observations | Tensor) -> Tensor:
        """log π_k + log p(x|k) of all data, shape (N, K), in chunks."""
        with self.unchanged():
            return torch.cat([self._log_joint(chunk) for chunk in self._chunks(data)], dim=1).T

    # ------------------------------------------------------------------------------------------------- EM

    @torch.no_grad()
    def expected_statistics(self, x: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """E step: responsibilities r, their sum for each component, and the sums that a component asks for."""
        log_joint = self._log_joint(x)
        largest = log_joint.amax(0)
        responsibilities = log_joint.sub_(largest).exp_()
        total = responsibilities.sum(0)
        log_prob = (largest + total.log()).double()
        responsibilities /= total
        if weight is not None:
            responsibilities *= weight
            log_prob = log_prob * weight
        return {
            "log_prob": log_prob.sum(),
            "count": log_prob.new_tensor(len(x)) if weight is None else weight.double().sum(),
            "mass": responsibilities.sum(1, dtype=torch.float64),
            **self._component_statistics(x, responsibilities),
        }

    @torch.no_grad()
    def initialize(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Start at clusters: each component from one of them, and π from their shares; see ``start_clusters``.

        Raises:
            ValueError: If there are fewer data than components.
        """
        self._floor_from(x, weight)
        x = fill_columns(x, column_means(x))
        weight = torch.ones_like(x[:, 0]) if weight is None else weight
        clusters = start_clusters(x, weight, self.num_components, self.start)
        self._set_weights(clusters.mass.clamp_min(1).double())
        self._start_components(x, weight, clusters)

    @abstractmethod
    def _start_components(self, x: Tensor, weight: Tensor, clusters: Clusters) -> None:
        """Set the components to clusters of data (N, D), each of which counts for ``weight`` (N,)."""

    def _set_weights(self, mass: Tensor) -> None:
        positive = mass.clamp_min(torch.finfo(torch.float64).tiny)
        self.model.logits.copy_(positive.log() - positive.sum().log())

    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """Components with less than two data's worth of mass, by more than rounding."""
        mass = statistics["mass"]
        small = (mass < 2 - 1e-6).nonzero().flatten().tolist()
        return [f"component {k} has the mass of {mass[k]:.2g} data" for k in small]
