"""The picture of two bounds: what it draws are the numbers of the sandwiches, ordered by their temperatures."""

import math
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyrovae import PPCA, evaluate, plots


def sandwiches(temperatures=(20, 4), seed=0):
    ppca = PPCA(2, 5)
    options = [evaluate.AISOptions(num_chains=3, num_temperatures=t, num_leapfrog=2) for t in temperatures]
    return ppca, [evaluate.sandwich(ppca, 4, each, seed=seed) for each in options]


def test_bounds_and_gap_are_drawn_as_they_are():
    ppca, (long, short) = sandwiches()
    exact = ppca.score(long.data)
    figure = plots.sandwich([long, short], exact)
    left, right = figure.axes
    upper, lower = (container.lines[0].get_ydata(orig=False) for container in left.containers)
    (known,) = (line.get_ydata() for line in left.lines if line.get_label().startswith("exact"))
    np.testing.assert_allclose(upper, [short.upper.mean, long.upper.mean])
    np.testing.assert_allclose(lower, [short.lower.mean, long.lower.mean])
    np.testing.assert_allclose(known, exact)
    np.testing.assert_allclose(right.containers[0].lines[0].get_xdata(orig=False), [4, 20])
    np.testing.assert_allclose(right.containers[0].lines[0].get_ydata(orig=False), [short.gap, long.gap])
    ends = left.containers[1].lines[2][0].get_segments()[0][:, 1]  # the error bar of the lower bound
    assert ends.mean() == pytest.approx(short.lower.mean)
    assert np.ptp(ends) == pytest.approx(4 * short.lower.monte_carlo_standard_error)


def made_up(gap, error, num_temperatures):
    """A sandwich of one set of data whose bounds lie so far apart, with the standard errors that are wanted."""
    bound = {"num_temperatures": num_temperatures, "monte_carlo_standard_error": error}
    lower, upper = SimpleNamespace(mean=-1.0, **bound), SimpleNamespace(mean=-1.0 + gap, **bound)
    data = SimpleNamespace(x=torch.zeros(1, 1))
    return SimpleNamespace(lower=lower, upper=upper, gap=gap, gap_standard_error=error, data=data)


@pytest.mark.parametrize(
    ("gaps", "scale"),
    [
        ((12.0, 0.04, 1e-3), "log"),
        ((12.0, 0.04, -4e-3), "symlog"),
        ((12.0, 0.04, 0.0), "symlog"),
        ((-12.0, -0.04, -4e-3), "linear"),
        ((0.0, 0.0, 0.0), "linear"),
        ((1e-16, 0.0, -1e-16), "linear"),
    ],
)
@pytest.mark.parametrize("error", [0.005, 0.0, math.nan])
def test_gaps_that_are_not_positive_are_drawn_in_their_place(gaps, error, scale):
    """Chance or rounding can make a gap zero or negative: all of them are seen, and nothing warns."""
    figure = plots.sandwich([made_up(gap, error, 4**n) for n, gap in enumerate(gaps, 1)])
    figure.savefig(BytesIO(), dpi=50)
    axes = figure.axes[1]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    drawn = axes.containers[0].lines[0].get_ydata(orig=False)
    np.testing.assert_array_equal(drawn, gaps)
    assert ((drawn >= low) & (drawn <= high)).all()
    assert min(gaps) > 0 or low <= 0 <= high


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"`results` must hold at least one sandwich, got none"):
        plots.sandwich([])
    with pytest.raises(ValueError, match=r"`results` must be of one set of data, got several"):
        plots.sandwich([*sandwiches((4,), 0)[1], *sandwiches((4,), 1)[1]])
