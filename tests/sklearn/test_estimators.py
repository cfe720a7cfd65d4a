"""The estimators keep scikit-learn's contract, and give what the models give."""

import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyrovae
from pyrovae import Gaussian, evaluate, fit, models
from pyrovae.fit import FitWarning
from pyrovae.sklearn import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture

FRAME = load_iris(as_frame=True).data
IRIS = FRAME.to_numpy(copy=True)
X = torch.from_numpy(IRIS)
BITS = (IRIS.mean(0) < IRIS).astype(float)
MIXTURES = {
    "GaussianMixture": lambda **options: GaussianMixture(3, floor=1e-3, **options),
    "PPCAMixture": lambda **options: PPCAMixture(2, 1, max_iterations=20, **options),
    "BernoulliMixture": lambda **options: BernoulliMixture(2, binarize=2.0, **options),
}
LATENT = {
    "PPCA": lambda **options: PPCA(2, **options),
    "FactorAnalysis": lambda **options: FactorAnalysis(1, **options),
    "VAE": lambda **options: VAE(2, "gaussian", (4,), num_steps=4, num_particles=5, **options),
}
EXACT = [name for name in (*MIXTURES, *LATENT) if name != "VAE"]
STARTS_DIFFER = "the random starts of a weighted datum and of its copies differ, and so may the optimum"
EXPECTED_TO_FAIL = {
    "GaussianMixture": {"check_sample_weight_equivalence_on_dense_data": STARTS_DIFFER},
    "PPCAMixture": {"check_sample_weight_equivalence_on_dense_data": STARTS_DIFFER},
    "BernoulliMixture": {"check_sample_weight_equivalence_on_dense_data": STARTS_DIFFER},
    "FactorAnalysis": {
        "check_sample_weight_equivalence_on_dense_data": "iterations of EM amplify rounding to more than 1e-7"
    },
}
pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
every_exact = pytest.mark.parametrize("name", EXACT)
every_mixture = pytest.mark.parametrize("name", MIXTURES)
every_latent = pytest.mark.parametrize("name", LATENT)
everyone = pytest.mark.parametrize("name", [*MIXTURES, *LATENT])


def build(name, **options):
    return (MIXTURES | LATENT)[name](**options)


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianMixture(),
        GaussianMixture(2, "diag", max_iterations=3),
        PPCA(),
        FactorAnalysis(1, max_iterations=5),
        PPCAMixture(1, 1, max_iterations=3),
        BernoulliMixture(),
        VAE(1, "gaussian", (4,), num_steps=2, num_particles=2),
    ],
    ids=lambda estimator: f"{type(estimator).__name__} {estimator.get_params().get('num_components', '')}".strip(),
)
def test_scikit_learn_checks_each(estimator):
    options = {}
    if "expected_failed_checks" in inspect.signature(check_estimator).parameters:  # from 1.6 on
        options["expected_failed_checks"] = EXPECTED_TO_FAIL.get(type(estimator).__name__, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data that are constant, of checks that do not apply
        check_estimator(estimator, **options)


# ------------------------------------------------------------------------------------------------ what it is a front of


@everyone
def test_an_estimator_is_the_library_at_its_seed(name):
    estimator = build(name, random_state=3).fit(IRIS)
    x = torch.from_numpy((IRIS > 2).astype(float)) if name == "BernoulliMixture" else X
    expected = {
        "GaussianMixture": lambda: fit.em(pyrovae.GaussianMixture(3, 4, floor=1e-3), x, seed=3),
        "PPCAMixture": lambda: fit.em(pyrovae.PPCAMixture(2, 1, 4), x, seed=3, max_iterations=20),
        "BernoulliMixture": lambda: fit.em(pyrovae.BernoulliMixture(2, 4), x, seed=3),
        "PPCA": lambda: fit.closed_form(pyrovae.PPCA(2, 4), x),
        "FactorAnalysis": lambda: fit.em(pyrovae.FactorAnalysis(1, 4), x, seed=3),
        "VAE": lambda: fit.svi(pyrovae.VAE(2, 4, hidden=(4,)), x, num_steps=4, seed=3),
    }[name]()
    state = estimator.model_.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.model.state_dict().items())
    assert torch.equal(estimator.result_.trace, expected.trace)


@every_exact
def test_scores_are_exact_and_weighted(name):
    estimator = build(name).fit(IRIS)
    x = torch.from_numpy((IRIS > 2).astype(float)) if name == "BernoulliMixture" else X
    np.testing.assert_allclose(estimator.score_samples(IRIS), estimator.model_.score_samples(x), rtol=1e-12)
    assert estimator.score(IRIS) == pytest.approx(estimator.score_samples(IRIS).mean(), rel=1e-12)
    assert estimator.lower_bound_ == pytest.approx(estimator.score(IRIS), rel=1e-9)
    first = (np.arange(150) < 50).astype(float)
    for criterion in ("score", "bic", "aic"):
        given = getattr(estimator, criterion)(IRIS, sample_weight=first)
        assert given == pytest.approx(getattr(estimator, criterion)(IRIS[:50]), rel=1e-12)
        assert given == pytest.approx(getattr(estimator.model_, criterion)(x[:50]), rel=1e-12)


