"""Pictures hold the numbers that they were given, say what they show, and leave matplotlib's globals alone."""

import pickle
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, data, fit, plots
from pyrovae.data import Observations
from pyrovae.fit import FitResult


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", dtype=torch.float64)


@pytest.fixture(scope="module")
def fits(digits):
    return {
        "mixture": fit.em(GaussianMixture(3, (64,), "diag", floor=3e-2), digits.train, tolerance=1e-2),
        "PPCA": fit.closed_form(PPCA(3, (64,)), digits.train),
        "VAE": fit.svi(VAE(2, (64,), hidden=(16,)), digits.train, valid=digits.valid, num_epochs=3),
    }


def rendered(figure):
    """The figure after it was drawn, without a warning and with no text cut off."""
    figure.savefig(BytesIO(), dpi=50)
    box, inside = figure.get_tightbbox(), figure.bbox_inches
    assert inside.x0 <= box.x0 + 0.02
    assert box.x1 <= inside.x1 + 0.02
    assert inside.y0 <= box.y0 + 0.02
    assert box.y1 <= inside.y1 + 0.02
    return figure


def labelled(figure):
    return all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def everything_written(figure):
    artists = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(artist.get_text() for artist in artists)


# --------------------------------------------------------------------------------------------------------- scoreboard


def row(name, mean, standard_error, kind="exact", seed_means=None, difference=0.0):
    return SimpleNamespace(
        name=name,
        mean=mean,
        standard_error=standard_error,
        kind=kind,
        num_particles=0 if kind == "exact" else 1000,
        estimate=SimpleNamespace(method="exact" if kind == "exact" else "importance"),
        difference=difference,
        difference_standard_error=0.25,
        seed_means=seed_means or (mean,),
    )


@pytest.fixture
def board(digits):
    rows = (
        row("VAE", 61.5, 0.5, "bound", (61.5, 60.0, 62.25)),
        row("GMM", 55.0, 1.0, difference=-6.5),
        row("PPCA", -1316.0, 0.75, difference=-1377.5),
    )
    return SimpleNamespace(rows=rows, data=digits.test)


def bars(axes):
    """Label → (means, rows, half-lengths of the bars) of every kind of point."""
    found = {}
    for container in axes.containers:
        points, _, (lines,) = container.lines
        ends = torch.tensor([[x for x, _ in segment] for segment in lines.get_segments()], dtype=torch.float64)
        found[container.get_label()] = points.get_xdata(), points.get_ydata(), (ends[:, 1] - ends[:, 0]) / 2
    return found


def test_scoreboard_places_means_bars_and_refits(board):
    figure = rendered(plots.scoreboard(board))
    (axes,) = figure.axes
    found = bars(axes)
    bound = next(label for label in found if "lower bound by 1,000 particles" in label)
    x, y, half = found["exact log p(x)"]
    assert (list(x), list(y)) == ([55.0, -1316.0], [1, 2])
    torch.testing.assert_close(half, 1.96 * torch.tensor([1.0, 0.75], dtype=torch.float64))
    x, y, half = found[bound]
    assert (list(x), list(y), half.item()) == ([61.5], [0], pytest.approx(1.96 * 0.5))
    (refits,) = [line for line in axes.lines if line.get_label() == "fits by seed"]
    assert list(refits.get_xdata()) == [61.5, 60.0, 62.25]
    assert all(0 < y < 0.5 for y in refits.get_ydata())


def test_scoreboard_has_the_best_on_top_and_says_what_it_shows(board):
    figure = plots.scoreboard(board)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["VAE", "GMM", "PPCA"]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "held-out log p(x), nats per datum (higher is better)"
    assert figure.get_suptitle() == "digits, (v + u)/17: N = 359 held-out data"
    text = everything_written(figure)
    assert "≥ 61.50 ± 0.50" in text
    assert "\n55.00 ± 1.00" in text
    assert "−1,377.50 ± 0.25" in text


def test_scoreboard_tells_bounds_by_shape_and_fill(board):
    (axes,) = plots.scoreboard(board).axes
    exact, bound = (container.lines[0] for container in axes.containers)
    assert (exact.get_marker(), bound.get_marker()) == ("o", ">")
    assert exact.get_markerfacecolor() != "white"
    assert bound.get_markerfacecolor() == "white"


