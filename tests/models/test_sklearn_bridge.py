"""Models of scikit-learn and ours are the same densities, both ways; what is no such model is refused."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.decomposition import PCA, FactorAnalysis as PeerFactorAnalysis, IncrementalPCA
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture as Peer

from pyrovae import PPCA, FactorAnalysis, GaussianMixture, fit, sklearn as estimators
from pyrovae.models.gmm import COVARIANCES

IRIS = load_iris().data


def tensors(array):
    return torch.as_tensor(array)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_scikit_learn_goes_on_where_we_stopped(covariance):
    """It has every attribute of a fit, goes on from our parameters, and not from a start of its own."""
    ours = fit.em(GaussianMixture(3, 4, covariance, floor=1e-6), torch.from_numpy(IRIS), tolerance=1e-9).model
    estimator = ours.to_sklearn()
    fitted = Peer(3, covariance_type=covariance, random_state=0).fit(IRIS)
    for name in (name for name in vars(fitted) if name.endswith("_")):
        assert np.shape(getattr(estimator, name))[:-1] == np.shape(getattr(fitted, name))[:-1], name
    before = estimator.means_.copy()
    estimator.set_params(warm_start=True, tol=1e-6).fit(IRIS)
    assert estimator.converged_
    assert 1 <= estimator.n_iter_ < 100
    assert estimator.lower_bound_ == pytest.approx(ours.score(torch.from_numpy(IRIS)), abs=1e-3)
    np.testing.assert_allclose(estimator.means_, before, atol=0.02)
    assert GaussianMixture.from_sklearn(estimator).score(torch.from_numpy(IRIS)) == pytest.approx(estimator.score(IRIS))


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_fit_without_regularisation_keeps_its_density(covariance, scale):
    x = IRIS * scale
    fitted = Peer(2, covariance_type=covariance, reg_covar=0.0, random_state=0).fit(x)
    ours = GaussianMixture.from_sklearn(fitted)
    expected = tensors(fitted.score_samples(x))
    torch.testing.assert_close(ours.score_samples(torch.from_numpy(x)), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        ours.predict_proba(torch.from_numpy(x)), tensors(fitted.predict_proba(x)), rtol=1e-6, atol=1e-6
    )


def test_single_precision_stays():
    fitted = Peer(2, random_state=0).fit(IRIS.astype(np.float32))
    ours = GaussianMixture.from_sklearn(fitted)
    assert ours.score(torch.from_numpy(IRIS)) == pytest.approx(fitted.score(IRIS), abs=1e-3)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            BayesianGaussianMixture(n_components=2, random_state=0).fit(IRIS),
            r"got BayesianGaussianMixture; its p\(z\|x\) averages",
        ),
        (PCA(2).fit(IRIS), r"must be a fitted sklearn.mixture.GaussianMixture, got PCA; fit one, or build the model"),
        (Peer, r"must be a fitted sklearn.mixture.GaussianMixture, got GaussianMixture;"),
        (None, r"got NoneType"),
        (estimators.GaussianMixture(2).fit(IRIS), r"got GaussianMixture; take its `model_`"),
    ],
)
def test_what_is_no_gaussian_mixture_is_refused(estimator, message):
    with pytest.raises(TypeError, match=message):
        GaussianMixture.from_sklearn(estimator)


def test_an_estimator_that_is_not_fitted_is_refused():
    with pytest.raises(ValueError, match=r"`estimator` must be a fitted .* got one without weights_, .* call its fit"):
        GaussianMixture.from_sklearn(Peer(2))
    for ours, peer in ((PPCA, PCA(2)), (FactorAnalysis, PeerFactorAnalysis(2))):
        with pytest.raises(ValueError, match=r"`estimator` must be a fitted .* got one without components_, "):
            ours.from_sklearn(peer)


class Tempered(Peer):
    """Whose density is no mixture of Gaussians."""

    def _estimate_log_prob(self, X, **options):
        return 0.5 * super()._estimate_log_prob(X, **options)


def test_a_density_that_is_not_that_of_the_parameters_is_refused():
    by_hand = Peer(2, random_state=0).fit(IRIS)
    by_hand.covariances_ = by_hand.covariances_ * 4  # and precisions_cholesky_, which predicts, as it was
    for estimator in (by_hand, Tempered(2, random_state=0).fit(IRIS)):
        with pytest.raises(ValueError, match=r"`estimator` must have the density of the parameters that it shows, got"):
            GaussianMixture.from_sklearn(estimator)
    changed = Peer(2, random_state=0).fit(IRIS).set_params(covariance_type="diag")
    with pytest.raises(ValueError, match=r"`covariances` must have shape \(2, 4\)"):
        GaussianMixture.from_sklearn(changed)


# ------------------------------------------------------------------------------------------------- PCA, factor analysis


@pytest.mark.parametrize("num_components", [0, 1, 3])
@pytest.mark.parametrize("rows", [150, 6])
def test_pca_is_the_model_of_its_score(num_components, rows):
    x = IRIS[:: 150 // rows]
    peer = PCA(num_components).fit(x)
    ours = PPCA.from_sklearn(peer)
    expected = tensors(peer.score_samples(x))
    torch.testing.assert_close(ours.score_samples(torch.from_numpy(x)), expected, rtol=1e-9, atol=1e-9)
    assert fit.closed_form(PPCA(num_components, 4), torch.from_numpy(x)).trace[-1] >= peer.score(x) - 1e-9


def test_pca_of_fewer_data_than_dimensions_is_the_model_of_its_score():
    x = load_breast_cancer().data[:12] / load_breast_cancer().data.std(0)
    peer = PCA(4).fit(x)
    torch.testing.assert_close(
        PPCA.from_sklearn(peer).score_samples(torch.from_numpy(x)), tensors(peer.score_samples(x)), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_factor_analysis_both_ways(scale):
    x = IRIS * scale
    peer = PeerFactorAnalysis(1).fit(x)
    ours = FactorAnalysis.from_sklearn(peer)
    data = torch.from_numpy(x)
    torch.testing.assert_close(ours.score_samples(data), tensors(peer.score_samples(x)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.transform(data), tensors(peer.transform(x)), rtol=1e-9, atol=1e-9)
    again = ours.to_sklearn()
    np.testing.assert_allclose(again.transform(x), peer.transform(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again.score_samples(x), peer.score_samples(x), rtol=1e-9, atol=1e-9)
    for name in ("components_", "mean_", "noise_variance_"):
        np.testing.assert_allclose(getattr(again, name), getattr(peer, name), rtol=1e-9)
    assert again.get_feature_names_out().tolist() == ["factoranalysis0"]


def test_what_is_no_pca_or_no_factor_analysis_is_refused():
    with pytest.raises(TypeError, match=r"must be a fitted sklearn.decomposition.PCA, got IncrementalPCA"):
        PPCA.from_sklearn(IncrementalPCA(2).fit(IRIS))
    with pytest.raises(TypeError, match=r"must be a fitted sklearn.decomposition.FactorAnalysis, got PCA"):
        FactorAnalysis.from_sklearn(PCA(2).fit(IRIS))
    with pytest.raises(ValueError, match=r"`estimator` must leave noise, got noise_variance_ 0; fit a PCA of fewer"):
        PPCA.from_sklearn(PCA(4).fit(IRIS))