@pytest.mark.parametrize("estimator", [GaussianMixture(), PPCA(2), FactorAnalysis(1), BernoulliMixture(binarize=2.0)])
def test_weights_in_a_fit_are_data_that_many_times(estimator):
    weight = np.arange(150) % 3
    weighted = clone(estimator).fit(IRIS, sample_weight=weight)
    repeated = clone(estimator).fit(IRIS.repeat(weight, axis=0))
    np.testing.assert_allclose(weighted.score_samples(IRIS), repeated.score_samples(IRIS), rtol=1e-5)


@every_exact
def test_data_of_no_weight_are_not_there(name):
    weight = (np.arange(150) % 3 > 0).astype(float)
    weighted, removed = build(name).fit(IRIS, sample_weight=weight), build(name).fit(IRIS[weight > 0])
    np.testing.assert_allclose(weighted.score_samples(IRIS), removed.score_samples(IRIS), rtol=1e-6)


@every_mixture
def test_mixtures_predict(name):
    estimator = build(name)
    labels = estimator.fit_predict(FRAME)
    proba = estimator.predict_proba(FRAME)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-9)
    assert labels.tolist() == estimator.predict(FRAME).tolist()
    assert (proba[np.arange(150), labels] >= proba.max(1) - 1e-9).all()
    assert estimator.n_iter_ >= 1
    drawn, components = estimator.sample(7)
    assert drawn.shape == (7, 4)
    assert components.shape == (7,)


def test_a_mixture_shows_its_parameters_as_scikit_learn_does():
    estimator = GaussianMixture(3, random_state=0).fit(IRIS)
    peer = estimator.model_.to_sklearn()
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(estimator, name), getattr(peer, name))
    np.testing.assert_allclose(estimator.predict_proba(IRIS), peer.predict_proba(IRIS), atol=1e-9)
    assert estimator.converged_


