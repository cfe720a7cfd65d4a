"""What a row knows of its own limits: seeds, bounds below an ELBO, differences that decide, and missing values."""

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, ttest_1samp
from torch import nn
from torch.distributions import AffineTransform

from pyrovae import (
    PPCA,
    VAE,
    AISOptions,
    Bernoulli,
    BernoulliMixture,
    FactorAnalysis,
    Gaussian,
    GaussianMixture,
    compare,
    evaluate,
    fit,
    plots,
)
from pyrovae.data import Observations, Space
from pyrovae.evaluate.likelihood import annealed
from pyrovae.fit.result import Refit
from pyrovae.scoreboard.evaluation import evaluate_model
from pyrovae.scoreboard.report import to_html

D, N, LEVELS = 4, 60, 16
SPACE = Space("toy, (v + u)/16", "real", levels=LEVELS)


def correlated(num_data, seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(D, dtype=torch.float64) + 0.6 * torch.randn(D, D, generator=generator, dtype=torch.float64)
    return torch.randn(num_data, D, generator=generator, dtype=torch.float64) @ mix


@pytest.fixture(scope="module")
def train():
    return Observations(correlated(N, 0), space=SPACE)


@pytest.fixture(scope="module")
def incomplete():
    """A fifth of the values are missing, completely at random; the first datum is whole, the second all but gone."""
    x = correlated(N, 1)
    missing = torch.rand(N, D, generator=torch.Generator().manual_seed(2)) < 0.2
    missing[0], missing[1] = False, torch.tensor([False, True, True, True])
    return Observations(x.masked_fill(missing, math.nan), space=SPACE)


def by_name(board):
    return {row.name: row for row in board.rows}


# --------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("used", [0, 1, 3])
@pytest.mark.parametrize("seed", [0, 2])
def test_refits_use_seeds_that_the_fit_did_not(used, seed, train):
    seeds = []

    def function(seed, **others):
        seeds.append(seed)
        return result

    result = fit.closed_form(PPCA(1, (D,)), train)
    entry = replace(result, refit=Refit(function, {"seed": used}))
    row = compare({"PPCA": entry}, train, seeds=4, seed=seed).rows[0]
    assert len(row.seed_means) == 4
    assert len({used, *seeds}) == 4


def test_a_fit_by_seed_one_is_not_fitted_by_seed_one_again(train):
    """Which gave a spread of zero over two equal fits; a network's start alone moves its bound."""
    vae = VAE(1, (D,), hidden=(4,)).double()
    result = fit.svi(vae, train, num_epochs=1, batch_size=30, lr=1e-2, seed=1)
    assert compare({"VAE": result}, train, num_particles=10, seeds=2).rows[0].seed_spread > 0


def test_a_fit_that_does_not_tell_its_seed_is_taken_to_have_that_of_the_scoreboard(train):
    result, seeds = fit.closed_form(PPCA(1, (D,)), train), []

    def refit(seed):
        seeds.append(seed)
        return result

    compare({"PPCA": replace(result, refit=refit)}, train, seeds=3, seed=5)
    assert seeds == [6, 7]


# ------------------------------------------------------------------------------------------------- bounds below an ELBO


@pytest.fixture
def short_pilot(monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 1)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 1)


def near_its_posterior(train):
    """A VAE whose decoder uses z little, and a q that knows it, so that the ELBO is nearly log p(x)."""
    return fit.svi(VAE(2, (D,), Gaussian("shared"), hidden=(8,)).double(), train, num_epochs=30, lr=1e-2)


@pytest.mark.parametrize("num_data", [1, 3, 40])
def test_an_annealed_bound_below_its_own_elbo_is_said_to_be(num_data, train, short_pilot):
    """A decoder so sharp that two temperatures from the prior never reach the posterior."""
    vae = VAE(2, (D,), Gaussian(0.1), hidden=(8,)).double()
    held_out = train[:num_data]
    options = AISOptions(num_chains=4, num_temperatures=2, num_leapfrog=1)
    found = fit.svi(vae, train, num_epochs=60, batch_size=20, lr=1e-2)
    board = compare({"VAE": found}, held_out, method="ais", ais=options)
    (row,) = board.rows
    short = evaluate.elbo(found.model, held_out, 100).mean().item() - row.mean
    assert short > 3
    assert row.short_by == pytest.approx(short, rel=0.1)
    below = f"VAE: The bound lies {row.short_by:,.3f} nats below the ELBO, which is a lower bound too"
    said = f"{below}; take more temperatures."
    assert said in board.notes()
    assert said in str(board)
    assert said in to_html(board, {})
    evaluation = evaluate_model("VAE", found.model, held_out, train, method="ais", ais=options)
    assert any(sentence.endswith("take more temperatures.") for sentence in evaluation.sentences)


