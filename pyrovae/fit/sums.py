"""Sums over data, all that EM needs of them: those of a part, and of parts together.

They are as large as the model's parameters, however many the data.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.data.weights import as_weight
from pyrovae.models.linear_algebra import chunk_rows
from pyrovae.models.tractable import TractableModel

Statistics = dict[str, Tensor]


@torch.no_grad()
def expected_statistics(
    model: TractableModel, data: Observations | Tensor, sample_weight: Tensor | None = None
) -> Statistics:
    """The E step on a part of the data: sums of expected sufficient statistics, and of log p(x), under ``model``.

    One iteration of EM, wherever the parts are: :func:`merge` these, then ``model.maximize(merged)``.  ``fit.em`` does
    that for :class:`~pyrovae.fit.Parts`, with its starts and its stopping rule.

    Args:
        model: A model with an E step; every part must see the same parameters.
        data: The part, Observations or a tensor, (N, *data_shape).
        sample_weight: What each datum counts for, (N,), on one scale in all parts.

    Returns:
        Tensors by name, ``"log_prob"`` and ``"count"`` among them.

    Raises:
        TypeError: If the model has no E step.
        ValueError: If the data do not fit the model, or the weights not the data.

    Example:
        >>> from pyrovae import GaussianMixture
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> model = GaussianMixture(num_components=1, data_shape=(2,), floor=1e-3)
        >>> model.maximize(merge(expected_statistics(model, part) for part in (x[:50], x[50:])))
        >>> torch.allclose(model.means[0], x.mean(0))
        True
    """
    if not isinstance(model, TractableModel):
        raise TypeError(f"`model` must be a TractableModel, which has an E step, got {type(model).__name__}.")
    x = model.as_input(data, "data")
    rows = chunk_rows(model.floats_per_datum, model.smallest_chunk, x.device)
    weights = None if sample_weight is None else as_weight(sample_weight, len(x), positive=False).to(x).split(rows)
    chunks = x.split(rows)
    with model.unchanged():
        return merge(map(model.expected_statistics, chunks, weights or [None] * len(chunks)))


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Add up the sums of parts, in the order in which they come.

    Args:
        parts: What :func:`expected_statistics`, or the model's own method, gave for each; ``{}`` for one without data.

    Raises:
        ValueError: If they are not sums of the same names and shapes, which those of one model are.

    Example:
        >>> merge([{"count": torch.tensor(2.0)}, {}, {"count": torch.tensor(3.0)}])
        {'count': tensor(5.)}
    """
    total: Statistics = {}
    for number, part in enumerate(parts):
        if total and part and _shapes(part) != _shapes(total):
            raise ValueError(
                f"`parts` must be sums of one model, got {_shapes(part)} in place {number} after {_shapes(total)}; "
                "send the same model to every part."
            )
        for name, value in part.items():
            total[name] = total[name].add_(value) if name in total else value.detach().clone()
    return total


def _shapes(statistics: Statistics) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in statistics.items()}