def test_scoreboard_prints_what_it_cannot_place(board):
    lost = replace_row(board.rows[2], mean=-float("inf"), standard_error=float("nan"), difference=-float("inf"))
    figure = rendered(plots.scoreboard(SimpleNamespace(rows=(*board.rows[:2], lost), data=board.data)))
    assert "−inf ± n/a" in everything_written(figure)


def replace_row(old, **changes):
    return SimpleNamespace(**{**vars(old), **changes})


def test_scoreboard_without_rows(board):
    with pytest.raises(ValueError, match="`board` must hold at least one row"):
        plots.scoreboard(SimpleNamespace(rows=(), data=board.data))


# ---------------------------------------------------------------------------------------------------- training curves


def result(model, method, trace, valid_trace=None, space=data.Space()):  # noqa: B008 - frozen
    return FitResult(
        model=model,
        method=method,
        trace=torch.as_tensor(trace, dtype=torch.float64),
        objective="ELBO" if method == "SVI" else "log p(x)",
        converged=None,
        seconds=0.0,
        kept="",
        space=space,
        valid_trace=None if valid_trace is None else torch.as_tensor(valid_trace, dtype=torch.float64),
        refit=lambda seed: None,
    )


def curves(axes):
    """Label → (x, y) of every line with data of its own; a horizontal line has x = [0, 1]."""
    lines = [line for line in axes.lines if len(line.get_xdata())]
    return {line.get_label().replace("\n", " "): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_curves_have_a_panel_a_family_and_the_numbers_of_the_traces(fits):
    figure = rendered(plots.training_curves(fits))
    assert labelled(figure)
    assert [axes.get_title(loc="left").split()[0] for axes in figure.axes] == ["GaussianMixture", "PPCA", "VAE"]
    mixture, ppca, vae = map(curves, figure.axes)
    em, svi = fits["mixture"], fits["VAE"]
    assert mixture["mixture: log p(x), training"] == (list(range(len(em.trace))), em.trace.tolist())
    (line,) = [y for label, (_, y) in mixture.items() if label.startswith("best end of EM")]
    assert set(line) == {em.trace[-1].item()}
    (line,) = [y for label, (_, y) in ppca.items() if label.startswith("PPCA: global maximum")]
    assert set(line) == {fits["PPCA"].trace[-1].item()}
    assert vae == {
        "VAE: ELBO, training": ([1, 2, 3], svi.trace.tolist()),
        "VAE: ELBO, validation": ([1, 2, 3], svi.valid_trace.tolist()),
    }


def test_closed_form_is_the_line_and_em_ends_below_it(digits, fits):
    em = fit.em(PPCA(3, (64,)), digits.train)
    (axes,) = plots.training_curves({"EM": em, "exact": fits["PPCA"]}).axes
    assert not [label for label in curves(axes) if "best end" in label]
    (line,) = [y for label, (_, y) in curves(axes).items() if "global maximum" in label]
    assert em.trace[-1] <= line[0] + 1e-9


def test_validation_is_dashed(fits):
    (axes,) = plots.training_curves({"VAE": fits["VAE"]}).axes
    curves = [line for line in axes.lines if line.get_linestyle() != "None"]  # and no mark of the epoch that is kept
    assert [line.get_linestyle() for line in curves] == ["-", "--"]


def test_views_of_the_data_get_panels_of_their_own(fits):
    logit = replace(fits["PPCA"], space=replace(fits["PPCA"].space, transform_name="logit"))
    assert len(plots.training_curves({"plain": fits["PPCA"], "logit": logit}).axes) == 2


def test_terrible_first_values_do_not_flatten_the_rest():
    steps = torch.arange(1.0, 401, dtype=torch.float64)
    trace = 90 - 1e6 * torch.exp(-steps)  # 90 to four digits from step 24 on
    figure = rendered(plots.training_curves({"VAE": result(VAE(1, (2,)), "SVI", trace)}))
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low > trace.min()
    assert high > 90
    shown = trace > low
    assert shown[len(trace) // 10 :].all()
    cut = int((~shown).sum())
    assert f"not shown: {cut} values below,\ndown to −367,789.44" in everything_written(figure)


def test_a_late_fall_is_shown_and_a_spike_is_not():
    good = 90 - 5 * torch.exp(-torch.arange(200.0))
    falling = good.clone()
    falling[100:-1] -= torch.linspace(0, 40, 99)
    spiked = good.clone()
    spiked[150] = -1e6
    (axes,) = plots.training_curves({"VAE": result(VAE(1, (2,)), "SVI", spiked, falling)}).axes
    assert -100 < axes.get_ylim()[0] < falling[160]


def test_curves_of_single_values_only_give_lines(fits):
    figure = rendered(plots.training_curves({"a": fits["PPCA"], "b": result(PPCA(1, (2,)), "SVI", [1.0])}))
    lines = {label: y for axes in figure.axes for label, (_, y) in curves(axes).items()}
    assert [label.split(",")[0] for label in lines] == ["a: global maximum", "b: ELBO by SVI"]


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ({}, ValueError, "`results` must hold at least one fit result"),
        ({"a": PPCA(1, (2,))}, TypeError, r"`results\['a'\]` must be a FitResult, got PPCA"),
        ({"a": result(PPCA(1, (2,)), "EM", [])}, ValueError, r"`results\['a'\]` must have traces of finite values"),
        ({"a": result(PPCA(1, (2,)), "EM", [1.0, float("nan")])}, ValueError, "finite values, got .*nan"),
    ],
)
def test_curves_refuse(results, error, message):
    with pytest.raises(error, match=message):
        plots.training_curves(results)