def test_a_bound_above_its_elbo_is_left_in_peace(train, short_pilot):
    """By importance weights, with one particle too; and where q is nearly the posterior, so that chance decides."""
    result = near_its_posterior(train)
    for num_particles in (1, 50):
        assert compare({"VAE": result}, train, num_particles=num_particles).rows[0].short_by == 0
    blind = VAE(1, (D,), Gaussian(1.0), hidden=(4,)).double()
    for parameter in (*blind.decoder.parameters(), *blind.encoder.parameters()):
        nn.init.zeros_(parameter)
    nn.init.constant_(blind.encoder.raw_scale.bias, 0.55)  # q is the prior but for its scale, and x independent of z
    board = compare({"blind": blind}, train, num_particles=50)
    assert board.rows[0].short_by == 0
    assert not any("below the ELBO" in note for note in board.notes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_lies_below_an_elbo_by_rounding_is_no_less(dtype, train):
    """Where q is the prior and x independent of z, every weight is p(x), but for its last digits."""
    collapsed = VAE(2, (D,), Gaussian(0.01), hidden=(4,)).to(dtype)
    for parameter in collapsed.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(collapsed.encoder.raw_scale.bias, math.log(math.expm1(1)))  # σ = 1
    held_out = replace(train, x=train.x.to(dtype))
    row = compare({"collapsed": collapsed}, held_out, num_particles=100).rows[0]
    assert row.mean < -1000
    assert row.reconstruction - row.kl == pytest.approx(row.mean, rel=1e-5)
    assert row.short_by == 0


# ---------------------------------------------------------------------------------------------- differences that decide


def boards_of_two(train, shifts):
    """PPCA, and the same with its values shifted by so much for each datum."""
    board = compare({"PPCA": PPCA(1, (D,)), "other": PPCA(1, (D,))}, train[: len(shifts)])
    best, other = board.rows
    shifted = other.log_prob + shifts
    return best, replace(other, log_prob=shifted, mean=shifted.mean().item()).beside(best)


@pytest.mark.parametrize("num_data", [2, 5, 50])
def test_a_difference_decides_where_the_paired_t_test_does(num_data, train):
    """At 5%; with 1.96 standard errors in its place, two data would decide in three cases of ten by chance."""
    decided = []
    for _ in range(40):
        shifts = torch.randn(num_data, dtype=torch.float64) - 0.7
        _, other = boards_of_two(train, shifts)
        p = ttest_1samp(shifts.numpy(), 0.0).pvalue
        decided.append(other.told_apart)
        assert other.told_apart == (p < 0.05)
    assert num_data < 50 or all(decided)


def test_equal_models_are_not_told_apart_and_an_impossible_one_is(train):
    for shifts in (torch.zeros(9), torch.full((9,), 1e-13), torch.tensor([-1.0])):
        assert not boards_of_two(train, shifts.double())[1].told_apart
    impossible = torch.zeros(9, dtype=torch.float64)
    impossible[3] = -math.inf
    assert boards_of_two(train, impossible)[1].told_apart


def test_one_sentence_says_what_the_differences_decide(train):
    near, far = PPCA(1, (D,)), PPCA(1, (D,))
    with torch.no_grad():
        near.model.mean.add_(1e-4)
        far.model.mean.add_(20)
    models = {"PPCA": PPCA(1, (D,)), "near": near, "far": far}
    board = compare(models, train)
    best, second, last = board.rows
    assert last.name == "far"
    assert f"Δ, paired over data (t test, 5%): not told apart from the best: {second.name}." in board.notes()
    assert board.to_dataframe()["told_apart"].tolist() == [False, False, True]
    apart = compare({best.name: models[best.name], "far": far}, train).notes()
    assert any("each other row is below the best by more than chance over these data explains" in n for n in apart)
    assert not any("Δ, paired" in note for note in compare({"PPCA": near}, train).notes())
    assert not any(note.startswith("N = ") for note in board.notes())


def test_a_bound_below_the_best_may_be_higher(train):
    poor = VAE(1, (D,), Gaussian(0.2), hidden=(4,)).double()
    board = compare({"PPCA": fit.closed_form(PPCA(1, (D,)), train), "poor": poor}, train, num_particles=20)
    assert "Bounds below the best, whose log p(x) may be higher: poor." in board.notes()
    assert not any("may be higher" in note for note in compare({"poor": poor}, train, num_particles=20).notes())


@pytest.mark.parametrize("num_data", [1, 2, 29])
def test_a_tiny_test_set_is_called_one(num_data, train):
    """In the table, the report, one model's evaluation, the picture and JSON, which has no NaN."""
    models = {"PPCA": PPCA(1, (D,)), "mixture": GaussianMixture(2, (D,))}
    board = compare(models, train[:num_data])
    said = (
        f"N = {num_data}: from so few data, standard errors are rough at best, and the order of models may be chance."
    )
    assert said in board.notes()
    assert said in to_html(board, {})
    found = evaluate_model("PPCA", models["PPCA"], train[:num_data], train, gaps="diag")
    assert said in found.sentences
    texts = [str(board), to_html(board, {}), json.dumps(found.to_plain(), allow_nan=False)]
    texts += [text.get_text() for text in plots.scoreboard(board).findobj(lambda artist: hasattr(artist, "get_text"))]
    assert not any("nan" in text.lower().replace("nanm", "") for text in texts)


# ------------------------------------------------------------------------------------------- errors that are not known


def test_no_monte_carlo_error_stands_on_any_page(train, tmp_path):
    """Table, report, JSON, CSV and one model's evaluation of a VAE whose q is the prior and whose decoder is sharp."""
    torch.manual_seed(0)
    vae = VAE(2, (D,), Gaussian(0.05), hidden=(8,)).double()
    nn.init.normal_(vae.decoder.body[0].weight)
    board = compare({"VAE": vae}, train, num_particles=100)
    (row,) = board.rows
    assert row.estimate.mark == "k̂"
    reason = "k̂ in place of a Monte-Carlo error, for VAE: weights whose k̂ is over its threshold do not show how far off"
    header, _, line, *_ = str(board).splitlines()
    assert line[: header.index("of it MC") + len("of it MC")].endswith(" k̂")
    assert any(note.startswith(reason) for note in board.notes())
    page = to_html(board, {})
    assert "<td>k̂</td><td>k̂</td>" in page
    record = board.to_dataframe().loc["VAE"]
    assert math.isnan(record["monte_carlo_standard_error"])
    assert math.isnan(record["data_standard_error"])
    assert record["doubt"] == row.estimate.doubt
    found = evaluate_model("VAE", vae, train, train, num_particles=100)
    plain = json.loads(json.dumps(found.to_plain(), allow_nan=False))
    assert plain["values"]["monte_carlo_standard_error"] is None
    assert plain["doubt"] == row.doubt
    assert row.doubt in found.sentences
    shown = {figure.name: figure.text(4) for figure in found.figures}
    assert shown["monte_carlo_standard_error"] == shown["data_standard_error"] == "k̂"


@pytest.mark.parametrize(
    "options", [{"num_particles": 10}, {"method": "ais", "ais": AISOptions(16, 20, num_leapfrog=2)}]
)
def test_a_k_hat_that_is_not_available_is_called_so(options, train, short_pilot):
    vae = VAE(1, (D,), Gaussian(1.0), hidden=(4,)).double()
    board = compare({"VAE": vae}, train, **options)
    (row,) = board.rows
    assert math.isnan(row.k_hat_share)
    assert not row.has_tail
    assert "k̂ is not available for VAE." in board.notes()
    assert "0% of the data under" not in str(board)
    found = evaluate_model("VAE", vae, train, train, **options)
    assert {figure.name: figure.text(4) for figure in found.figures}["k_hat_share"] == "not available"
    assert found.to_plain()["values"]["k_hat_share"] is None


# ------------------------------------------------------------------------------------------------------ missing values


def of_observed(x, mean, covariance):
    """log-density of the observed entries of every datum, by scipy."""
    values = []
    for row in x.numpy():
        seen = ~np.isnan(row)
        values.append(multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen]))
    return np.array(values)


