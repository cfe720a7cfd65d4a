"""Speeds of a decoder's mean: those of a linear decoder are known, those of a curve bound its Lipschitz constant."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, evaluate, fit


class Wave(nn.Module):
    """A decoder whose mean is sin(3 z₁), of Lipschitz constant 3."""

    def forward(self, z):
        return dist.Normal((3 * z[..., :1]).sin(), 1.0).to_event(1)


def fitted(latent_dim):
    return fit.closed_form(PPCA(latent_dim, (5,)), torch.randn(50, 5, dtype=torch.float64)).model


def ends(pairs=40, latent_dim=2):
    return torch.randn(2, pairs, latent_dim, dtype=torch.float64)


def test_a_linear_decoder_has_the_speed_of_its_matrix():
    ppca, (start, end) = fitted(2), ends()
    found = evaluate.smoothness(ppca, start, end, num_steps=7)
    direction = (end - start) / (end - start).norm(dim=1, keepdim=True)
    speeds = (direction @ ppca.weight.T).norm(dim=1).detach()
    torch.testing.assert_close(found.speeds, speeds.expand(6, -1))
    assert found.unevenness == pytest.approx(1, abs=1e-9)
    assert found.typical == pytest.approx(speeds.median().item())


def test_along_the_first_singular_direction_the_bound_is_reached():
    ppca = fitted(3)
    _, values, right = torch.linalg.svd(ppca.weight.detach())
    found = evaluate.smoothness(ppca, -right[:1], right[:1])
    assert found.lipschitz == pytest.approx(values[0].item(), rel=1e-9)


def test_a_curve_stays_below_its_constant_and_comes_near_it():
    model = VAE(encoder=VAE(2, 1).encoder, decoder=Wave(), latent_dim=2, data_shape=(1,))
    start, end = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    found = evaluate.smoothness(model, start, end, num_steps=401)
    assert 3 * (1 - 1e-3) < found.lipschitz <= 3 + 1e-4  # float32
    mean = 2 - math.sin(3)  # ∫|3 cos 3z| dz over [−1, 1], over its length 2
    assert found.unevenness == pytest.approx(3 / mean, rel=1e-3)


def test_labels_reach_the_decoder():
    model = VAE(2, (6,), num_classes=3)
    start, end = (each.float() for each in ends(4))
    one = evaluate.smoothness(model, start, end, labels=1).speeds
    same = evaluate.smoothness(model, start, end, labels=torch.ones(4, dtype=torch.long)).speeds
    other = evaluate.smoothness(model, start, end, labels=torch.tensor([1, 1, 1, 2])).speeds
    assert torch.equal(one, same)
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3], other[:, 3])


def test_bad_pairs_are_named():
    ppca, z = fitted(2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="equal codes"):
        evaluate.smoothness(ppca, z, z)
    with pytest.raises(ValueError, match=r"shape \(P, L\)"):
        evaluate.smoothness(ppca, z[0], z[0])
    with pytest.raises(ValueError, match=r"shape \(P, L\)"):
        evaluate.smoothness(ppca, z, z[:2])