@every_latent
def test_latent_models_transform_and_go_back(name):
    estimator = build(name).fit(IRIS)
    z = estimator.transform(IRIS)
    assert z.shape == (150, estimator.model_.latent_dim)
    back = estimator.inverse_transform(z)
    assert back.shape == (150, 4)
    if name != "VAE":
        np.testing.assert_allclose(z, estimator.model_.transform(X).detach(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(back, z @ estimator.weight_.T + estimator.mean_, rtol=1e-9)
    with pytest.raises(ValueError, match=r"`X` must have \d columns, one a latent, got 4"):
        estimator.inverse_transform(IRIS)


def test_missing_values_are_taken_where_the_model_takes_them():
    holes = np.where(np.random.default_rng(0).random(IRIS.shape) < 0.1, np.nan, IRIS)
    for estimator in (GaussianMixture(2, missing="nan"), PPCA(1, missing="nan"), FactorAnalysis(1, missing="nan")):
        fitted = estimator.fit(holes)
        assert np.isfinite(fitted.score(holes))
    bits = np.where(np.isnan(holes), holes, holes > 2)
    assert np.isfinite(BernoulliMixture(2, missing="nan").fit(bits).score(bits))
    with pytest.raises(ValueError, match="contains NaN"):
        GaussianMixture(2).fit(holes)


def test_data_that_are_cut_to_bits_are_said():
    with pytest.warns(FitWarning, match=r"`X` should hold only 0 and 1, got values in \[0.1, 7.9\]: those above 0 are"):
        BernoulliMixture(2).fit(IRIS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = BernoulliMixture(2, binarize=2.0).fit(IRIS)
        plain = BernoulliMixture(2).fit((IRIS > 2).astype(float))
    np.testing.assert_array_equal(cut.probs_, plain.probs_)


def test_a_vae_names_its_likelihood():
    estimator = VAE(1, "bernoulli", (4,), num_steps=4, num_particles=5).fit(BITS)
    assert estimator.model_.support == "boolean"
    assert VAE(1, Gaussian("decoder"), (4,), num_steps=4).fit(IRIS).model_.config["likelihood"]["scale"] == "decoder"
    with pytest.raises(ValueError, match=r'`likelihood` must be .*"gaussian".* got \'poisson\''):
        VAE(1, "poisson").fit(IRIS)
    with pytest.raises(ValueError, match="must hold only"):
        VAE(1, "bernoulli").fit(IRIS)


def test_the_score_of_a_vae_is_its_importance_weighted_log_likelihood():
    estimator = build("VAE", random_state=7).fit(IRIS)
    expected = evaluate.log_likelihood(estimator.model_, X, 5, seed=7)
    assert estimator.score(IRIS) == pytest.approx(expected.mean, rel=1e-6)


# ------------------------------------------------------------------------------------------------- scikit-learn's world


@everyone
def test_names_of_columns_are_known_and_asked_for(name):
    estimator = build(name).fit(FRAME)
    assert estimator.n_features_in_ == 4
    assert estimator.feature_names_in_.tolist() == FRAME.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        estimator.score(FRAME[FRAME.columns[::-1]])
    with pytest.raises(ValueError, match="expecting 4 features"):
        build(name).fit(IRIS).score(IRIS[:, :3])


@every_latent
def test_pandas_in_and_out(name):
    frame = FRAME.set_index(pd.Index([f"flower {n}" for n in range(150)]))
    out = build(name).set_output(transform="pandas").fit(frame).transform(frame)
    assert out.columns.tolist() == [f"{name.lower()}{n}" for n in range(out.shape[1])]
    assert out.index.tolist() == frame.index.tolist()


@everyone
def test_in_a_pipeline_cloned_pickled(name):
    pipeline = make_pipeline(StandardScaler(), build(name)).fit(FRAME)
    unfitted = clone(pipeline)
    with pytest.raises(NotFittedError):
        unfitted[-1].score(IRIS)
    again = pickle.loads(pickle.dumps(pipeline))
    assert again.score(FRAME) == pipeline.score(FRAME) == unfitted.fit(FRAME).score(FRAME)
    assert clone(build(name)).get_params() == build(name).get_params()


def test_a_pickle_holds_no_data():
    many = np.tile(IRIS, (100, 1))
    assert len(pickle.dumps(GaussianMixture(2).fit(many))) < many.nbytes / 4


@everyone
def test_what_is_not_fitted_says_so(name):
    estimator = build(name)
    methods = ("score", "score_samples", "predict", "predict_proba", "transform", "inverse_transform", "bic", "aic")
    for method in methods:
        if hasattr(estimator, method):
            with pytest.raises(NotFittedError):
                getattr(estimator, method)(IRIS)
    with pytest.raises(NotFittedError):
        estimator.sample()


def test_a_grid_search_scores_by_the_held_out_log_likelihood():
    x = StandardScaler().fit_transform(load_breast_cancer().data[:, :6])
    folds = KFold(3)
    grid = {"num_components": [1, 2], "covariance": ["full", "diag"]}
    search = GridSearchCV(GaussianMixture(floor=1e-3), grid, cv=folds).fit(x)
    for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        scores = [
            fit.em(models.GaussianMixture(data_shape=6, floor=1e-3, **params), torch.from_numpy(x[train])).model.score(
                torch.from_numpy(x[test])
            )
            for train, test in folds.split(x)
        ]
        assert score == pytest.approx(np.mean(scores), rel=1e-9)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])


def test_latents_feed_a_classifier_and_are_searched():
    y = load_iris().target
    pipeline = make_pipeline(StandardScaler(), FactorAnalysis(), KNeighborsClassifier())
    search = GridSearchCV(pipeline, {"factoranalysis__latent_dim": [1, 2]}, cv=3).fit(FRAME, y)
    assert search.best_score_ > 0.8
    assert np.isfinite(cross_val_score(build("VAE"), IRIS, cv=2)).all()


# ---------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("name", ["GaussianMixture", "VAE"])
def test_a_fit_leaves_the_world_alone_but_for_a_state_that_it_is_given(name):
    before, config = np.random.get_state(legacy=False)["state"], sklearn.get_config()  # noqa: NPY002
    estimator = build(name, random_state=1).fit(IRIS)
    assert estimator.sample(2)[0].tolist() == estimator.sample(2)[0].tolist()
    assert sklearn.get_config() == config
    after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    assert np.array_equal(before["key"], after["key"])
    assert before["pos"] == after["pos"]
    state = np.random.RandomState(0)
    estimator.set_params(random_state=state)
    assert estimator.sample(2)[0].tolist() != estimator.sample(2)[0].tolist()


def test_states_of_numpy_give_seeds():
    first, second = (GaussianMixture(2, random_state=np.random.RandomState(5)).fit(IRIS) for _ in range(2))
    np.testing.assert_array_equal(first.means_, second.means_)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        GaussianMixture(random_state="1").fit(IRIS)


def test_what_a_model_refuses_an_estimator_refuses_at_its_fit():
    for estimator, message in [
        (GaussianMixture(0), r"`num_components` must be a whole number"),
        (GaussianMixture(2, "round"), r"`covariance` must be"),
        (PPCA(4), r"`latent_dim` must be a whole number from 0 to 3, got 4"),
        (FactorAnalysis(1, tolerance=-1.0), r"`tolerance` must be a positive"),
        (VAE(1, num_steps=0), r"`num_steps`"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimator.fit(IRIS)
    column = IRIS[:, :1]
    gaussian = GaussianMixture(floor=1e-9).fit(column)
    assert PPCA(0).fit(column).score(column) == pytest.approx(gaussian.score(column))
