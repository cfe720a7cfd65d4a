"""Are these draws from where those are from?  A test that needs no likelihood, so that it can judge what has none."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.models.base import check_whole


@dataclass(frozen=True)
class TwoSampleTest:
    """A kernel two-sample test.

    Attributes:
        statistic: The unbiased estimate of the squared maximum mean discrepancy; about 0, of either sign, for equal
            distributions.
        null_deviation: Standard deviation of the statistic over permutations of the pooled data.
        p_value: Share of permutations, this one included, whose statistic is at least as large.
        bandwidth: Of the Gaussian kernel, in the units of the data.
    """

    statistic: float
    null_deviation: float
    p_value: float
    bandwidth: float

    def __str__(self) -> str:
        return (
            f"MMD² {self.statistic:.2e}, {self.statistic / self.null_deviation:.1f} standard deviations of equal "
            f"distributions, p = {self.p_value:.3g}"
        )


def two_sample_test(
    x: Observations | Tensor,
    y: Observations | Tensor,
    *,
    num_permutations: int = 500,
    bandwidth: float | None = None,
    seed: int = 0,
) -> TwoSampleTest:
    """Tests whether two sets of data have one distribution, by the maximum mean discrepancy of a Gaussian kernel.

    MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y) with k(a, b) = exp(−‖a − b‖²/2h²), each mean over distinct pairs.  The
    null distribution is that of the statistic when the pooled data are dealt out again at random, so the p-value is
    exact for any sizes and dimension.

    Args:
        x: M ≥ 2 data.
        y: N ≥ 2 data of the same shape; no pairing with ``x``.
        num_permutations: Of the pooled data; the smallest p-value is 1/(1 + that).
        bandwidth: h; by default the median distance between pooled data.
        seed: Seed of the permutations.

    Returns:
        The test.

    Raises:
        ValueError: If the shapes differ, there are fewer than 2 data, all data are equal, or an argument is out of
            range.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 200, 3, generator=generator)
        >>> two_sample_test(x, y).p_value > 0.01, two_sample_test(x, y + 1).p_value < 0.01
        (True, True)

    Reference:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.
    """
    check_whole("num_permutations", num_permutations)
    first, second = (as_observations(data, name).x.flatten(1).double() for data, name in ((x, "x"), (y, "y")))
    if first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(
            f"`x` and `y` must be at least 2 data each of one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)} after flattening."
        )
    pooled = torch.cat([first, second])
    pooled = pooled - pooled.mean(0)  # distances from products lose less to rounding near the origin
    squares = torch.cdist(pooled, pooled).square()
    if bandwidth is None:
        bandwidth = torch.pdist(pooled).median().item()
    if not bandwidth > 0:
        raise ValueError(f"`bandwidth` must be positive, got {bandwidth:g}; are all data equal?")
    kernel = (-squares / (2 * bandwidth**2)).exp().fill_diagonal_(0)

    generator = torch.Generator(kernel.device).manual_seed(seed)
    in_first = torch.zeros(1 + num_permutations, len(pooled), dtype=kernel.dtype, device=kernel.device)
    in_first[0, : len(first)] = 1
    for row in in_first[1:]:
        row[torch.randperm(len(pooled), generator=generator, device=kernel.device)[: len(first)]] = 1
    statistics = _mmd_squared(kernel, in_first)
    null = statistics[1:]
    at_least = (null >= statistics[0] - 1e-12).sum().item()
    return TwoSampleTest(
        statistic=statistics[0].item(),
        null_deviation=null.std(unbiased=False).item(),
        p_value=(1 + at_least) / (1 + num_permutations),
        bandwidth=bandwidth,
    )


def _mmd_squared(kernel: Tensor, in_first: Tensor) -> Tensor:
    """The statistic (P,) of each way (P, M + N) of dealing out the data, from a kernel matrix of zero diagonal."""
    num_first = in_first[0].sum()
    num_second = in_first.shape[1] - num_first
    sums = in_first @ kernel
    within_first = (sums * in_first).sum(1)
    across = sums.sum(1) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    return (
        within_first / (num_first * (num_first - 1))
        + within_second / (num_second * (num_second - 1))
        - 2 * across / (num_first * num_second)
    )