# ------------------------------------------------------------------------------------------------------------ samples


def nearest(x, others):
    """Of every row of x, the distance to the nearest row of the others, and its index."""
    return torch.cdist(x.flatten(1), others, compute_mode="donot_use_mm_for_euclid_dist").min(1)


def images(axes):
    return torch.stack([torch.as_tensor(image.get_array().data) for image in axes.images])


def test_images_are_data_samples_and_means_of_one_z(digits, fits):
    figure = rendered(plots.samples({**fits, "mixture": fits["mixture"].model}, digits.test, seed=4))
    assert [len(axes.images) for axes in figure.axes] == [10] * 7
    assert {image.get_clim() for axes in figure.axes for image in axes.images} == {(0.0, 1.0)}
    assert nearest(images(figure.axes[0]), digits.test.x).values.max() == 0
    for drawn, means, entry in zip(figure.axes[1::2], figure.axes[2::2], fits.values(), strict=True):
        model = entry.model
        x, z = model.sample(10, seed=4)
        e, same_z = model.sample_means(10, seed=4)
        assert torch.equal(z, same_z)
        torch.testing.assert_close(images(drawn).flatten(1), x.clamp(0, 1).double())
        torch.testing.assert_close(images(means).flatten(1), e.clamp(0, 1).double())
        assert drawn.get_ylabel().endswith("x ~ p(x|z)")
        assert means.get_ylabel().endswith("E[x|z], not samples")


def test_clipped_values_are_counted(digits, fits):
    model = fits["PPCA"].model
    text = everything_written(plots.samples({"PPCA": model}, digits.test, num_samples=50))
    x = torch.cat([model.sample(50)[0], model.sample_means(50)[0]])
    share = ((x < -1e-3) | (x > 1.001)).double().mean().item()
    assert f"clipped: PPCA {share:.1%}." in text.replace("\n", " ")


def test_images_come_back_from_a_transformed_space(digits):
    logit = data.load("digits", transform="logit", dtype=torch.float64)
    model = GaussianMixture(1, (64,), "diag")
    seen = fit.closed_form(model, logit.train)
    figure = rendered(plots.samples({"by its fit": seen}, digits.test, num_samples=5))
    same = plots.samples({"by the data": seen.model}, logit.test, num_samples=5)
    for axes, others in zip(figure.axes, same.axes, strict=True):
        torch.testing.assert_close(images(axes), images(others))
    assert nearest(images(same.axes[0]), digits.test.x).values.max() < 1e-6
    assert "clipped" not in everything_written(figure)


