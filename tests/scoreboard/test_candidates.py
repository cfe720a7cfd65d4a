"""The standard comparison: its rows, and that every choice is the best on validation data."""

import warnings

import pytest
import torch

from pyrovae import PPCA, VAE, GaussianMixture, data, fit
from pyrovae.data import DataSet, Observations, Space
from pyrovae.fit.select import tied_for_best
from pyrovae.scoreboard import candidates

D = 4


def toy(num_data, seed, support="real"):
    """Two clusters on a line in D dimensions; or their signs."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_data, 1, generator=generator, dtype=torch.float64).sign() * 2
    x = z * torch.tensor([1.0, 0.5, -0.5, 0.2]) + torch.randn(num_data, D, generator=generator, dtype=torch.float64)
    return Observations((x > 0).double() if support == "boolean" else x, space=Space("toy", support))


def data_set(support="real", num_train=40):
    return DataSet("toy", *(toy(n, seed, support) for seed, n in enumerate((num_train, 20, 20))))


@pytest.fixture(scope="module")
def quick_svi():
    """What SVI would do, in two epochs; the recipe of each fit is kept for a look at it."""
    original, seen = fit.svi, []

    def quick(model, observations, **options):
        seen.append((model, options))
        return original(model, observations, **{**options, "num_epochs": 2})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "svi", quick)
        yield seen


@pytest.fixture(scope="module")
def lines():
    return []


@pytest.fixture(scope="module")
def standard(quick_svi, lines):
    """A normal small run, in which every warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return candidates.standard_fits(data_set(), progress=False, report=lines.append)


# ---------------------------------------------------------------------------------------------------------------- rows


def test_every_model_is_fitted_every_way_it_can_be(standard):
    gmm, ppca = (next(name.split(",")[0] for name in standard.fits if name.startswith(m)) for m in ("GMM", "PPCA"))
    assert list(standard.fits) == [
        "Gaussian, closed form",
        f"{gmm}, EM",
        f"{gmm}, SVI",
        f"{ppca}, closed form",
        f"{ppca}, EM",
        f"{ppca}, SVI",
        "VAE-3, one σ, SVI",
        "VAE-3, σ(z), SVI",
    ]


def test_a_rows_name_says_how_it_was_fitted(standard):
    assert all(name.endswith(f", {result.method}") for name, result in standard.fits.items())


def test_no_row_sees_the_test_data(quick_svi):
    whole = data_set()
    unseen = DataSet("toy", whole.train, whole.valid, None)
    assert candidates.standard_fits(unseen, num_components=2, latent_dim=1, num_epochs=1, progress=False).fits


def test_binary_data_have_bernoulli_models_only(quick_svi):
    binary = candidates.standard_fits(data_set("boolean"), num_components=3, progress=False)
    assert list(binary.fits) == ["BMM-3, EM", "BMM-3, SVI", "VAE-3, SVI", "linear VAE-3, SVI"]
    assert all(result.model.support == "boolean" for result in binary.fits.values())
    assert [line.partition(":")[0] for line in binary.chosen] == ["Bernoulli mixture"]


def test_integers_have_autoencoders_only(quick_svi):
    """No exact model here has a mass on integers."""
    whole = data_set("boolean")
    integers = DataSet("toy", *(Observations(part.x, space=Space("toy", "integer", levels=2)) for part in whole))
    fits = candidates.standard_fits(integers, latent_dim=4, progress=False).fits
    assert list(fits) == ["VAE-4, one σ, SVI", "VAE-4, σ(z), SVI"]
    likelihoods = [result.model.config["likelihood"] for result in fits.values()]
    assert [(each["kind"], each["levels"], each["scale"]) for each in likelihoods] == [
        ("DiscretizedLogistic", 2, "shared"),
        ("DiscretizedLogistic", 2, "decoder"),
    ]


def test_one_column_has_no_principal_components(quick_svi):
    whole = data_set()
    column = DataSet("toy", *(Observations(part.x[:, :1], space=part.space) for part in whole))
    assert not [name for name in candidates.standard_fits(column, progress=False).fits if "PPCA" in name]


# ------------------------------------------------------------------------------------------------------------- choices


def test_each_choice_is_said_on_a_line_of_its_own(standard):
    assert [line.split(":")[0] for line in standard.chosen] == ["Gaussian", "Gaussian mixture", "probabilistic PCA"]


def test_the_gaussians_floor_is_the_best_on_validation_data(standard):
    whole, chosen = data_set(), standard.fits["Gaussian, closed form"].model
    scale = whole.train.x.var(0, correction=0).mean().item()
    floors = [float(f"{relative * scale:.1e}") for relative in candidates.RELATIVE_FLOORS]
    scored = [
        (fit.closed_form(GaussianMixture(1, (D,), floor=f), whole.train).model.score(whole.valid), f)
        for f in sorted(floors, reverse=True)
    ]
    assert chosen.floor == tied_for_best(scored)[0][1]  # of floors that clip nothing, the highest
    assert f"floor {chosen.floor:.2g}" in standard.chosen[0]


def test_the_mixture_is_the_best_on_validation_data(standard):
    whole = data_set()
    chosen = next(result.model for name, result in standard.fits.items() if name.startswith("GMM"))
    scale = whole.train.x.var(0, correction=0).mean().item()
    mixtures = [
        GaussianMixture(k, (D,), form, float(f"{relative * scale:.1e}"))
        for form in ("full", "diag")
        for k in (2, 3)  # 40 data allow ten a component: K = 2 and 3
        for relative in candidates.RELATIVE_FLOORS
    ]
    scores = {
        (m.num_components, m.covariance, m.floor): fit.em(m, whole.train, tolerance=1e-3).model.score(whole.valid)
        for m in mixtures
    }
    found = scores[chosen.num_components, chosen.covariance, chosen.floor]
    assert found == pytest.approx(max(scores.values()), rel=1e-9)
    said = f"K = {chosen.num_components}, {chosen.covariance} covariance, floor {chosen.floor:.2g} (of 12 tried)"
    assert said in standard.chosen[1]


