"""The picture of two bounds: what it draws are the numbers of the sandwiches, ordered by their temperatures."""

import numpy as np
import pytest

from pyrovae import PPCA, evaluate, plots


def sandwiches(temperatures=(20, 4), seed=0):
    ppca = PPCA(2, 5)
    options = [evaluate.AISOptions(3, t, num_leapfrog=2) for t in temperatures]
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


@pytest.mark.parametrize(("gaps", "scale"), [((0.0, -0.1), "linear"), ((-0.1, 0.2), "log")])
def test_gaps_that_chance_makes_zero_or_negative_are_drawn(gaps, scale, monkeypatch):
    (_, both), given = sandwiches(), iter(gaps)
    monkeypatch.setattr(type(both[0]), "gap", property(lambda self: next(given)))
    right = plots.sandwich(both).axes[1]
    assert right.get_yscale() == scale


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"`results` must hold at least one sandwich, got none"):
        plots.sandwich([])
    with pytest.raises(ValueError, match=r"`results` must be of one set of data, got several"):
        plots.sandwich([*sandwiches((4,), 0)[1], *sandwiches((4,), 1)[1]])