def test_binary_and_colour_images():
    binary = data.load("digits", observations="binary", resample=True).train
    figure = rendered(plots.samples({"VAE": VAE(2, (64,), Bernoulli(), hidden=(8,))}, binary, num_samples=2))
    assert set(images(figure.axes[0]).unique().tolist()) == {0.0, 1.0}
    colours = Observations(255 * torch.rand(4, 60, generator=torch.Generator().manual_seed(0)), image_shape=(3, 4, 5))
    figure = rendered(plots.samples({"PPCA": PPCA(1, (60,))}, colours, num_samples=9))
    assert [len(axes.images) for axes in figure.axes] == [4, 9, 9]
    assert images(figure.axes[0]).shape == (4, 4, 5, 3)
    with pytest.raises(ValueError, match="`data` must be images of 1 or 3 channels to be shown, got 2"):
        plots.samples({"PPCA": PPCA(1, (60,))}, replace(colours, image_shape=(2, 5, 6)))


def offsets(collection):
    return torch.as_tensor(collection.get_offsets().data)


def test_tables_are_scattered():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1, 6)
    models = {f"PPCA-{q}": fit.closed_form(PPCA(q, (5,)), x).model for q in (1, 2, 3, 4)}
    figure = rendered(plots.samples(models, x))
    assert labelled(figure)
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == list(models)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    variances = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    for axes in figure.axes:
        real, drawn = map(offsets, axes.collections)
        torch.testing.assert_close(real.var(0, correction=0), variances[:2])
        assert drawn.shape == (200, 2)
        assert f"{variances[0] / variances.sum():.0%} of variance" in axes.get_xlabel()


def test_two_columns_are_shown_as_they_are():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    model = GaussianMixture(1, (2,))
    (axes,) = rendered(plots.samples({"Gaussian": model}, x, seed=1)).axes
    real, drawn = map(offsets, axes.collections)
    torch.testing.assert_close(real, x.double())
    torch.testing.assert_close(drawn, model.sample(50, seed=1)[0])


@pytest.mark.parametrize("num_data", [1, 30])
def test_one_column_is_a_histogram(num_data):
    (axes,) = rendered(plots.samples({"Gaussian": GaussianMixture(1, (1,))}, torch.zeros(num_data, 1))).axes
    assert axes.get_ylabel() == "density"
    bars = axes.containers[0]
    assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------ latents


def points(axes):
    """All points of a panel, and the label of each."""
    labels = [collection.get_label() for collection in axes.collections for _ in collection.get_offsets()]
    return torch.cat([offsets(collection) for collection in axes.collections]), labels


def test_latents_are_posterior_or_encoder_means_in_equal_classes(digits):
    vae = VAE(2, (64,), Gaussian(), hidden=(16,)).double().train()
    ppca = fit.closed_form(PPCA(2, (64,)), digits.train)
    figure = rendered(plots.latents({"VAE": vae, "PPCA": ppca}, digits.test))
    assert vae.training
    assert labelled(figure)
    with torch.no_grad():
        expected = vae.encoder(digits.test.x).mean, ppca.model.posterior(digits.test.x).mean
    fewest = int(digits.test.labels.unique(return_counts=True)[1].min())
    for axes, means, whose in zip(
        figure.axes, expected, ("means of the encoder", "exact posterior means"), strict=True
    ):
        z, labels = points(axes)
        assert all(labels.count(str(digit)) == fewest for digit in range(10))
        distance, index = nearest(z, means)
        assert distance.max() < 1e-9
        assert digits.test.labels[index].tolist() == [int(label) for label in labels]
        assert whose in axes.get_title()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [str(digit) for digit in range(10)]


def test_more_latents_are_shown_on_their_principal_axes(digits, fits):
    data = replace(digits.test, labels=None)
    (axes,) = rendered(plots.latents({"PPCA": fits["PPCA"]}, data)).axes
    z = fits["PPCA"].model.posterior(digits.test.x).mean.detach()
    variances = torch.linalg.eigvalsh(z.T.cov(correction=0)).flip(0)
    torch.testing.assert_close(points(axes)[0].var(0, correction=0), variances[:2])
    for i, label in enumerate((axes.get_xlabel(), axes.get_ylabel())):
        assert label == f"principal axis {i + 1} of E[z|x] ({variances[i] / variances.sum():.0%} of variance)"
    assert not axes.figure.legends


