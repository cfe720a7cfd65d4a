"""A model whose likelihood and posterior are known exactly, and which EM can fit: what it gives."""

import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import pyro
import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.data.weights import as_weight, weighted_sum
from pyrovae.models.base import LatentVariableModel, check_floor
from pyrovae.models.floors import relative_floor
from pyrovae.models.linear_algebra import chunk_rows

Result = TypeVar("Result")

FLOATS_PER_DIMENSION = 32  # that an E step is taken to hold


class _Derived(threading.local):
    """What is derived from the parameters of a model in a block of ``unchanged()``, by model: each thread has its own.

    It is no attribute of the model: a copy of it made meanwhile would keep these values for good.
    """

    def __init__(self) -> None:
        self.of: dict[TractableModel, dict[str, Any]] = {}


_derived = _Derived()


def derived(method: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """For a method that computes something from the parameters alone: once in a block of ``model.unchanged()``."""

    @functools.wraps(method)
    def once(self: "TractableModel") -> Result:
        known = _derived.of.get(self)
        if known is None:
            return method(self)
        if method.__name__ not in known:
            known[method.__name__] = method(self)
        return known[method.__name__]

    return once


class TractableModel(LatentVariableModel, ABC):
    """A model whose likelihood and posterior are known exactly, and which EM can fit.

    What a subclass must give: ``data_shape``, the programs ``model`` and ``guide`` (``exact_guide(self)``, say), and
    ``log_prob``, ``posterior`` and ``posterior_kl``.

    What it gives to be fitted by EM: ``initialize`` (the start), ``expected_statistics`` (the E step, sums over data)
    and ``maximize`` (the M step).  By ``fit.svi``: ``initialize`` alone.  By ``fit.closed_form``:
    ``maximum_likelihood(x, weight)``.

    What it may give: ``num_free_parameters``, which BIC and AIC ask for; ``floats_per_datum`` and ``smallest_chunk``,
    which size the chunks of data; ``degeneracies``, lines that ``fit.em`` warns of; ``support`` and ``missing``;
    ``as_distribution``.  A file with such a model is read by ``pyrovae.load(path, into=...)``.

    ``docs/examples/hidden_markov.py`` is a whole one.
    """

    data_shape: tuple[int, ...]
    floor: float
    relative_floor: ClassVar[float | None] = None  # ε over the mean variance of a dimension, where nobody gave one
    in_units: ClassVar[tuple[str, ...]] = ()  # parameters of ``model`` in units of the data; the others have none
    smallest_chunk: int = 1  # data below which the sums of a chunk cost more to add up than to compute

    @cached_property
    def floats_per_datum(self) -> int:
        """Numbers that an E step holds for each datum, by which chunks are sized; a guess where nobody says more."""
        return FLOATS_PER_DIMENSION * math.prod(self.data_shape)

    @property
    def num_free_parameters(self) -> int | None:
        """Free parameters of p(x), which a subclass counts: those of the program may be bound, as probabilities are."""
        return None

    @abstractmethod
    def log_prob(self, x: Observations | Tensor) -> Tensor:
        """Exact log p(x), shape (N,), nats per datum; with missing values that of the observed ones."""

    @abstractmethod
    def posterior(self, x: Observations | Tensor) -> pyro.distributions.Distribution:
        """Exact p(z|x), batch shape (N,)."""

    @abstractmethod
    def posterior_kl(self, x: Observations | Tensor) -> Tensor:
        """Exact KL(p(z|x) ‖ p(z)), shape (N,), nats: what x tells of z.  With the exact posterior as guide, the
        reconstruction term of the ELBO is log p(x) + this."""

    def as_distribution(self) -> pyro.distributions.TorchDistribution:
        """p(x) as a distribution of Pyro, event shape ``data_shape``: the prior of another program, say.

        Its parameters are this model's own: gradients flow into them, and a later change of them does not show.
        """
        raise NotImplementedError(f"p(x) of a {type(self).__name__} is no distribution that Pyro has.")

    def initialize(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set the starting parameters from data ``x``, each counting for ``weight``, and torch's random state."""
        super().initialize(x)

    def match_guide(self) -> None:
        """After parameters were set from without: set a guide that is known for them, if the model has such a one."""

    def expected_statistics(self, x: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """E step: sums over data of the expected sufficient statistics, tensors by name.

        Among them are ``"log_prob"``, the sum of log p(x), and ``"count"``, that of the weights.

        Args:
            x: Data as :meth:`as_input` gives them, shape (N, *data_shape).
            weight: What each datum counts for, shape (N,); one each if left out.
        """
        raise NotImplementedError

    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step: set the parameters, in place, to the maximum of the expected complete-data log-likelihood.

        That needs ``torch.no_grad()``.
        """
        raise NotImplementedError

    @torch.no_grad()
    def impute(self, x: Observations | Tensor) -> tuple[Tensor, Tensor]:
        """What is missing, from what is observed: E[x|the observed] and its variance.

        Args:
            x: Data with NaN for missing values, shape (N, D).

        Returns:
            Means (N, D), which are the data where those are observed, and variances (N, D), zero there.

        Raises:
            ValueError: If the model does not take missing values.
        """
        if self.missing != "nan":
            raise ValueError('`missing` must be "nan" for a model that imputes, got "error"; build the model with it.')
        data = self.as_input(x)
        with self.unchanged():
            moments = [self._moments_given_observed(chunk) for chunk in self._chunks(data)]
        mean, variance = (torch.cat(part) for part in zip(*moments, strict=True))
        return torch.where(data.isnan(), mean, data), torch.where(data.isnan(), variance, 0.0)

    def _moments_given_observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (n, D) of the missing entries of a chunk, and anything in the others."""
        raise NotImplementedError

    def _incomplete(self, x: Tensor) -> bool:
        """Whether a value is missing from a chunk."""
        return self.missing == "nan" and bool(x.isnan().any())

    def _chunks(self, x: Observations | Tensor) -> tuple[Tensor, ...]:
        """Data as :meth:`as_input` gives them, in chunks whose intermediate values are small."""
        data = self.as_input(x)
        return data.split(chunk_rows(self.floats_per_datum, self.smallest_chunk, data.device))

    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """Where the likelihood comes from a floor or a handful of data, by the E step's sums; a line for each place."""
        return []

    def _lift(self, lower: Self, floor: float) -> None:
        self._hold_floor(floor)
        self.floor_is_given = True

    def _first_floor(self, floor: float | None) -> float:
        """Hold ε as given or, until a fit knows the data, that of data of unit variance."""
        self.floor_is_given = floor is not None
        given: Any = self.relative_floor if floor is None else floor
        self.floor = self.covariance_floor = check_floor(given)
        return self.floor

    def _plain(self, *names: str) -> dict[str, Any]:
        plain = super()._plain(*names)
        return plain if self.floor_is_given else {**plain, "floor": None}

    def _hold_floor(self, floor: float) -> None:
        self.floor = self.model.floor = floor
        if self.relative_floor is not None:
            self.covariance_floor = floor
        if self.config is not None:
            self.config = {**self.config, "floor": floor}

    def _floor_from(self, x: Tensor, weight: Tensor | None) -> None:
        """Take ε from the data of a fit, unless it was given."""
        if self.relative_floor is not None and not self.floor_is_given:
            self._hold_floor(relative_floor(x, self.relative_floor, weight))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """With a floor that fits may set, ε is part of the state: the same parameters mean nothing under another."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.relative_floor is not None:
            destination[f"{prefix}floor"] = torch.tensor(self.floor, dtype=torch.float64)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing: list[str], *args: Any
    ) -> None:
        """A state of an earlier release has no floor; a floor given to this model is then taken to be its own."""
        floor = None if self.relative_floor is None else state_dict.pop(f"{prefix}floor", None)
        if floor is not None and floor.item() != self.floor:
            self._hold_floor(floor.item())
        if floor is None and not self.floor_is_given:
            missing.append(f"{prefix}floor")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *args)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A block in which no parameter changes, so that what is derived from them alone is computed once."""
        if self in _derived.of:
            yield
            return
        _derived.of[self] = {}
        try:
            yield
        finally:
            del _derived.of[self]

    @torch.no_grad()
    def score_samples(self, x: Observations | Tensor) -> Tensor:
        """:meth:`log_prob` under scikit-learn's name: exact log p(x), shape (N,), nats per datum, without gradients."""
        return self.log_prob(x)

    def score(self, x: Observations | Tensor, sample_weight: Tensor | None = None) -> float:
        """Mean exact log-likelihood, nats per datum; higher is better.

        Args:
            x: N data.
            sample_weight: What each datum counts for, shape (N,): a weight of 2 is that datum twice.
        """
        total, count = self._log_likelihood(x, sample_weight)
        return total / count

    def bic(self, x: Observations | Tensor, sample_weight: Tensor | None = None) -> float:
        """Bayesian information criterion on ``x``, as in scikit-learn: lower is better.

        −2 Σ w log p(x) + (free parameters) log Σ w: with weights, N is their sum.

        Args:
            x: N data.
            sample_weight: What each datum counts for, shape (N,): a weight of 2 is that datum twice.

        Raises:
            ValueError: If the weights are not such numbers, or are shares that sum to 1.
        """
        total, count = self._log_likelihood(x, sample_weight, of_data=True)
        return -2 * total + self._free_parameters() * math.log(count)

    def aic(self, x: Observations | Tensor, sample_weight: Tensor | None = None) -> float:
        """Akaike information criterion on ``x``, as in scikit-learn: lower is better.

        Args, Raises: As for :meth:`bic`.
        """
        total, _ = self._log_likelihood(x, sample_weight, of_data=True)
        return -2 * total + 2 * self._free_parameters()

    def _log_likelihood(
        self, x: Observations | Tensor, sample_weight: Tensor | None, of_data: bool = False
    ) -> tuple[float, float]:
        """Σ w log p(x) and Σ w, which must be a number of data where it is taken for one."""
        values = self.score_samples(x)
        weight = None if sample_weight is None else as_weight(sample_weight, len(values))
        total, count = weighted_sum(values, weight)
        if of_data and weight is not None and len(values) > 1 and count < 1 + 1e-6 and (weight < 1 - 1e-6).all():
            raise ValueError(
                f"`sample_weight` must sum to the number of data that x stands for, got a sum of {count:g}, which "
                "makes the criterion that of one datum; multiply the weights by that number."
            )
        return total, count

    def _free_parameters(self) -> int:
        if (number := self.num_free_parameters) is None:
            raise TypeError(
                f"`model` must say its num_free_parameters for BIC and AIC, got {type(self).__name__}, which does not; "
                "count those of p(x) that are free, K − 1 for K probabilities."
            )
        return number
