"""log p(x) between two bounds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from pyrovae.evaluate import Sandwich
from pyrovae.plots.common import COLOURS, MARKERS, NORMAL, SMALL, WIDTH, Picture, number, tidy


def sandwich(results: Sequence[Sandwich], exact: float | None = None) -> Figure:
    """Bounds of log p(x) from both sides, over the number of temperatures, and the gap between them.

    Args:
        results: Of one model and one set of simulated data, each with another number of temperatures.
        exact: Mean log p(x) of these data where it is known, nats per datum.

    Returns:
        The figure: on the left both bounds ± 2 standard errors of the chains, on the right their gap ± 2 standard
        errors, on logarithmic axes (the gap on a linear one where none is positive).

    Raises:
        ValueError: If ``results`` is empty, or its data differ.

    Example:
        >>> from pyrovae import PPCA, evaluate
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> both = [evaluate.sandwich(ppca, 3, evaluate.AISOptions(num_temperatures=t, num_chains=2)) for t in (5, 20)]
        >>> figure = sandwich(both, ppca.score(both[0].data))
        >>> figure.axes[0].get_xlabel()
        'temperatures'

    Reference:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo.
    """
    if not results:
        raise ValueError("`results` must hold at least one sandwich, got none.")
    if any(not each.data.x.equal(results[0].data.x) for each in results):
        raise ValueError("`results` must be of one set of data, got several; run each sandwich with one `seed`.")
    results = sorted(results, key=lambda each: each.lower.num_temperatures)
    temperatures = [each.lower.num_temperatures for each in results]
    figure = Picture(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for index, (name, marker) in enumerate((("upper", "v"), ("lower", "^"))):
        bounds = [getattr(each, name) for each in results]
        left.errorbar(
            temperatures,
            [bound.mean for bound in bounds],
            [2 * bound.monte_carlo_standard_error for bound in bounds],
            marker=marker,
            color=COLOURS[index],
            capsize=3,
            label=f"{name} bound in expectation",
        )
    if exact is not None:
        left.axhline(exact, color="black", linestyle="--", linewidth=1, label=f"exact, {number(exact)}")
    left.set_ylabel("log p(x), nats per datum", fontsize=NORMAL)
    left.legend(fontsize=SMALL, frameon=False)
    gaps, errors = [each.gap for each in results], [2 * each.gap_standard_error for each in results]
    right.errorbar(temperatures, gaps, errors, marker=MARKERS[0], color="black", capsize=3)
    if max(gaps) > 0:  # chance can leave no gap that has a logarithm
        right.set_yscale("log", nonpositive="clip")
    right.set_ylabel("gap, nats per datum", fontsize=NORMAL)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("temperatures", fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL)
        tidy(axes)
    return figure