def test_models_that_take_missing_values_are_compared_on_the_observed_ones(train, incomplete):
    ppca = fit.closed_form(PPCA(1, (D,)), train).model
    weight, noise = ppca.weight.detach(), ppca.noise_variance.detach()
    models = {"PPCA": PPCA(1, (D,), missing="nan"), "diag": GaussianMixture(1, (D,), "diag", missing="nan")}
    models["PPCA"].load_state_dict(ppca.state_dict())
    with torch.no_grad():
        models["diag"].model.means.copy_(ppca.mean)
    board = compare(models, incomplete)
    dense = (weight @ weight.T + noise * torch.eye(D, dtype=torch.float64)).numpy()
    expected = {
        "PPCA": of_observed(incomplete.x, ppca.mean.detach().numpy(), dense),
        "diag": of_observed(incomplete.x, ppca.mean.detach().numpy(), np.diag(models["diag"].covariances[0].detach())),
    }
    rows = by_name(board)
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name].log_prob, values, rtol=1e-9)
        np.testing.assert_allclose(rows[name].reconstruction - rows[name].kl, values.mean(), rtol=1e-9)
    worse = board.rows[1]
    paired = expected[worse.name] - expected[board.rows[0].name]
    assert worse.difference == pytest.approx(paired.mean())
    assert worse.difference_standard_error == pytest.approx(paired.std(ddof=1) / math.sqrt(N))
    share = incomplete.x.isnan().double().mean().item()
    assert f"{share:.1%} of the values are missing: log p(x) and bits are of the observed ones" in str(board)