def test_the_candidates_begin_with_the_simplest():
    """So that of equals the simplest is kept, whatever the last bits of their scores say."""
    train = data_set().train
    builder = candidates._Baselines(train, train, "cpu", 0, False, print)
    mixtures = builder._mixtures(None, len(train), binary=False)
    numbers = [mixture.num_free_parameters for mixture in mixtures]
    assert numbers == sorted(numbers)
    assert [m.floor for m in mixtures[:3]] == sorted((m.floor for m in mixtures[:3]), reverse=True)


def test_the_latent_dimension_of_ppca_is_the_best_on_validation_data(standard):
    whole = data_set()
    scored = [
        (fit.closed_form(PPCA(q, (D,)), whole.train).model.score(whole.valid), q)
        for q in (1, 2)  # 3 is not tried
    ]
    best = tied_for_best(scored)[0][1]
    assert f"PPCA-{best}, closed form" in standard.fits
    assert standard.chosen[2] == f"probabilistic PCA: latent dimension {best} (of 2 tried)"


def test_sizes_that_are_given_are_taken(quick_svi):
    given = candidates.standard_fits(data_set(), num_components=3, latent_dim=2, progress=False)
    assert [name for name in given.fits if name.startswith("GMM-3")]
    assert "PPCA-2, EM" in given.fits
    assert "VAE-2, one σ, SVI" in given.fits
    assert given.chosen[2] == "probabilistic PCA: latent dimension 2"  # a choice of one is none


def test_epochs_that_are_given_are_taken(quick_svi):
    before = len(quick_svi)
    candidates.standard_fits(data_set("boolean"), num_components=2, num_epochs=401, progress=False)
    given = [options["num_epochs"] for model, options in quick_svi[before:] if isinstance(model, VAE)]
    assert given == [401, 401]


def test_autoencoders_are_chosen_by_epoch_on_validation_data_and_mixtures_trained_to_the_end(standard, quick_svi):
    assert all(("valid" in options) == isinstance(model, VAE) for model, options in quick_svi)


def test_ppca_by_em_reaches_the_closed_form_on_the_training_data(standard):
    closed, em = (
        next(result for name, result in standard.fits.items() if name.startswith("PPCA") and name.endswith(how))
        for how in ("closed form", "EM")
    )
    assert em.converged
    assert 0 <= closed.trace[-1] - em.trace[-1] + 1e-12 < 1e-6


# ------------------------------------------------------------------------------------------------ reports and warnings


def test_every_stage_is_reported(standard, lines):
    assert [line.split(":")[0] for line in lines][:2] == ["one Gaussian", "Gaussian mixture"]
    assert any("12 on 40 training data" in line for line in lines)


def test_a_budget_that_is_part_of_the_plan_is_no_cause_for_a_warning(quick_svi, monkeypatch):
    """Large data are fitted with few iterations on purpose; here 400 data count as large, and get one."""
    monkeypatch.setattr(candidates, "SELECTION_NUMBERS", 100)
    monkeypatch.setattr(candidates, "LARGE_COMPONENTS", {"full": (2,), "diag": (2, 3)})
    original = fit.em
    monkeypatch.setattr(fit, "em", lambda *a, **options: original(*a, **{**options, "max_iterations": 1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        large = candidates.standard_fits(data_set(num_train=400), progress=False)
    assert [result.converged for result in large.fits.values() if result.method == "EM"] == [False, False]


def test_where_convergence_is_the_plan_a_fit_without_it_warns(quick_svi, monkeypatch):
    original = fit.em
    monkeypatch.setattr(fit, "em", lambda *a, **options: original(*a, **{**options, "max_iterations": 1}))
    with pytest.warns(fit.ConvergenceWarning) as caught:
        candidates.standard_fits(data_set(), num_components=3, progress=False)
    assert len(caught) == 2  # the mixture and PPCA; none for the candidates


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("support", "options", "message"),
    [
        ("real", {"latent_dim": 4}, "`latent_dim` must be below the number of dimensions, 4, got 4"),
        ("real", {"num_components": 41}, "`num_components` must be at most the number of training data, 40, got 41"),
        ("real", {"num_components": 0}, "`num_components` must be a whole number of at least 1, or None, got 0"),
        ("real", {"latent_dim": 0}, "`latent_dim` must be a whole number of at least 1, or None, got 0"),
        ("boolean", {"num_components": 1000}, "`num_components` must be at most the number of training data"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_any_fit(support, options, message, lines):
    before = len(lines)
    with pytest.raises(ValueError, match=message):
        candidates.standard_fits(data_set(support), report=lines.append, **options)
    assert len(lines) == before


def test_data_that_do_not_vary_are_refused():
    ones = Observations(torch.ones(9, D), space=Space("ones", "real"))
    with pytest.raises(ValueError, match="`dataset` must hold training data that differ"):
        candidates.standard_fits(DataSet("ones", ones, ones, ones))


def test_a_data_set_without_validation_data_is_refused():
    whole = data.load("digits", num_valid=0)
    with pytest.raises(ValueError, match="`dataset` must have validation data"):
        candidates.standard_fits(whole)
