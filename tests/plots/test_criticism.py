"""Pictures of calibration and of replicated data: what they show is what was computed."""

import numpy as np
import pytest
import torch

from pyrovae import PPCA, VAE, Bernoulli, evaluate, plots
from pyrovae.evaluate import SimulationBasedCalibration


def ranks_of(pit):
    """Ranks among 99 draws, for PIT values (N, L)."""
    return SimulationBasedCalibration((pit * 100).long().clamp_max(99), pit, 99, 20)


def curve_and_band(axes):
    points, heights = axes.lines[0].get_data()
    vertices = axes.collections[0].get_paths()[0].vertices
    at = [vertices[np.isclose(vertices[:, 0], x), 1] for x in points]
    return points, heights, np.array([y.min() for y in at]), np.array([y.max() for y in at])


def test_the_curve_is_the_distribution_function_less_the_uniform_one_and_the_band_holds_it():
    torch.manual_seed(1)
    uniform = torch.rand(500, 1, dtype=torch.float64)
    narrow = torch.where(uniform < 0.5, uniform / 2, 1 - (1 - uniform) / 2)
    figure = plots.calibration(ranks_of(torch.cat([uniform, narrow], dim=1)))
    assert [axes.get_title() for axes in figure.axes] == [
        "z[1], p < 0.001",
        f"z[0], p = {ranks_of(uniform).p_value:.3f}",
    ]
    for axes, values, inside in zip(figure.axes, (narrow, uniform), (False, True), strict=True):
        points, heights, low, high = curve_and_band(axes)
        np.testing.assert_allclose(heights, [(values.numpy() <= x).mean() - x for x in points], atol=1e-12)
        assert ((heights >= low) & (heights <= high)).all() == inside


def test_the_band_is_simultaneous():
    """Of 200 uniform samples about 95% lie inside throughout: 4 standard errors of a share are 6%."""
    torch.manual_seed(2)
    pit = torch.rand(300, 200, dtype=torch.float64)
    points, _, low, high = curve_and_band(plots.calibration(ranks_of(pit[:, :1])).axes[0])
    reached = (pit.numpy()[:, :, None] <= points).mean(0) - points
    held = ((reached >= low - 1e-12) & (reached <= high + 1e-12)).all(1).mean()
    assert 0.95 - 0.08 < held < 1  # 2% more, for the band itself comes from 500 simulations


def test_the_worst_units_are_shown():
    torch.manual_seed(1)
    pit = torch.rand(200, 5, dtype=torch.float64)
    pit[:, 3] *= 0.5
    figure = plots.calibration(ranks_of(pit), most=2)
    assert len(figure.axes) == 2
    assert figure.axes[0].get_title().startswith("z[3]")
    with pytest.raises(ValueError, match=r"`most` must be a whole number of at least 1, got 0"):
        plots.calibration(ranks_of(pit), most=0)


def test_every_statistic_has_a_panel_with_its_p_value():
    ppca = PPCA(1, (3,))
    check = evaluate.posterior_predictive_check(ppca, ppca.sample(40)[0], num_replicates=30)
    first, *others = plots.predictive_check(check).axes
    assert [axes.get_title() for axes in others] == [f"{name}, p = {p:.3f}" for name, p in check.p_values.items()]
    for axes, value in zip(others, check.observed.values(), strict=True):
        assert list(axes.lines[1].get_xdata()) == [value, value]
    x, density = first.lines[-1].get_data()  # of the data, by kernels
    assert np.trapezoid(density, x) == pytest.approx(1, abs=0.05)
    assert len(first.lines) == 11


def test_binary_data_have_a_bar_for_each_value():
    vae = VAE(1, (3,), Bernoulli(), hidden=(4,))
    check = evaluate.posterior_predictive_check(vae, torch.tensor([[0.0, 1.0, 1.0]] * 4), num_replicates=5)
    x, share = plots.predictive_check(check).axes[0].lines[-1].get_data()
    np.testing.assert_allclose(np.stack([x, share]), [[0, 1], [1 / 3, 2 / 3]])
