"""Data and seeds as scikit-learn passes them, in any of its releases from 1.4 on."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

try:
    from sklearn.utils.validation import validate_data

    FINITE = "ensure_all_finite"
except ImportError:  # before 1.6

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:
        return estimator._validate_data(X, **options)

    FINITE = "force_all_finite"


def as_table(estimator: BaseEstimator, X: Any, *, reset: bool, allow_nan: bool, **least: int) -> Tensor:
    """Data (N, D) in float64, a copy, checked as every estimator of scikit-learn checks them.

    Args:
        estimator: Whose data they are; its ``n_features_in_`` and ``feature_names_in_`` are set, or asked for.
        X: An array or a data frame.
        reset: Whether they are the data of a fit.
        allow_nan: Whether a NaN may stand for a missing value.
        **least: ``ensure_min_samples`` and ``ensure_min_features``.
    """
    finite = {FINITE: "allow-nan" if allow_nan else True}
    return as_tensor(validate_data(estimator, X, reset=reset, dtype=np.float64, order="C", **finite, **least))


def as_tensor(array: Any) -> Tensor:
    """A copy: scikit-learn hands out arrays that are read only."""
    return torch.tensor(array)


def as_array(value: Tensor) -> np.ndarray:
    """A copy on the CPU; floating-point numbers in float64."""
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy().copy()


def seed_of(random_state: Any) -> int:
    """A whole number is the seed itself; another state of numpy, None for the global one, gives one by a draw."""
    generator = check_random_state(random_state)
    return int(random_state) if isinstance(random_state, Integral) else int(generator.randint(2**31 - 1))
