"""ArviZ data of every model, under ArviZ 0.23 and 1.x: the groups, their dimensions, and the numbers in them."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import AffineTransform, MultivariateNormal, Normal

from pyrovae import PPCA, VAE, GaussianMixture, compare, fit
from pyrovae.data import Observations, Space
from pyrovae.evaluate import draws
from pyrovae.io import arviz

D, N, DRAWS = 3, 12, 7
SCALE = 4.0


@pytest.fixture(scope="module")
def test():
    x = torch.randn(40, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Observations(x, space=Space("toy", "real"))[:N]


@pytest.fixture(scope="module")
def board(test):
    """PPCA is fitted in a view, to see that what it says is brought back."""
    view = test.transformed(AffineTransform(1.0, SCALE), "rescaled")
    fits = {
        "PPCA": fit.closed_form(PPCA(1, (D,)), view),
        "mixture": fit.em(GaussianMixture(2, (D,), "diag", floor=0.1), test, tolerance=1e-2),
        "VAE": fit.svi(VAE(2, (D,), hidden=(4,)).double(), test, num_epochs=1),
    }
    return compare(fits, test, num_particles=20)


@pytest.fixture(scope="module")
def content(board):
    return board.to_inference_data(DRAWS, seed=3)


def variable(data, group, name):
    """A variable of an InferenceData or of a DataTree."""
    return data[group][name]


@pytest.mark.parametrize("name", ["PPCA", "mixture", "VAE"])
def test_every_model_has_the_four_groups(content, name):
    for group, variable_name in [
        ("posterior", "z"),
        ("sample_stats", "log_weight"),
        ("log_likelihood", "x"),
        ("observed_data", "x"),
    ]:
        assert variable(content[name], group, variable_name).size > 0


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("PPCA", {"chain": 1, "draw": DRAWS, "datum": N, "latent": 1}),
        ("mixture", {"chain": 1, "draw": DRAWS, "datum": N}),
        ("VAE", {"chain": 1, "draw": DRAWS, "datum": N, "latent": 2}),
    ],
)
def test_draws_of_z_are_by_chain_draw_and_datum(content, name, sizes):
    assert dict(variable(content[name], "posterior", "z").sizes) == sizes
    weights = variable(content[name], "sample_stats", "log_weight")
    assert dict(weights.sizes) == {"chain": 1, "draw": DRAWS, "datum": N}


def test_the_likelihoods_are_those_of_the_scoreboard(board, content):
    for row in board.rows:
        values = variable(content[row.name], "log_likelihood", "x")
        assert dict(values.sizes) == {"chain": 1, "draw": 1, "datum": N}
        np.testing.assert_array_equal(values.values[0, 0], row.log_prob.numpy())


def test_the_weights_of_the_exact_posterior_are_the_likelihood(board, content):
    for row in board.rows:
        if row.kind == "exact":
            weights = variable(content[row.name], "sample_stats", "log_weight").values[0]
            np.testing.assert_allclose(weights, row.log_prob.expand(DRAWS, N), rtol=0, atol=1e-10)


def test_the_weights_are_those_of_the_draws_beside_them_for_ppca(board, content, test):
    """log p(x, z) − log q(z|x) by hand, in the reference space; the view is x → 4x + 1."""
    ppca = board.models["PPCA"]
    z = torch.as_tensor(variable(content["PPCA"], "posterior", "z").values[0])
    weight, mean, variance = (each.detach() for each in (ppca.weight, ppca.mean, ppca.noise_variance))
    y = SCALE * test.x + 1
    likelihood = Normal(z @ weight.T + mean, variance.sqrt()).log_prob(y).sum(-1)
    covariance = torch.linalg.inv(torch.eye(1) + weight.T @ weight / variance)
    posterior = MultivariateNormal((y - mean) @ weight @ covariance / variance, covariance)
    by_hand = likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1) - posterior.log_prob(z) + D * math.log(SCALE)
    weights = variable(content["PPCA"], "sample_stats", "log_weight").values[0]
    np.testing.assert_allclose(weights, by_hand, rtol=0, atol=1e-9)


def test_the_weights_are_those_of_the_draws_beside_them_for_a_vae(board, content, test):
    vae = board.models["VAE"]
    z = torch.as_tensor(variable(content["VAE"], "posterior", "z").values[0])
    with torch.no_grad():
        joint = vae.decoder(z).log_prob(test.x) + Normal(0.0, 1.0).log_prob(z).sum(-1)
        by_hand = joint - vae.encoder(test.x).log_prob(z)
    np.testing.assert_allclose(
        variable(content["VAE"], "sample_stats", "log_weight").values[0], by_hand, rtol=0, atol=1e-10
    )
    np.testing.assert_array_equal(z, draws(vae, test, DRAWS, seed=3)[0])


def test_the_draws_of_the_exact_posterior_are_its(board, test):
    """Mean and variance over 4,000 draws within five standard errors, all N data at once: false alarm below 1e-4."""
    ppca, num_draws = board.models["PPCA"], 4000
    data = test.transformed(AffineTransform(1.0, SCALE), "rescaled")
    z = variable(arviz.inference_data(ppca, data, torch.zeros(N), num_draws, 0), "posterior", "z").values[0]
    posterior = ppca.posterior(data)
    mean, deviation = posterior.mean.detach().numpy(), posterior.variance.detach().sqrt().numpy()
    assert (np.abs(z.mean(0) - mean) < 5 * deviation / math.sqrt(num_draws)).all()
    assert (np.abs(z.var(0) / deviation**2 - 1) < 5 * math.sqrt(2 / num_draws)).all()


def test_the_data_are_there_as_the_model_sees_them(content, test):
    np.testing.assert_allclose(variable(content["PPCA"], "observed_data", "x"), SCALE * test.x + 1, rtol=1e-12)
    np.testing.assert_array_equal(variable(content["VAE"], "observed_data", "x"), test.x)


@pytest.mark.parametrize(
    ("name", "words"), [("PPCA", "exact posterior"), ("mixture", "exact posterior"), ("VAE", "guide, an approximation")]
)
def test_it_says_what_the_draws_are_of(content, name, words):
    posterior = content[name]["posterior"]
    assert words in {**content[name].attrs, **posterior.attrs}["drawn_from"]


def test_the_same_seed_gives_the_same_draws_and_leaves_the_random_state(board):
    state = torch.get_rng_state()
    first, again, other = (board.to_inference_data(2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name in first:
        z, same, different = (variable(each[name], "posterior", "z").values for each in (first, again, other))
        assert (z == same).all()
        assert name == "mixture" or not (z == different).any()  # two well-separated components leave no doubt


@pytest.mark.parametrize("name", ["PPCA", "mixture", "VAE"])
def test_arviz_reads_the_file_back(content, name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 announces 1.0 on import
        import arviz

        arviz.to_netcdf(content[name], tmp_path / "model.nc")
        again = arviz.from_netcdf(tmp_path / "model.nc", engine="h5netcdf")
        for group, variable_name in [("posterior", "z"), ("sample_stats", "log_weight"), ("observed_data", "x")]:
            read, written = (variable(each, group, variable_name) for each in (again, content[name]))
            np.testing.assert_array_equal(read.values, written.values)
            assert read.dims == written.dims
