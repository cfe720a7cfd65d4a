"""Estimates of log p(x) as a table."""

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pyrovae.evaluate.likelihood.estimate import LogLikelihood

if TYPE_CHECKING:
    import pandas as pd


def likelihood_table(estimates: Mapping[Hashable, LogLikelihood], exact: Tensor | None = None) -> "pd.DataFrame":
    """A row for every estimate of log p(x) of the same data, with what tells how far to trust it.

    Args:
        estimates: Results of :func:`log_likelihood` or :func:`ais`, by name; a tuple for a name of several levels.
        exact: log p(x), shape (N,), where it is known.

    Returns:
        Means over the N data: ``log p(x)``, nats; ``off by``, what it lies above ``exact``, if that is given; ``± MC``,
        the Monte-Carlo standard error of the mean; ``−½ SE²``, the bias by the delta method; ``short by``, what it lies
        below the highest lower bound of the table, and so at least below the truth; ``ESS``, the effective sample size;
        ``k̂ too large``, the share of data whose Pareto k̂ is over its threshold.  NaN is what is not known: errors and
        bias where k̂ is too large (see :attr:`LogLikelihood.doubt`), a share where no k̂ is available.

    Example:
        >>> import torch
        >>> from pyrovae import PPCA, evaluate
        >>> ppca, x = PPCA(latent_dim=1, data_shape=(3,)), torch.zeros(2, 3, dtype=torch.float64)
        >>> ll = evaluate.log_likelihood(ppca, x, 10, "importance")  # the guide of PPCA is its posterior
        >>> table = likelihood_table({"importance": ll}, ppca.log_prob(x))
        >>> table[["off by", "ESS"]].abs().round(6).values.tolist()
        [[0.0, 10.0]]
    """
    import pandas as pd

    highest = max((each.mean for each in estimates.values() if _is_lower(each)), default=math.nan)
    rows = {}
    for name, each in estimates.items():
        error = {} if exact is None else {"off by": (each.values - exact).mean().item()}
        trust = {"± MC": each.monte_carlo_standard_error, "−½ SE²": each.bias.mean().item()}
        short = {"short by": highest - each.mean if _is_lower(each) else math.nan}
        weights = {"ESS": each.ess.mean().item(), "k̂ too large": each.k_hat_share}
        rows[name] = {"log p(x)": each.mean, **error, **trust, **short, **weights}
    return pd.DataFrame.from_dict(rows, orient="index")


def _is_lower(estimate: LogLikelihood) -> bool:
    return getattr(estimate, "bound", "lower") == "lower"
