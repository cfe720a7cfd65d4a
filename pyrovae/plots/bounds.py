"""log p(x) between two bounds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.evaluate import AnnealedLikelihood, Sandwich
from pyrovae.plots.common import COLOURS, SMALL, check_some, label, number, sheet, tidy

LEAST_GAP = 1e-4  # nats; smaller ones are not told apart by their decade


def sandwich(results: Sequence[Sandwich], exact: float | None = None) -> Figure:
    """Bounds of log p(x) from both sides, over the number of temperatures, and the gap between them.

    Args:
        results: Of one model and one set of simulated data, each with another number of temperatures.
        exact: Mean log p(x) of these data where it is known, nats per datum.

    Returns:
        The figure: on the left both bounds ± 2 standard errors of the chains, without a bar where these are not known
        (see :attr:`LogLikelihood.doubt`), on the right their gap ± 2 standard errors, on
        logarithmic axes.  Chance can make a gap zero or negative; then the axis of gaps is linear about 0.

    Raises:
        ValueError: If ``results`` is empty, or its data differ.

    Example:
        >>> from pyrovae import PPCA, evaluate
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> anneal = [evaluate.AISOptions(num_temperatures=t, num_chains=2) for t in (5, 20)]
        >>> both = [evaluate.sandwich(ppca, 3, options) for options in anneal]
        >>> figure = sandwich(both, ppca.score(both[0].data))
        >>> figure.axes[0].get_xlabel()
        'temperatures'

    Reference:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo.
    """
    check_some("results", results, "sandwich")
    if any(not each.data.x.equal(results[0].data.x) for each in results):
        raise ValueError("`results` must be of one set of data, got several; run each sandwich with one `seed`.")
    results = sorted(results, key=lambda each: each.lower.num_temperatures)
    temperatures = [each.lower.num_temperatures for each in results]
    figure = sheet(3.2)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_bounds(left, temperatures, [each.upper for each in results], "v", COLOURS[0], "upper bound in expectation")
    _draw_bounds(left, temperatures, [each.lower for each in results], "^", COLOURS[1], "lower bound in expectation")
    if exact is not None:
        left.axhline(exact, color="black", linestyle="--", linewidth=1, label=f"exact, {number(exact)}")
    left.legend(fontsize=SMALL, frameon=False)
    gaps, errors = np.array([(each.gap, 2 * each.gap_standard_error) for each in results]).T
    right.errorbar(temperatures, gaps, errors, marker="o", color="black", capsize=3)
    _scale_gaps(right, gaps, errors)
    for axes, name in ((left, "log p(x), nats per datum"), (right, "gap, nats per datum")):
        axes.set_xscale("log")
        label(axes, "temperatures", name)
        tidy(axes)
    return figure


def _draw_bounds(
    axes: Axes, temperatures: Sequence[int], bounds: Sequence[AnnealedLikelihood], marker: str, colour: str, label: str
) -> None:
    means, errors = np.array([(bound.mean, 2 * bound.monte_carlo_standard_error) for bound in bounds]).T
    axes.errorbar(temperatures, means, errors, marker=marker, color=colour, capsize=3, label=label)


def _scale_gaps(axes: Axes, gaps: np.ndarray, errors: np.ndarray) -> None:
    """A logarithmic axis; where a gap is not positive, one that is linear about zero as far as such gaps may reach."""
    if (gaps > 0).all():
        axes.set_yscale("log", nonpositive="clip")
        return
    reach = np.fmax(np.abs(gaps), errors)
    linear = max(np.nanmax(reach[~(gaps > 0)]), LEAST_GAP)
    if np.nanmax(reach) > 10 * linear:
        axes.set_yscale("symlog", linthresh=linear)
    axes.axhline(0, color="0.5", linewidth=0.8)
