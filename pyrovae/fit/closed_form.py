"""The global maximum of the likelihood, where it is known."""

import time
from typing import Any

from torch import Tensor

from pyrovae.data import Observations
from pyrovae.data.weights import weighted_sum
from pyrovae.engine.isolation import alone
from pyrovae.fit.result import FitResult, Refit, nats
from pyrovae.fit.sources import checked_weight
from pyrovae.fit.units import warn_of_floor
from pyrovae.models.tractable import TractableModel


def closed_form(
    model: TractableModel, data: Observations | Tensor, *, sample_weight: Tensor | None = None, **options: Any
) -> FitResult:
    """Fit a model whose maximum-likelihood parameters have a closed form: probabilistic PCA, one Gaussian.

    Args:
        model: A model with ``maximum_likelihood(x)``; it is left as it was.
        data: Observations or tensor, N data.
        sample_weight: What each datum counts for, shape (N,): a weight of 2 is that datum twice.
        **options: Passed on to the model's ``maximum_likelihood``; ``beta`` for probabilistic PCA.

    Returns:
        The fit; its trace has one entry, the (weighted) mean log p(x) at the maximum, nats per datum.

    Raises:
        TypeError: If the model has no closed form.
        ValueError: If the data do not fit the model.

    Example:
        >>> import torch
        >>> from pyrovae import PPCA
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> result = closed_form(PPCA(latent_dim=1, data_shape=(4,)), x)
        >>> result.converged
        True
    """
    if not hasattr(model, "maximum_likelihood"):
        raise TypeError(
            f"`model` must have a closed-form maximum, got {type(model).__name__}; fit it by fit.em or fit.svi."
        )
    refit = Refit(closed_form, {"model": model, "data": data, "sample_weight": sample_weight, **options})
    start = time.perf_counter()
    with alone():
        observations = model.checked(data, "data")
        fitted: Any = model.copy()
        x = fitted.as_input(observations)
        weight = checked_weight(sample_weight, len(x), x)
        fitted.maximum_likelihood(x, weight, **options)
        warn_of_floor(fitted, observations)
        log_prob = fitted.score_samples(x)
    total, count = weighted_sum(log_prob, weight)
    return FitResult(
        model=fitted,
        method="closed form",
        trace=nats([total / count]),
        objective="log p(x)",
        converged=True,
        seconds=time.perf_counter() - start,
        kept="global maximum",
        space=observations.space,
        refit=refit,
    )
