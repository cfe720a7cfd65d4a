"""Pictures of what a model generates and reconstructs: the numbers drawn are those of the model."""

import math
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from matplotlib.colors import to_hex
from scipy.stats import norm

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, data, evaluate, fit, plots
from pyrovae.data import Observations
from pyrovae.evaluate import ELBOTerms


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", dtype=torch.float64)


@pytest.fixture(scope="module")
def ppca(digits):
    return fit.closed_form(PPCA(3, (64,)), digits.train)


@pytest.fixture(scope="module")
def vae(digits):
    return fit.svi(VAE(2, (64,), Gaussian("decoder", floor=1e-3), hidden=(16,)).double(), digits.train, num_epochs=3)


def rendered(figure):
    """The figure after it was drawn, without a warning and with no text cut off."""
    figure.savefig(BytesIO(), dpi=50)
    box, inside = figure.get_tightbbox(), figure.bbox_inches
    assert inside.x0 <= box.x0 + 0.02
    assert box.x1 <= inside.x1 + 0.02
    assert inside.y0 <= box.y0 + 0.02
    assert box.y1 <= inside.y1 + 0.02
    return figure


def written(figure):
    return "\n".join(artist.get_text() for artist in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def images(axes):
    return torch.stack([torch.as_tensor(image.get_array().data) for image in axes.images]).flatten(1)


def rows(figure):
    return [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]


def spread(d, number):
    return d[torch.linspace(0, len(d) - 1, number).round().long()]


# ---------------------------------------------------------------------------------------------------- reconstructions


def test_reconstructions_stand_below_their_data(digits, ppca, vae):
    figure = rendered(plots.reconstructions({"PPCA": ppca, "VAE": vae}, digits.test, num_images=7))
    few = spread(digits.test, 7)
    given, *made = rows(figure)
    torch.testing.assert_close(images(given), few.x)
    for axes, entry in zip(made, (ppca, vae), strict=True):
        torch.testing.assert_close(images(axes), evaluate.reconstruct_means(entry.model, few).clamp(0, 1))
    assert [axes.get_ylabel() for axes in made] == ["PPCA\nE[x|z]", "VAE\nE[x|z]"]


def test_reconstructions_come_back_from_a_transformed_space(digits):
    logit = data.load("digits", transform="logit", dtype=torch.float64)
    seen = fit.closed_form(PPCA(5, (64,)), logit.train)
    figure = rendered(plots.reconstructions({"PPCA": seen}, digits.test, num_images=3))
    back = logit.test.space.transform.inv(evaluate.reconstruct_means(seen.model, spread(logit.test, 3)))
    torch.testing.assert_close(images(rows(figure)[1]), back.clamp(0, 1), rtol=0, atol=1e-9)
    assert "Means are taken where the model lives (logit" in written(figure).replace("\n", " ")


# ------------------------------------------------------------------------------------------------------------- strips


def test_strips_go_in_five_even_steps(digits, vae):
    figure = rendered(plots.strips({"VAE": vae}, digits.test, num_samples=4, seed=2))
    means, z = vae.model.sample_means(4, seed=2)
    sigma = evaluate.decode_deviations(vae.model, z)
    assert len(rows(figure)) == 5
    for step, axes in zip((-2, -1, 0, 1, 2), rows(figure), strict=True):
        torch.testing.assert_close(images(axes), (means + step * sigma).clamp(0, 1))
    labels = [axes.get_ylabel() for axes in rows(figure)]
    assert labels == ["μ − 2σ", "μ − σ", "VAE   μ", "μ + σ", "μ + 2σ"]
    moved = torch.cat([means + step * sigma for step in (-2, -1, 0, 1, 2)])
    share = ((moved < -1e-3) | (moved > 1.001)).double().mean()
    assert f"clipped: VAE {share:.1%}" in written(figure).replace("\n", " ")


def test_strips_of_any_z_and_any_likelihood(digits):
    binary = data.load("digits", observations="binary")
    models = {"VAE": VAE(2, (64,), Bernoulli(), hidden=(8,)), "mixture": GaussianMixture(3, (64,))}
    rendered(plots.strips({"VAE": models["VAE"]}, binary.test, num_samples=1))
    assert len(rows(rendered(plots.strips(models, digits.test, num_samples=3)))) == 10


# --------------------------------------------------------------------------------------------------------- sigma maps


def test_sigma_maps_show_sigma_in_its_units(digits, ppca, vae):
    figure = rendered(plots.sigma_maps({"VAE": vae, "PPCA": ppca}, digits.test, num_images=3))
    few = spread(digits.test, 3)
    given, vae_mean, vae_sigma, ppca_mean, ppca_sigma = rows(figure)[:5]
    z = evaluate.encode(vae.model, few).mean
    torch.testing.assert_close(images(given), few.x)
    torch.testing.assert_close(images(vae_mean), evaluate.decode_means(vae.model, z).clamp(0, 1))
    torch.testing.assert_close(images(vae_sigma), evaluate.decode_deviations(vae.model, z))
    torch.testing.assert_close(images(ppca_sigma), ppca.model.noise_variance.sqrt().detach().expand(3, 64))
    torch.testing.assert_close(images(ppca_mean), evaluate.reconstruct_means(ppca.model, few).clamp(0, 1))
    top = evaluate.decode_deviations(vae.model, z).max().item()
    assert vae_sigma.images[0].get_clim() == (0.0, pytest.approx(top))
    assert f"{top:.2g}" in written(figure)


def test_sigma_of_colours_is_taken_over_channels():
    x = Observations(torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)), image_shape=(3, 4, 5))
    model = VAE(2, (3, 4, 5), Gaussian("per_dim"), hidden=(8,))
    model.initialize(x.x)
    figure = rendered(plots.sigma_maps({"VAE": model}, x, num_images=6))
    assert rows(figure)[0].images[0].get_array().shape == (4, 5, 3)
    expected = x.x.var(0, correction=0).mean(0).sqrt().flatten()
    torch.testing.assert_close(images(rows(figure)[2])[0].float(), expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- manifolds


def cells(axes, num_steps, height=8, width=8):
    """Images of a mosaic by row from below and column, (num_steps, num_steps, D)."""
    mosaic = torch.as_tensor(axes.images[0].get_array().data)
    return mosaic.unfold(0, height, height).unfold(1, width, width).flip(0).reshape(num_steps, num_steps, -1)


@pytest.mark.parametrize(("extent", "side"), [(None, norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])), (2.0, [-2, -1, 0, 1, 2])])
def test_manifold_has_its_z_at_its_ticks(digits, ppca, extent, side):
    figure = rendered(plots.manifold({"PPCA": ppca}, digits.test, num_steps=5, extent=extent, units=(2, 0)))
    (axes,) = figure.axes
    z = torch.zeros(5, 5, 3, dtype=torch.float64)
    z[..., 2], z[..., 0] = torch.tensor(side), torch.tensor(side)[:, None]
    torch.testing.assert_close(cells(axes, 5), evaluate.decode_means(ppca.model, z).clamp(0, 1))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_{3}$", "$z_{1}$")
    assert list(axes.get_xticks()) == [4.0, 12.0, 20.0, 28.0, 36.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{v:.1f}".replace("-", "−") for v in side]
    assert "other latents at 0" in written(figure)


@pytest.mark.parametrize("num_steps", [2, 10, 15])
def test_ticks_are_evenly_spaced(digits, ppca, num_steps):
    (axes,) = plots.manifold({"PPCA": ppca}, digits.test, num_steps=num_steps).axes
    gaps = {round(gap, 9) for gap in torch.tensor(axes.get_xticks()).diff().tolist()}
    assert len(gaps) == 1
    assert (axes.get_xticks()[0], axes.get_xticks()[-1]) == (4.0, 8 * num_steps - 4.0)


def test_clouds_are_draws_of_q_above_the_manifold(digits, vae, ppca):
    equal = torch.cat([(digits.test.labels == digit).nonzero()[:20] for digit in range(10)]).flatten()
    few = digits.test[equal.sort().values]
    figure = rendered(plots.clouds_and_manifolds({"VAE": vae, "PPCA": ppca}, few, num_steps=4))
    clouds, mosaics = figure.axes[:2], figure.axes[2:]
    for cloud, mosaic, entry in zip(clouds, mosaics, (vae, ppca), strict=True):
        z = torch.cat([torch.as_tensor(points.get_offsets().data) for points in cloud.collections])
        drawn = evaluate.draws(entry.model, few, 1)[0][0, :, :2]
        closest = torch.cdist(z, drawn, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
        assert closest.max() < 1e-9
        assert [round(patch.radius, 3) for patch in cloud.patches] == [1.177, 2.448]
        for patch, mass in zip(cloud.patches, (0.5, 0.95), strict=True):
            assert 1 - math.exp(-(patch.radius**2) / 2) == pytest.approx(mass)
        assert abs(z).max() < cloud.get_xlim()[1]
        torch.testing.assert_close(
            cells(mosaic, 4), evaluate.manifold_means(entry.model, 4).flatten(2).clamp(0, 1), rtol=0, atol=1e-9
        )
    classes = [points.get_label() for points in clouds[0].collections]
    counts = {len(points.get_offsets()) for points in clouds[0].collections}
    assert classes == [str(digit) for digit in range(10)]
    assert len(counts) == 1  # equal counts a class


@pytest.mark.parametrize("number", [1, 4])
def test_any_number_of_clouds_finds_room(digits, ppca, number):
    models = {f"β = {beta}": ppca for beta in range(number)}
    assert len(rendered(plots.clouds_and_manifolds(models, digits.test, num_steps=2)).axes) == 2 * number


def test_manifolds_need_two_latents(digits):
    with pytest.raises(ValueError, match="`model` must have a continuous z of at least 2 units"):
        plots.manifold({"mixture": GaussianMixture(2, (64,))}, digits.test)


# ----------------------------------------------------------------------------------------------------- latents in space


def test_three_latents_in_space(digits, ppca):
    (axes,) = rendered(plots.latents({"PPCA": ppca}, digits.test, num_axes=3)).axes
    assert axes.name == "3d"
    z = torch.cat([torch.stack([torch.as_tensor(side) for side in part._offsets3d], 1) for part in axes.collections])
    exact = ppca.model.posterior(digits.test.x).mean.detach()
    assert torch.cdist(z, exact, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() < 1e-9
    assert axes.get_zlabel() == "E[$z_3$|x]"
    assert len({len(part._offsets3d[0]) for part in axes.collections}) == 1


def test_more_latents_in_space_and_fewer_in_the_plane(digits, vae):
    five = fit.closed_form(PPCA(5, (64,)), digits.train)
    solid, plane = rendered(plots.latents({"PPCA": five, "VAE": vae}, digits.test, num_axes=3)).axes[::-1]
    if solid.name != "3d":
        solid, plane = plane, solid
    assert (solid.name, plane.name) == ("3d", "rectilinear")
    assert solid.get_zlabel().startswith("axis 3 (")
    assert plane.get_xlabel() == "E[$z_1$|x]"
    with pytest.raises(ValueError, match="`num_axes` must be 2 or 3, got 4"):
        plots.latents({"VAE": vae}, digits.test, num_axes=4)


# --------------------------------------------------------------------------------------------- rate and distortion, FID


def terms(rate, distortion):
    noise = torch.tensor([-1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    return ELBOTerms(reconstruction=noise - distortion, kl=rate + 0 * noise, standard_error=0 * noise)


def test_a_single_datum_has_no_bar():
    """Rather than one of length zero, which would say that more data change nothing."""
    one = ELBOTerms(*(torch.tensor([value]) for value in (-3.0, 1.0, 0.1)))
    (points,) = rendered(plots.rate_distortion({"one": one})).axes[0].containers
    assert not [segment for bar in points.lines[2] for segment in bar.get_segments() if len(segment)]


def test_rate_and_distortion_are_the_terms_of_the_elbo():
    figure = rendered(plots.rate_distortion({"β = 0.5": terms(30.0, 60.0), "β = 2": terms(10.0, 90.0)}))
    (axes,) = figure.axes
    (points,) = axes.containers
    assert list(points.lines[0].get_xdata()) == [30.0, 10.0]
    assert list(points.lines[0].get_ydata()) == [60.0, 90.0]
    horizontal, vertical = points.lines[2]
    assert [abs(a[0] - b[0]) for a, b in horizontal.get_segments()] == [0, 0]
    error = math.sqrt(2 / 3) / 2  # of the mean of −1, 1, 0, 0
    assert [abs(a[1] - b[1]) / 2 for a, b in vertical.get_segments()] == [pytest.approx(error)] * 2
    assert "β = 0.5" in written(figure)
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(dotted) >= 3
    said = []
    for line in dotted:
        (x0, x1), (y0, y1) = line.get_data()
        assert x0 + y0 == pytest.approx(x1 + y1)
        if label := [text.get_text() for text in axes.texts if text.xy == (x1, y1)]:
            said.append(label[0])
            assert float(label[0].split()[1].replace("−", "-")) == pytest.approx(-(x0 + y0))
    assert said


def test_one_model_has_a_rate_too():
    rendered(plots.rate_distortion({"only": terms(0.0, -5.0)}))


def test_fid_by_epoch_marks_the_lowest():
    histories = {
        "means": SimpleNamespace(epochs=[1, 3, 5], values=[90.0, 50.0, 55.0]),
        "samples": SimpleNamespace(epochs=[1, 2], values=[120.0, 110.0]),
    }
    figure = rendered(plots.fid_by_epoch(histories))
    (axes,) = figure.axes
    first, ring, second, other = axes.lines
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([1, 3, 5], [90.0, 50.0, 55.0])
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([3], [50.0])
    assert (list(other.get_xdata()), list(other.get_ydata())) == ([2], [110.0])
    assert first.get_marker() != second.get_marker()
    assert to_hex(first.get_color()) != to_hex(second.get_color())
    assert axes.get_ylim()[0] == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "FID (lower is better)")
    assert "means\nlowest 50.0, epoch 3" in written(figure)


# -------------------------------------------------------------------------------------------------------------- shared


@pytest.mark.parametrize(
    "picture", [plots.reconstructions, plots.strips, plots.sigma_maps, plots.manifold, plots.clouds_and_manifolds]
)
def test_refuse(picture, digits, ppca):
    with pytest.raises(ValueError, match="`models` must hold at least one model, got none"):
        picture({}, digits.test)
    with pytest.raises(TypeError, match=r"`models\['a'\]` must be a model or a FitResult, got int"):
        picture({"a": 3}, digits.test)
    with pytest.raises(ValueError, match=r"must be a model of data of shape \(64,\), got \(5,\)"):
        picture({"a": PPCA(2, (5,))}, digits.test)
    with pytest.raises(ValueError, match="`data` must be images, got data without `image_shape`"):
        picture({"a": ppca.model}, digits.test.x)
    with pytest.raises(ValueError, match="`data` must be images of 1 or 3 channels to be shown, got 4"):
        picture({"a": ppca}, replace(digits.test, image_shape=(4, 4, 4)))


@pytest.mark.parametrize(
    ("picture", "argument"),
    [
        (plots.reconstructions, "num_images"),
        (plots.strips, "num_samples"),
        (plots.sigma_maps, "num_images"),
        (plots.manifold, "num_steps"),
    ],
)
def test_counts_are_checked(picture, argument, digits, ppca):
    with pytest.raises(ValueError, match=f"`{argument}` must be a whole number of at least"):
        picture({"a": ppca}, digits.test, **{argument: 0})


def test_curves_refuse():
    with pytest.raises(ValueError, match="`terms` must hold at least one model's terms, got none"):
        plots.rate_distortion({})
    with pytest.raises(TypeError, match=r"`terms\['a'\]` must be ELBOTerms, got float"):
        plots.rate_distortion({"a": 1.0})
    with pytest.raises(ValueError, match=r"`terms\['a'\]` must be finite"):
        plots.rate_distortion({"a": terms(math.nan, 1.0)})
    with pytest.raises(ValueError, match="`histories` must hold at least one history, got none"):
        plots.fid_by_epoch({})
    with pytest.raises(ValueError, match=r"`histories\['a'\]` must hold finite values, got \[\]"):
        plots.fid_by_epoch({"a": SimpleNamespace(epochs=[], values=[])})
