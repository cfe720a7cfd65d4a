"""Decoding at chosen z: means, deviations and draws are those of p(x|z); paths and grids go where they say."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, data, evaluate, fit


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", dtype=torch.float64)


@pytest.fixture(scope="module")
def ppca(digits):
    return fit.closed_form(PPCA(3, (64,)), digits.train).model


def test_means_deviations_and_draws_of_ppca_are_exact(ppca):
    z = torch.randn(2, 3000, 3, dtype=torch.float64)
    means = evaluate.decode_means(ppca, z)
    torch.testing.assert_close(means, (z @ ppca.weight.T + ppca.mean).detach(), rtol=0, atol=1e-12)
    sigma = ppca.noise_variance.sqrt().detach()
    torch.testing.assert_close(evaluate.decode_deviations(ppca, z), sigma.expand_as(means))
    noise = (evaluate.decode_samples(ppca, z) - means) / sigma
    count = noise.numel()
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert abs(noise.square().mean() - 1) < 5 * math.sqrt(2 / count)


def test_draws_follow_the_seed_and_leave_the_world_alone(ppca):
    z = torch.zeros(4, 3)
    state = torch.get_rng_state()
    first, again, other = (evaluate.decode_samples(ppca, z, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    evaluate.decode_means(ppca, z)
    evaluate.reconstruct_samples(ppca, torch.zeros(2, 64))
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_z_gives_the_same_means_as_sampling():
    for model in (PPCA(2, (5,)), VAE(2, (5,), Bernoulli(), hidden=(4,)), GaussianMixture(3, (5,))):
        means, z = model.sample_means(7, seed=3)
        torch.testing.assert_close(evaluate.decode_means(model, z), means)


def test_decoding_is_in_evaluation_mode():
    vae = VAE(2, (5,), Gaussian(scale="decoder"), hidden=(32,)).train()
    vae.decoder.body.append(nn.Dropout(0.5))
    z = torch.randn(3, 2)
    first, again = evaluate.decode_means(vae, z), evaluate.decode_means(vae, z)
    assert torch.equal(first, again)
    assert vae.training
    expected = vae.eval().decoder(z)
    torch.testing.assert_close(first, expected.mean.detach())
    torch.testing.assert_close(evaluate.decode_deviations(vae, z), expected.stddev.detach())


def test_ppca_reconstructs_by_shrunken_projection(ppca, digits):
    x, w, mean = digits.test.x, ppca.weight.detach(), ppca.mean.detach()
    m = w.T @ w + ppca.noise_variance.detach() * torch.eye(3, dtype=torch.float64)
    expected = (x - mean) @ w @ torch.linalg.inv(m) @ w.T + mean
    torch.testing.assert_close(evaluate.reconstruct_means(ppca, digits.test), expected, rtol=0, atol=1e-10)


def test_drawn_reconstructions_have_the_spread_of_q_and_of_p(ppca, digits):
    x = digits.test.x[:1].expand(4000, -1)
    drawn = evaluate.reconstruct_samples(ppca, x, seed=5)
    w, sigma2 = ppca.weight.detach(), ppca.noise_variance.detach()
    covariance = w @ ppca.posterior(x[:1]).covariance_matrix[0].detach() @ w.T + sigma2 * torch.eye(
        64, dtype=torch.float64
    )
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (drawn - evaluate.reconstruct_means(ppca, x)).T, upper=False
    )
    count = whitened.numel()
    assert abs(whitened.mean()) < 5 / math.sqrt(count)
    assert abs(whitened.square().mean() - 1) < 5 * math.sqrt(2 / count)
    cross = (whitened @ whitened.T / 4000).fill_diagonal_(0).abs().max()
    assert cross < 6 / math.sqrt(4000)  # the draws of z and of x are independent: 2,016 pairs, 6 standard errors


def test_discrete_z_is_decoded_and_not_reconstructed(digits):
    mixture = fit.em(GaussianMixture(3, (64,), "diag"), digits.train, max_iterations=2, tolerance=1e9).model
    torch.testing.assert_close(evaluate.decode_means(mixture, torch.arange(3)), mixture.model.means.detach())
    with pytest.raises(ValueError, match="`model` must have a continuous z to reconstruct from, got GaussianMixture"):
        evaluate.reconstruct_means(mixture, digits.test)
    with pytest.raises(ValueError, match="`model` must have a continuous z of at least 2 units"):
        evaluate.manifold_means(mixture)


@pytest.mark.parametrize("shape", [(2,), (3, 2), ()])
def test_decode_refuses_codes_of_another_model(ppca, shape):
    with pytest.raises(ValueError, match=r"`z` must have shape \(\.\.\., 3\), got \("):
        evaluate.decode_means(ppca, torch.zeros(shape))


# --------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_paths_end_where_they_should(method):
    start, end = torch.randn(2, 5, 4)
    path = evaluate.interpolate(start, end, 6, method)
    assert path.shape == (6, 5, 4)
    assert torch.equal(path[0], start)
    assert torch.equal(path[-1], end)
    assert torch.equal(evaluate.interpolate(start, start, 3, method)[1], start)


def test_linear_steps_are_equal_and_spherical_angles_are():
    start, end = torch.randn(2, 9, dtype=torch.float64)
    steps = evaluate.interpolate(start, end, 5).diff(dim=0)
    torch.testing.assert_close(steps, ((end - start) / 4).expand(4, 9))
    end = end * start.norm() / end.norm()
    path = evaluate.interpolate(start, end, 5, "spherical")
    torch.testing.assert_close(path.norm(dim=1), start.norm().expand(5))
    cosines = nn.functional.cosine_similarity(path[1:], path[:-1])
    total = nn.functional.cosine_similarity(start, end, dim=0).arccos()
    torch.testing.assert_close(cosines.arccos(), (total / 4).expand(4))


def test_near_codes_have_an_arc_too():
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for angle in (1e-4, 1e-7):
        end = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        middle = evaluate.interpolate(start, end, 3, "spherical")[1]
        expected = torch.tensor([math.cos(angle / 2), math.sin(angle / 2)], dtype=torch.float64)
        torch.testing.assert_close(middle, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("end", "steps", "method", "message"),
    [
        (torch.zeros(3), 5, "linear", r"`end` must have the shape of `start`, \(2,\), got \(3,\)"),
        (torch.ones(2), 1, "linear", "`num_steps` must be a whole number of at least 2, got 1"),
        (torch.ones(2), 5, "curved", '`method` must be "linear" or "spherical", got \'curved\''),
        (-torch.ones(2), 5, "spherical", "`start` and `end` must be no zero vectors and not opposite"),
        (torch.zeros(2), 5, "spherical", "`start` and `end` must be no zero vectors and not opposite"),
    ],
)
def test_interpolate_refuses(end, steps, method, message):
    with pytest.raises(ValueError, match=message):
        evaluate.interpolate(torch.ones(2), end, steps, method)


# --------------------------------------------------------------------------------------------------------------- grids


def test_grid_of_quantiles_has_cells_of_equal_prior_mass():
    z = evaluate.latent_grid(2, 5)
    expected = torch.from_numpy(norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(z[2, :, 0], expected)
    torch.testing.assert_close(z[:, 3, 1], expected)
    assert (z[0, :, 1] == z[0, 0, 1]).all()


def test_grid_of_deviations_is_even_and_others_are_held():
    fixed = torch.tensor([7.0, 8.0, 9.0])
    z = evaluate.latent_grid(3, 5, extent=2.0, units=(2, 0), fixed=fixed)
    assert z[0, :, 2].tolist() == z[:, 0, 0].tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert (z[..., 1] == 8).all()
    assert fixed.tolist() == [7.0, 8.0, 9.0]


@pytest.mark.parametrize("extent", [None, 3.0])
def test_the_middle_of_the_manifold_is_the_decoded_origin(ppca, extent):
    grid = evaluate.manifold_means(ppca, 5, extent=extent, units=(1, 2))
    assert grid.shape == (5, 5, 64)
    torch.testing.assert_close(grid[2, 2], evaluate.decode_means(ppca, torch.zeros(3)), rtol=1e-12, atol=1e-12)
    steps = grid[:, 3] - grid[:, 2]  # a column to the right is a step along w_1, the same in every row
    torch.testing.assert_close(steps, steps[:1].expand(5, -1))
    z = evaluate.latent_grid(3, 5, extent=extent, units=(1, 2))
    along = (z[0, 3, 1] - z[0, 2, 1]) * ppca.weight[:, 1].detach()
    torch.testing.assert_close(steps[0], along, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be a whole number of at least 1, got 0"),
        ({"units": (0, 0)}, r"`units` must be two different units from 0 to L - 1 = 2, got \(0, 0\)"),
        ({"units": (0, 3)}, r"`units` must be two different units from 0 to L - 1 = 2, got \(0, 3\)"),
        ({"extent": -1.0}, "`extent` must be a positive number of standard deviations or None, got -1"),
        ({"fixed": torch.zeros(2)}, r"`fixed` must have shape \(3,\), got \(2,\)"),
    ],
)
def test_grid_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.latent_grid(3, **options)