def test_bits_are_counted_over_observed_dimensions(incomplete):
    """Of the mean over all observed values together; and of each datum, where they are asked for one by one."""
    row = compare({"PPCA": PPCA(1, (D,), missing="nan")}, incomplete).rows[0]
    observed = (~incomplete.x.isnan()).sum(1).double()
    bits = (-row.log_prob + observed * math.log(LEVELS)).sum() / (observed.sum() * math.log(2))
    assert row.bits_per_dim == pytest.approx(bits.item(), rel=1e-12)
    one_by_one = incomplete.bits_per_dim(row.log_prob)
    expected = (-row.log_prob + observed * math.log(LEVELS)) / (observed * math.log(2))
    torch.testing.assert_close(one_by_one, expected)
    assert (one_by_one * observed).sum() / observed.sum() == pytest.approx(row.bits_per_dim)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "PPCA", "FA"])
def test_every_model_that_takes_them_has_a_row(kind, incomplete):
    """With a floor that it may lie at, and a view of its own, whose Jacobian counts for the observed values alone."""
    models = {
        "PPCA": lambda: PPCA(1, (D,), floor=1e-3, missing="nan"),
        "FA": lambda: FactorAnalysis(1, (D,), floor=1e-3, missing="nan"),
    }
    model = models.get(kind, lambda: GaussianMixture(2, (D,), kind, floor=1e-3, missing="nan"))()
    view = incomplete.transformed(AffineTransform(1.0, 5.0), "rescaled")
    result = fit.em(model, view, max_iterations=30, tolerance=1.0)
    row = compare({kind: result}, incomplete).rows[0]
    seen = (~incomplete.x.isnan()).sum(1).double()
    expected = result.model.log_prob(view).detach() + seen * math.log(5.0)
    torch.testing.assert_close(row.log_prob, expected)
    ceiling = (seen * (math.log(5.0) - 0.5 * math.log(2 * math.pi * 1e-3))).mean().item()
    assert row.degeneracy.ceiling == pytest.approx(ceiling)


def test_bits_of_a_mixture_of_bernoullis_with_missing_values():
    x = torch.tensor([[0.0, 1.0, math.nan], [1.0, 1.0, 0.0], [math.nan, 0.0, math.nan]], dtype=torch.float64)
    mixture = BernoulliMixture(1, (3,), missing="nan")
    with torch.no_grad():
        for parameter in mixture.model.parameters():
            parameter.zero_()
    values = mixture.log_prob(x)
    row = compare({"mixture": mixture}, Observations(x, space=Space("bits", "boolean"))).rows[0]
    assert row.bits_per_dim == pytest.approx(-values.sum().item() / (6 * math.log(2)))