def test_rotated_latents_give_one_picture(digits, fits):
    turned = fits["PPCA"].model.copy()
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    with torch.no_grad():
        turned.weight.copy_(turned.weight @ rotation)
    figure = plots.latents({"as it is": fits["PPCA"].model, "turned": turned}, digits.test)
    before, after = (points(axes)[0] for axes in figure.axes)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-8)


def test_one_latent_lies_in_order_of_class(digits):
    ppca = fit.closed_form(PPCA(1, (64,)), digits.train).model
    (axes,) = rendered(plots.latents({"PPCA": ppca}, digits.test)).axes
    z, labels = points(axes)
    assert [labels[i] for i in z[:, 1].argsort()] == sorted(labels)


def test_discrete_latents_are_left_out_and_named(digits, fits):
    figure = rendered(plots.latents(fits, digits.test))
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["PPCA", "VAE"]
    assert "z is discrete: mixture" in figure.get_suptitle()
    empty = rendered(plots.latents({"mixture": fits["mixture"]}, digits.test))
    assert not empty.axes
    assert "No model has a continuous z" in everything_written(empty)


def test_many_labels_are_not_told_apart(digits, fits):
    everyone = replace(digits.test, labels=torch.arange(len(digits.test)))
    (axes,) = plots.latents({"PPCA": fits["PPCA"]}, everyone).axes
    assert len(axes.collections) == 1
    assert len(points(axes)[0]) == len(digits.test)


def test_at_most_about_a_thousand_points(fits):
    many = Observations(torch.rand(5000, 64), torch.arange(5000) % 10)
    (axes,) = plots.latents({"PPCA": fits["PPCA"].model}, many).axes
    assert len(points(axes)[0]) == 1000


# -------------------------------------------------------------------------------------------------------------- shared


@pytest.mark.parametrize("picture", [plots.samples, plots.latents])
@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ({}, ValueError, "`models` must hold at least one model, got none"),
        ({"a": 3}, TypeError, r"`models\['a'\]` must be a model or a FitResult, got int"),
        ({"a": PPCA(1, (3,))}, ValueError, r"\(64,\).*got \(3,\)|got \(\d+, 64\)"),
    ],
)
def test_refuses(picture, models, error, message, digits):
    with pytest.raises(error, match=message):
        picture(models, digits.test)


@pytest.mark.parametrize("number", [0, 2.5])
def test_samples_refuses_a_number_of_samples(number, digits):
    with pytest.raises(ValueError, match="`num_samples` must be a whole number of at least 1"):
        plots.samples({"a": PPCA(1, (64,))}, digits.test, num_samples=number)


def test_fits_of_another_space_are_refused(digits):
    elsewhere = fit.closed_form(PPCA(1, (64,)), digits.train.x)
    with pytest.raises(ValueError, match="no Jacobian joins the two"):
        plots.latents({"PPCA": elsewhere}, digits.test)


def test_names_are_text_and_never_formulas(digits):
    name = "costs $5_ and $6{, " * 4
    rendered(plots.samples({name: PPCA(1, (64,))}, digits.test, num_samples=1))
    rendered(plots.latents({name: PPCA(2, (64,))}, digits.test))
    rendered(plots.training_curves({name: fit.closed_form(PPCA(1, (64,)), digits.train)}))
    rendered(plots.scoreboard(SimpleNamespace(rows=[row(name, 1.0, 0.1)], data=digits.test)))


def test_figures_show_themselves_in_a_notebook_and_can_be_pickled(board):
    figure = plots.scoreboard(board)
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(pickle.loads(pickle.dumps(figure)).axes) == 1


CODE = """
import io, sys, matplotlib
before = matplotlib.rcParams.copy()  # reading rcParams["backend"] itself would import pyplot
import torch
from pyrovae import PPCA, data, plots
x = data.Observations(torch.rand(5, 4), image_shape=(1, 2, 2))
models = {"PPCA": PPCA(2, (4,))}
for figure in (plots.samples(models, x, num_samples=1), plots.latents(models, x)):
    figure.savefig(io.BytesIO())
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""


def test_pyplot_stays_away_and_settings_as_they_were():
    subprocess.run([sys.executable, "-W", "error", "-c", CODE], check=True)
