"""The first call of a newcomer, with nothing chosen, gives a model that is worth its latents."""

import warnings

import pytest

from pyrovae import VAE, Bernoulli, Gaussian, data, evaluate, fit
from pyrovae.models.reference import independent_bernoullis, one_gaussian


@pytest.mark.parametrize("likelihood", [Gaussian("decoder"), Bernoulli()], ids=["σ(z)", "binary"])
def test_the_first_call_beats_the_best_model_without_latents(likelihood):
    """By its ELBO, though that is a lower bound, and by more than chance over the test data explains."""
    binary = isinstance(likelihood, Bernoulli)
    train, valid, test = data.load("digits", observations="binary" if binary else "continuous")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit.svi(VAE(8, train.data_shape, likelihood), train, valid=valid)
    reference = (independent_bernoullis if binary else one_gaussian)(train.x.double())
    gain = evaluate.elbo(result.model, test, 20).double() - reference.log_prob(test.x.double())
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
    assert (result.latent_kl > 0.01).any()
    assert result.degeneracies == ()
