"""Checks of a model and its guide, drawn from what ArviZ computes of them.

ArviZ 0.23 and 1.x draw such pictures by functions of other names and arguments (``plot_bpv`` and ``plot_ecdf``;
``plot_ppc_tstat`` and ``plot_ecdf_pit``).  What they compute is the same in both: the confidence band of an empirical
distribution function, and densities by kernels.  So these come from ArviZ, and are drawn here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.engine.checks import check_whole
from pyrovae.engine.isolation import quiet
from pyrovae.evaluate import PredictiveCheck, SimulationBasedCalibration
from pyrovae.plots.common import COLOURS, NORMAL, SMALL, grid, headline, legend_below, tidy, wrapped

BAND = 0.95
SIMULATIONS = 500  # for the band
POINTS = 100  # of the curve
MOST_REPLICATES = 10  # drawn as densities
MOST_NUMBERS = 20_000  # of a data set, in a density


def calibration(ranks: SimulationBasedCalibration, *, most: int = 9) -> Figure:
    """The distribution of the true z among draws of q, less the uniform one that a calibrated q has, a panel a unit.

    A curve inside the band is what 95% of the calibrated guides show, for each unit by itself.  An S that falls behind
    means a q that is too wide, one that runs ahead at first a q that is too narrow; an arc means one that is shifted.

    Args:
        ranks: What :func:`pyrovae.evaluate.simulation_based_calibration` gives.
        most: Most panels; those of the smallest p-values are shown.

    Returns:
        The figure; x is the PIT value, y the empirical distribution function at x, less x.

    Raises:
        ValueError: If ``most`` is below 1.

    Example:
        >>> from pyrovae import PPCA, evaluate
        >>> figure = calibration(evaluate.simulation_based_calibration(PPCA(2, (5,)), num_data=100))
        >>> sorted(axes.get_title().split(",")[0] for axes in figure.axes)
        ['z[0]', 'z[1]']

    Reference:
        Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its applications in
        goodness-of-fit evaluation and multiple sample comparison.
    """
    check_whole("most", most)
    order = ranks.p_values.argsort(stable=True)[:most].tolist()
    p_values = ranks.p_values.tolist()
    points, lower, upper = _band(len(ranks.pit))
    figure, panels = grid(len(order), min(3, len(order)))
    for unit, axes in zip(order, panels, strict=True):
        values = np.sort(ranks.pit[:, unit].numpy())
        reached = np.searchsorted(values, points, side="right") / len(values)
        band = axes.fill_between(points, lower - points, upper - points, color="0.85", linewidth=0)
        band.set_label(f"{BAND:.0%} of calibrated guides")
        axes.plot(points, reached - points, color=COLOURS[1], linewidth=1.4, label="this guide")
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_title(f"{ranks.units[unit]}, {_p_value(p_values[unit])}", fontsize=NORMAL)
        axes.set_xlabel("PIT", fontsize=SMALL)
        tidy(axes)
    panels[0].set_ylabel("ECDF − PIT", fontsize=SMALL)
    headline(figure, f"Ranks of z among {ranks.num_draws} draws of q, {len(ranks.pit):,} simulated data")
    legend_below(figure, panels[0])
    return figure


def predictive_check(check: PredictiveCheck) -> Figure:
    """The data beside replicated data: densities of all their numbers, and every statistic with its p-value.

    Args:
        check: What :func:`pyrovae.evaluate.posterior_predictive_check` gives.

    Returns:
        The figure: first the numbers of the data and of some replicates, then a panel a statistic.

    Example:
        >>> from pyrovae import PPCA, evaluate
        >>> ppca = PPCA(1, (3,))
        >>> check = evaluate.posterior_predictive_check(ppca, ppca.sample(40)[0], num_replicates=20)
        >>> figure = predictive_check(check)
        >>> figure.axes[1].get_title()[:8]
        'mean, p '
    """
    figure, panels = grid(1 + len(check.observed), 3)
    figure.set_figheight(figure.get_figheight() + 0.2)
    first, *others = panels
    for index, replicate in enumerate(check.replicates[:MOST_REPLICATES]):
        text = "_nolegend_" if index else "replicates"
        _density(first, replicate, color=COLOURS[0], linewidth=0.8, alpha=0.5, label=text)
    _density(first, check.data, color="black", linewidth=1.4, label="data")
    first.set_title("all numbers", fontsize=NORMAL)
    p_values = check.p_values
    for (name, value), axes in zip(check.observed.items(), others, strict=True):
        _density(axes, check.replicated[name], color=COLOURS[0], linewidth=1.4)
        axes.axvline(value, color="black", linewidth=1.4)
        axes.set_title(wrapped(f"{name}, {_p_value(p_values[name])}", 34), fontsize=NORMAL)
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        tidy(axes)
    drawn = {"posterior": "z from q(z|x)", "prior": "z from the prior"}[check.latents]
    count = len(next(iter(check.replicated.values())))
    headline(figure, f"The data beside {count:,} replicates, {drawn}")
    legend_below(figure, first)
    return figure


def _p_value(p: float) -> str:
    return f"p = {p:.3f}" if p >= 1e-3 else "p < 0.001"


def _density(axes: Axes, values: Tensor, **line: Any) -> None:
    """The density of some numbers by ArviZ, or a bar for each where they are few."""
    numbers = values.double().flatten().numpy()
    numbers = numbers[:: max(1, len(numbers) // MOST_NUMBERS)]
    few, counts = np.unique(numbers, return_counts=True)
    if len(few) <= 10:  # no density: a statistic that never changes, or binary data
        axes.plot(few, counts / len(numbers), "o-", markersize=3, **line)
        return
    with _arviz() as old:
        if old is not None:
            place, density = old.kde(numbers)
        else:
            from arviz_stats.base import array_stats

            place, density, _ = array_stats.kde(numbers)
    axes.plot(place, density, **line)


def _band(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where 95% of the empirical distribution functions of so many uniform numbers lie throughout, by ArviZ."""
    points = np.arange(1, POINTS) / POINTS
    generator = np.random.default_rng(0)
    with _arviz() as old:
        if old is not None:
            from arviz.stats.ecdf_utils import ecdf_confidence_band

            draw = lambda count, random_state: random_state.uniform(size=count)  # noqa: E731
            options = {"rvs": draw, "num_trials": SIMULATIONS, "random_state": generator}
            return points, *ecdf_confidence_band(number, points, points, BAND, "simulated", **options)
        from arviz_stats import ecdf_utils

        each = ecdf_utils.simulate_confidence_bands(number, 1, points, BAND, SIMULATIONS, generator)
        return points, *ecdf_utils.get_pointwise_confidence_band(each, number, points)


@contextmanager
def _arviz() -> Iterator[Any]:
    """ArviZ 0.23, or None for 1.x, where functions lie elsewhere.  Both warn of their changes on import; not here."""
    with quiet():
        import arviz

        yield arviz if arviz.__version__.startswith("0.") else None
