"""The scoreboard: every number against numpy on the pointwise values, views brought back, and nothing ranked that has
no common scale."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.distributions import AffineTransform, ComposeTransform, MultivariateNormal, SigmoidTransform

from pyrovae import (
    PPCA,
    VAE,
    Bernoulli,
    CrossEntropyLoss,
    DiscretizedLogistic,
    Gaussian,
    GaussianMixture,
    compare,
    data,
    evaluate,
    fit,
    plots,
)
from pyrovae.data import Observations, Space
from pyrovae.evaluate.likelihood import annealed, estimate as estimators
from pyrovae.models.networks import LinearGaussianEncoder
from pyrovae.scoreboard.comparison import _ranked
from pyrovae.scoreboard.rows import Row

D, N = 3, 20
LEVELS = 4
SPACE = Space("toy, (v + u)/4", "real", levels=LEVELS)


def toy(num_data, seed, **options):
    """Correlated points of the unit cube."""
    z = torch.randn(num_data, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mix = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 0.5]], dtype=torch.float64)
    return Observations((z @ mix).sigmoid(), space=SPACE, **options)


@pytest.fixture(scope="module")
def train():
    return toy(60, 0)


@pytest.fixture(scope="module")
def test():
    return toy(N, 1)


@pytest.fixture(scope="module")
def fits(train):
    vae = VAE(1, (D,), Gaussian("decoder"), hidden=(4,)).double()
    return {
        "VAE": fit.svi(vae, train, num_epochs=2, batch_size=30, lr=1e-2),
        "PPCA": fit.closed_form(PPCA(1, (D,)), train),
        "mixture": fit.em(GaussianMixture(2, (D,), floor=1e-3), train, tolerance=1e-2),
    }


@pytest.fixture(scope="module")
def board(fits, test):
    return compare(fits, test, num_particles=50)


def in_view(data, transform, name):
    return data.transformed(transform, name)


def by_name(board):
    return {row.name: row for row in board.rows}


# ------------------------------------------------------------------------------------------------------------- numbers


def test_the_best_row_comes_first(board):
    means = [row.mean for row in board.rows]
    assert means == sorted(means, reverse=True)


def test_means_and_standard_errors_are_those_of_the_pointwise_values(board):
    for row in board.rows:
        values = row.log_prob.numpy()
        assert values.shape == (N,)
        assert values.dtype == np.float64
        np.testing.assert_allclose(
            [row.mean, row.standard_error], [values.mean(), values.std(ddof=1) / math.sqrt(N)], rtol=1e-12
        )


def test_differences_are_paired_over_data(board):
    best = board.rows[0]
    for row in board.rows:
        paired = (row.log_prob - best.log_prob).numpy()
        expected = [paired.mean(), paired.std(ddof=1) / math.sqrt(N)]
        np.testing.assert_allclose([row.difference, row.difference_standard_error], expected, rtol=1e-12)
    assert best.difference == best.difference_standard_error == 0


def test_pointwise_values_are_the_models_own(board, fits, test):
    rows = by_name(board)
    for name in ("PPCA", "mixture"):
        torch.testing.assert_close(rows[name].log_prob, fits[name].model.score_samples(test), rtol=1e-12, atol=1e-12)
    estimate = evaluate.log_likelihood(fits["VAE"].model, test, 50)
    torch.testing.assert_close(rows["VAE"].log_prob, estimate.values, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "kind", "particles"), [("PPCA", "exact", 0), ("mixture", "exact", 0), ("VAE", "bound", 50)]
)
def test_a_row_says_whether_it_is_exact(board, name, kind, particles):
    assert (by_name(board)[name].kind, by_name(board)[name].num_particles) == (kind, particles)


def test_bits_per_dim_are_those_of_the_integers_behind_the_density(board):
    for row in board.rows:
        np.testing.assert_allclose(row.bits_per_dim, -(row.mean - D * math.log(LEVELS)) / (D * math.log(2)), rtol=1e-12)


def test_binary_data_have_bits_per_dim_too_and_a_table_none():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    row = compare({"VAE": VAE(1, (2,), Bernoulli(), (4,))}, Observations(x, space=Space("bits", "boolean"))).rows[0]
    np.testing.assert_allclose(row.bits_per_dim, -row.mean / (2 * math.log(2)), rtol=1e-6)
    assert compare({"VAE": VAE(1, (2,), hidden=(4,))}, x).rows[0].bits_per_dim is None


@pytest.mark.parametrize(
    ("model", "number"),
    [
        (PPCA(1, (D,)), D + D + 1),
        (GaussianMixture(2, (D,)), 1 + 2 * D + 2 * 6),
        (VAE(1, (D,), hidden=(4,)), (4 + 4) + (4 * D + D) + 1),  # the decoder; the encoder is no part of p(x)
    ],
    ids=["PPCA", "mixture", "VAE"],
)
def test_free_parameters_are_those_of_p_of_x(model, number, test):
    assert compare({"model": model}, test.x.to(next(model.parameters()).dtype)).rows[0].num_free_parameters == number


# -------------------------------------------------------------------------------------------------- views, brought back


def test_a_gaussian_of_standardised_data_is_the_gaussian(train, test):
    """Affine equivariance: with the Jacobian, the maximum likelihood does not depend on units (but for the floor)."""
    scale = torch.tensor([0.1, 3.0, 40.0], dtype=torch.float64)
    view = ComposeTransform([AffineTransform(-train.x.mean(0), 1.0), AffineTransform(0.0, scale)])
    gaussian = GaussianMixture(1, (D,), floor=1e-14)
    rows = by_name(
        compare(
            {
                "as it is": fit.closed_form(gaussian, train),
                "rescaled": fit.closed_form(gaussian, in_view(train, view, "rescaled")),
            },
            test,
        )
    )
    torch.testing.assert_close(rows["rescaled"].log_prob, rows["as it is"].log_prob, rtol=0, atol=1e-8)


def test_a_density_of_logits_is_brought_back_by_their_jacobian(train, test):
    result = fit.closed_form(GaussianMixture(1, (D,)), in_view(train, SigmoidTransform().inv, "logit"))
    row = compare({"logit": result}, test).rows[0]
    y = train.x.logit()
    normal = MultivariateNormal(y.mean(0), torch.cov(y.T, correction=0))
    by_hand = normal.log_prob(test.x.logit()) - (test.x * (1 - test.x)).log().sum(1)
    torch.testing.assert_close(row.log_prob, by_hand, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("which", ["PPCA", "mixture", "VAE"])
def test_it_does_not_matter_in_which_view_the_test_data_come(fits, test, which):
    """The Jacobian of an affine view is one constant, so that a missing or a doubled one would show."""
    there = in_view(test, AffineTransform(1.0, 5.0), "rescaled")
    here, elsewhere = (compare({which: fits[which]}, data, num_particles=20).rows[0] for data in (test, there))
    torch.testing.assert_close(elsewhere.log_prob, here.log_prob, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose([elsewhere.reconstruction, elsewhere.kl], [here.reconstruction, here.kl], rtol=1e-8)


def test_three_views_stand_on_one_scoreboard(train, test):
    def mixture(data):
        return fit.em(GaussianMixture(2, (D,), floor=1e-3), data, tolerance=1e-2)

    views = {
        "as it is": train,
        "logit": in_view(train, SigmoidTransform().inv, "logit"),
        "standardised": in_view(train, AffineTransform(-5.0, 10.0), "standardised"),
    }
    board = compare({name: mixture(data) for name, data in views.items()}, test)
    assert {row.name for row in board.rows} == set(views)
    spread = max(row.mean for row in board.rows) - min(row.mean for row in board.rows)
    assert spread < 1.5  # a forgotten Jacobian is D log 10 = 6.9 nats off


# ------------------------------------------------------------------------------------------------------ the two terms


def test_of_the_exact_posterior_the_terms_add_up_to_the_likelihood(board):
    for name in ("PPCA", "mixture"):
        row = by_name(board)[name]
        np.testing.assert_allclose(row.reconstruction - row.kl, row.mean, rtol=0, atol=1e-10)


def test_of_a_learned_guide_they_stay_below_it(train, test):
    """An ELBO estimated from S particles is below log p(x) but for its noise: here by far more than five of them."""
    ppca = PPCA(1, (D,), floor=1e-3, encoder=LinearGaussianEncoder(D, 1, torch.float64))
    result = fit.svi(ppca, train, num_epochs=1, lr=1e-4)
    row = compare({"PPCA": result}, test).rows[0]
    terms = evaluate.elbo_terms(result.model, test, 100)
    np.testing.assert_allclose(row.reconstruction - row.kl, terms.elbo.mean().item(), rtol=1e-10)
    log_weights = evaluate.log_weights(result.model, test, 100)
    noise = (log_weights.var(0) / 100).sum().sqrt().item() / N
    assert row.reconstruction - row.kl <= row.mean + 5 * noise


def test_of_a_vae_they_stay_below_its_bound(board):
    """Same seed, same guide: the mean of more weights than a few is below their log-mean-exp by Jensen."""
    row = by_name(board)["VAE"]
    assert row.reconstruction - row.kl <= row.mean


# --------------------------------------------------------------------------------------------------------------- seeds


def test_with_two_seeds_every_fit_is_made_twice(fits, test):
    rows = by_name(compare(fits, test, num_particles=10, seeds=2))
    assert [len(row.seed_means) for row in rows.values()] == [2, 2, 2]
    assert all(row.seed_means[0] == row.mean for row in rows.values())
    assert rows["PPCA"].seed_spread == 0
    assert rows["VAE"].seed_spread == pytest.approx(np.std(rows["VAE"].seed_means, ddof=1), rel=1e-12)
    assert rows["VAE"].seed_spread > 0


def test_a_model_without_its_fit_cannot_be_refitted(fits, test):
    row = compare({"PPCA": fits["PPCA"].model}, test, seeds=2).rows[0]
    assert (row.seed_means, row.seed_spread) == ((row.mean,), None)


def test_the_same_seed_gives_the_same_scoreboard(fits, test):
    first, again = (compare(fits, test, num_particles=10, seed=3) for _ in range(2))
    assert all((a.log_prob == b.log_prob).all() for a, b in zip(first.rows, again.rows, strict=True))


# ------------------------------------------------------------------------------------------------------ flat and images


def test_models_of_images_and_of_vectors_stand_on_one_board(tmp_path):
    """The same numbers in another order of axes, so the same density."""
    digits = data.load("digits")
    flat, image = VAE(2, (64,), hidden=(4,)), VAE(2, (1, 8, 8), hidden=(4,))
    image.load_state_dict(flat.state_dict())
    conv = fit.svi(VAE(2, (1, 8, 8), hidden=(4,), network="conv"), digits.train[:200], num_epochs=1)
    models = {"flat": flat, "image": image, "conv": conv, "PPCA": fit.closed_form(PPCA(2, (64,)), digits.train)}
    held_out = digits.test[:20]
    board = compare(models, held_out, num_particles=5)
    rows = by_name(board)
    torch.testing.assert_close(rows["flat"].log_prob, rows["image"].log_prob)
    as_images = by_name(compare({"PPCA": models["PPCA"], "conv": conv}, held_out.images(), num_particles=5))
    for name in ("PPCA", "conv"):
        torch.testing.assert_close(as_images[name].log_prob, rows[name].log_prob)
    board.save(tmp_path / "board")
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, 1, 8, 8\), got \(20, 64\); flatten or reshape"):
        evaluate.log_weights(image, held_out.x, 1)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_fit_of_another_space_is_refused(fits, test):
    other = Observations(test.x, space=Space("toy, grey", "real"))
    with pytest.raises(ValueError, match=r"`models\['VAE'\]` was fitted on 'toy, \(v \+ u\)/4'.*no Jacobian"):
        compare(fits, other)


def test_a_fit_on_observations_is_refused_on_a_bare_tensor(fits, test):
    """Nobody has said that the tensor is of the same space."""
    with pytest.raises(ValueError, match=r"the data are 'the values as given' \(support not stated\).*Observations"):
        compare({"PPCA": fits["PPCA"]}, test.x)


def test_a_mass_is_refused_on_continuous_data(test):
    with pytest.raises(ValueError, match=r"`models\['VAE'\]` is a mass on \{0, 1\}, and the data are real"):
        compare({"VAE": VAE(1, (D,), Bernoulli(), (4,))}, test)


def test_a_density_is_refused_on_binary_data():
    bits = Observations(torch.ones(4, D), space=Space("bits", "boolean"))
    with pytest.raises(ValueError, match=r"`models\['mixture'\]` is a density on the real numbers, and .* boolean"):
        compare({"mixture": GaussianMixture(2, (D,))}, bits)


def test_a_mass_beside_a_density_is_refused_even_where_the_data_do_not_say():
    models = {"VAE": VAE(1, (D,), Bernoulli(), (4,)), "PPCA": PPCA(1, (D,))}
    with pytest.raises(ValueError, match=r"`models` must be of one support, got a mass .* beside a density"):
        compare(models, torch.ones(4, D))


@pytest.mark.parametrize("other", [PPCA(1, (D,)), VAE(1, (D,), Bernoulli(), (4,))], ids=["density", "bits"])
def test_a_mass_on_integers_is_ranked_with_nothing_else(other, test):
    integers = VAE(1, (D,), DiscretizedLogistic(2), (4,))
    with pytest.raises(
        ValueError, match=r"`models` must be of one support, got a mass .* beside a (density|mass on int)"
    ):
        compare({"integers": integers, "other": other}, torch.ones(4, D))
    with pytest.raises(ValueError, match=r"`models\['integers'\]` is a mass on integers, and the data are real"):
        compare({"integers": integers}, test)
    levels = Observations(torch.ones(4, D), space=Space("v as v/1", "integer"))
    with pytest.raises(ValueError, match=r"`models\['other'\]` is a .*, and the data are integer"):
        compare({"other": other}, levels)
    row = compare({"integers": integers}, levels, num_particles=5).rows[0]
    np.testing.assert_allclose(row.bits_per_dim, -row.mean / (D * math.log(2)), rtol=1e-12)


def test_a_loss_that_is_no_density_is_refused(test):
    """Whatever the data: grey ones, on which it is no density, or none that it was fitted to."""
    model = VAE(1, (D,), CrossEntropyLoss(), (4,))
    for entry in (model, fit.svi(model, test, num_epochs=1)):
        with pytest.raises(
            ValueError, match=r"`models\['loss'\]` was trained by a loss that is no density and no mass"
        ):
            compare({"PPCA": PPCA(1, (D,)), "loss": entry}, test)
    with pytest.raises(ValueError, match=r"`model` must have a likelihood that is a density or a mass, got a VAE trai"):
        evaluate.log_likelihood(model, test)
    assert evaluate.elbo_terms(model, test, 5).elbo.isfinite().all()


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ({}, {}, ValueError, "`models` must hold at least one model"),
        ([PPCA(1, (D,))], {}, TypeError, "`models` must be a mapping .* got list"),
        ({"a": "PPCA"}, {}, TypeError, r"`models\['a'\]` must be a FitResult or a model, got str"),
        ({"a": PPCA(1, (D,))}, {"seeds": 0}, ValueError, "`seeds` must be a whole number of at least 1, got 0"),
        ({"a": VAE(1, (D,))}, {"num_particles": 0}, ValueError, "`num_particles` must be .* at least 1, got 0"),
        ({"a": PPCA(1, (D + 1,))}, {}, ValueError, r"must have shape \(N, 4\), got \(20, 3\)"),
    ],
    ids=["none", "list", "string", "seeds", "particles", "shape"],
)
def test_what_cannot_be_compared_is_refused(models, options, error, message, test):
    with pytest.raises(error, match=message):
        compare(models, test, **options)


# ----------------------------------------------------------------------------------------------------------- the table


def test_the_table_names_rows_kinds_and_the_space(board):
    text = str(board)
    assert all(word in text for word in ("VAE", "PPCA", "mixture", "exact", "bound", SPACE.reference, "nats"))


def test_the_columns_of_the_table_line_up(board):
    header, rule, *rows = str(board).splitlines()[: 2 + len(board.rows)]
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}
    assert [line.split("  ")[0] for line in rows] == [row.name for row in board.rows]


def test_columns_without_a_value_are_left_out(fits, board, test):
    header = str(board).splitlines()[0]
    assert "bits/dim" in header
    assert "± seeds" not in header
    alone = str(compare({"PPCA": fits["PPCA"].model}, test[:5], seeds=2)).splitlines()[0]
    assert "fit s" not in alone
    assert "± seeds" in str(compare({"PPCA": fits["PPCA"]}, test, seeds=2)).splitlines()[0]


def test_a_bound_by_a_handful_of_particles_speaks_of_no_tail(fits, test):
    assert "Pareto" in str(compare(fits, test, num_particles=50))
    assert "Pareto" not in str(compare(fits, test, num_particles=5))


def test_to_dataframe_has_a_column_for_every_number(board):
    table = board.to_dataframe()
    assert list(table.index) == [row.name for row in board.rows]
    pointwise = {"name", "entry", "log_prob", "estimate", "degeneracy", "seed_means"}
    derived = {"seed_spread", "meaning", "monte_carlo_standard_error", "data_standard_error", "floor"}
    derived |= {"doubt", "told_apart"}
    floors = {"share_of_dimensions_at_floor", "share_of_data_at_floor", "ceiling_of_floor"}
    floors |= {"score_under_higher_floor", "change_under_higher_floor"}
    assert set(table.columns) == {field.name for field in fields(Row)} - pointwise | derived | floors
    assert table["mean"].tolist() == [row.mean for row in board.rows]


def test_the_error_of_a_bound_is_split_into_what_particles_and_what_data_change(fits, test, monkeypatch):
    monkeypatch.setattr(estimators, "pareto_k", lambda log_w: torch.zeros(log_w.shape[1]))  # whatever the guide is
    board = compare(fits, test, num_particles=50)
    row = by_name(board)["VAE"]
    estimate = evaluate.log_likelihood(fits["VAE"].model, test, 50)
    assert row.monte_carlo_standard_error == pytest.approx(estimate.monte_carlo_standard_error)
    whole = math.hypot(row.monte_carlo_standard_error, row.data_standard_error)
    assert whole == pytest.approx(row.standard_error)
    assert by_name(board)["PPCA"].monte_carlo_standard_error == 0
    header, _, *lines = str(board).splitlines()
    assert "of it MC" in header
    assert "of it MC" not in str(compare({"PPCA": fits["PPCA"]}, test))
    assert any(f"{row.monte_carlo_standard_error:.2f}" in line for line in lines if line.startswith("VAE"))


def test_one_sentence_says_what_each_figure_is(board):
    rows = by_name(board)
    assert rows["PPCA"].meaning == "log p(x), exact."
    assert rows["VAE"].meaning == "A lower bound of log p(x) in expectation, by 50 importance weights a datum."
    assert board.to_dataframe()["meaning"]["VAE"] == rows["VAE"].meaning


def test_annealing_bounds_what_is_not_exact(fits, test, monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 1)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 1)
    options = evaluate.AISOptions(num_chains=3, num_temperatures=5)
    found = compare(fits, test[:4], method="ais", num_particles=5, seed=2, ais=options)
    expected = evaluate.ais(fits["VAE"].model, test[:4], options, seed=2)
    rows = by_name(found)
    torch.testing.assert_close(rows["VAE"].log_prob, expected.values.double(), rtol=0, atol=0)
    assert (rows["VAE"].kind, rows["VAE"].num_particles, rows["PPCA"].kind) == ("bound", 3, "exact")
    assert "bound, AIS" in str(found)
    assert "by 3 annealed chains of 5 temperatures a datum" in str(found)
    assert "Pareto" not in str(found)
    legend = plots.scoreboard(found).legends[0].get_texts()
    assert any("lower bound by 3 annealed chains" in text.get_text() for text in legend)


def test_the_worst_data_are_those_with_the_highest_k_hat(board):
    rows = by_name(board)
    k_hat = rows["VAE"].estimate.k_hat.numpy()
    assert rows["VAE"].worst(7) == np.argsort(-k_hat, kind="stable")[:7].tolist()
    assert rows["PPCA"].worst() == []


def test_a_score_that_its_floor_has_made_is_flagged(fits, test):
    x = torch.cat([test.x, test.x[:1]])
    collapsed = GaussianMixture.from_parameters(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.stack([x[0], x.mean(0)]),
        torch.tensor([[1e-5] * D, [1.0] * D], dtype=torch.float64),
        "diag",
        floor=1e-5,
    )
    found = compare({"collapsed": collapsed, "PPCA": fits["PPCA"]}, Observations(x, space=SPACE))
    row = by_name(found)["collapsed"]
    share = 2 / (N + 1)  # the first datum comes twice
    assert row.at_floor.share_of_data == row.at_floor.share_of_dimensions == pytest.approx(share)
    assert by_name(found)["PPCA"].at_floor is None
    header, _, *lines = str(found).splitlines()
    assert "at floor" in header
    assert f" {share:.0%} " in next(line for line in lines if line.startswith("collapsed"))
    assert (
        f"with 0.0001 the score changes by {row.degeneracy.change:+.2f}; ceiling {row.degeneracy.ceiling:.2f}."
        in str(found)
    )
    assert "at floor" not in str(compare({"PPCA": fits["PPCA"]}, test))
    assert found.to_dataframe()["change_under_higher_floor"]["collapsed"] == row.degeneracy.change


def test_a_fit_that_em_found_degenerate_is_told_of(fits, test):
    lines = tuple(f"component {k} has the mass of 1.2 data" for k in range(5))
    notes = compare({"mixture": replace(fits["mixture"], degeneracies=lines)}, test).notes()
    assert f"mixture is a degenerate fit: {'; '.join(lines[:3])}, and more." in notes
    assert not any("degenerate" in note for note in compare(fits, test, num_particles=5).notes())


def test_the_ceiling_of_a_floor_is_brought_to_the_reference_space(train, test):
    view = train.transformed(SigmoidTransform().inv, "logit")
    result = fit.closed_form(PPCA(1, (D,), floor=1e-3), view)
    report = compare({"PPCA": result}, test).rows[0].degeneracy
    seen = test.in_space(result.space)
    expected = -D / 2 * math.log(2 * math.pi * 1e-3) + seen.log_abs_det.mean().item()
    assert report.ceiling == pytest.approx(expected)
    assert report.score == pytest.approx(compare({"PPCA": result}, test).rows[0].mean)


def test_models_come_best_first(board, fits):
    assert list(board.models) == [row.name for row in board.rows]
    assert board.models["PPCA"] is fits["PPCA"].model


def test_bare_models_on_a_bare_tensor_are_compared(fits, test):
    rows = by_name(compare({name: result.model for name, result in fits.items()}, test.x, num_particles=50))
    torch.testing.assert_close(rows["PPCA"].log_prob, fits["PPCA"].model.score_samples(test), rtol=1e-12, atol=1e-12)
    assert rows["PPCA"].method == ""
    assert rows["PPCA"].seconds is None


# --------------------------------------------------------------------------------------------------------------- ranks


def test_rows_that_differ_by_rounding_stay_in_the_order_given(board):
    first, *_ = board.rows

    def at(name, mean):
        return replace(first, name=name, mean=mean)

    rows = [at("a", 1.0), at("b", 2.0 - 1e-12), at("lost", math.nan), at("c", 2.0), at("d", 2.0 + 1e-12)]
    rows += [at("zero", -math.inf), at("e", 2.0 + 1e-6)]
    assert [row.name for row in _ranked(rows)] == ["e", "b", "c", "d", "a", "zero", "lost"]


def test_a_row_knows_the_fit_that_it_is_of(board, fits):
    for row in board.rows:
        assert row.entry is fits[row.name]
        assert row.model is fits[row.name].model


def test_an_earlier_keyword_names_its_new_place():
    with pytest.raises(TypeError, match=r"`num_chains` of compare\(\) is now a field of AISOptions: pass ais="):
        compare({"PPCA": PPCA(1, (3,))}, torch.zeros(4, 3), num_chains=2)