def test_a_model_fitted_by_svi_stands_beside_them(train, incomplete):
    """Its guide takes complete data alone, so that of incomplete ones the exact posterior is told of."""
    result = fit.svi(PPCA(1, (D,), missing="nan"), train, num_epochs=2)
    row = compare({"PPCA": result}, incomplete).rows[0]
    assert row.reconstruction - row.kl == pytest.approx(row.mean)


def test_what_takes_no_missing_values_is_named(train, incomplete):
    takes = GaussianMixture(2, (D,), missing="nan")
    for other in (VAE(1, (D,), hidden=(4,)).double(), PPCA(1, (D,))):
        with pytest.raises(
            ValueError, match=r"`models\['other'\]` takes no missing values, and \d+ of the 60 data have"
        ):
            compare({"mixture": takes, "other": other}, incomplete)
        assert len(compare({"mixture": takes, "other": other}, train, num_particles=5).rows) == 2
        with pytest.raises(ValueError, match=r"`data` must be finite, got NaN or infinity in \d+ of 60 data"):
            compare({"other": other}, incomplete)
    infinite = Observations(incomplete.x.clone().index_fill_(1, torch.tensor([0]), math.inf), space=SPACE)
    with pytest.raises(ValueError, match="`data` must be finite, got infinity in 60 of 60 data"):
        compare({"mixture": takes}, infinite)


@pytest.mark.parametrize("whole", [True, False], ids=["some complete", "none complete"])
def test_a_folder_is_written_of_incomplete_data(whole, incomplete):
    held_out = incomplete if whole else Observations(incomplete.x[1:2].expand(40, D), space=SPACE)
    board = compare({"PPCA": PPCA(1, (D,), missing="nan")}, held_out)
    with tempfile.TemporaryDirectory() as folder:
        written = board.save(Path(folder) / "board")
        assert (written / "samples.png").exists() == whole
        assert (written / "scoreboard.png").exists()


# ------------------------------------------------------------------------------------------------------------ the floor


def test_what_counts_as_at_the_floor_is_said_wherever_it_is_counted(train):
    """A variance of 1.09 ε does count, one of 1.11 ε does not."""
    for above, share in ((1.0, 1.0), (1.09, 1.0), (1.11, 0.0)):
        variances = torch.full((1, D), above * 1e-2, dtype=torch.float64)
        zeros = torch.zeros(1, D, dtype=torch.float64)
        gmm = GaussianMixture.from_parameters(torch.ones(1, dtype=torch.float64), zeros, variances, "diag", floor=1e-2)
        board = compare({"gmm": gmm}, train)
        assert board.rows[0].degeneracy.share_of_dimensions == share
        said = "at floor: the share of variances of what the model sees at the floor ε, up to 1.1 ε; the score"
        assert (said in str(board)) == (share > 0)
        found = evaluate_model("gmm", gmm, train, train)
        assert "share of variances at the floor, up to 1.1 ε" in [figure.meaning for figure in found.figures]
        assert any("at the floor up to 1.1 times it." in sentence for sentence in found.sentences) == (share > 0)


def test_the_score_under_a_higher_floor_is_of_as_many_particles_as_the_score(train):
    """Few of them tell the change; a score of few would lie below one of many for that alone."""
    torch.manual_seed(0)
    vae = VAE(2, (D,), Gaussian("decoder", floor=1e-4), hidden=(8,)).double()
    row = compare({"VAE": vae}, train, num_particles=3000).rows[0]
    assert row.degeneracy.raised_score - row.mean == pytest.approx(row.degeneracy.change, abs=1e-9)
    assert row.degeneracy.score == row.mean


def test_bernoulli_models_have_no_floor_to_speak_of():
    bits = Observations((correlated(N, 3) > 0).double(), space=Space("bits", "boolean"))
    board = compare({"VAE": VAE(1, (D,), Bernoulli(), hidden=(4,)).double()}, bits, num_particles=30)
    assert "at floor" not in str(board)
