"""Layers in bfloat16: what is rounded, what is not, and what it costs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyrovae import VAE, Bernoulli, Execution, fit
from pyrovae.engine.precision import LayersInBfloat16

D = 8


def bits():
    """Two kinds of data, of whose bits one in ten is turned."""
    kind = (torch.arange(D) < D / 2).float() + (torch.arange(96) % 2)[:, None] == 1
    return (kind ^ (torch.rand(96, D) < 0.1)).float()


def fits(num_epochs=15, **how):
    options = {"num_epochs": num_epochs, "batch_size": 32, "lr": 0.01, "execution": Execution(**how)}
    return fit.svi(VAE(2, D, Bernoulli(), hidden=(16,)), bits(), valid=bits(), **options)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 9, 9)])
def test_layers_round_and_nothing_else_does(shape):
    layer = nn.Linear(3, 4) if len(shape) == 2 else nn.Conv2d(3, 4, 3)
    x = torch.randn(shape)
    with LayersInBfloat16():
        y, product, normalised = layer(x), x @ x.mT, x.log_softmax(1)
    function = F.linear if len(shape) == 2 else F.conv2d
    rounded = function(*(each.bfloat16() for each in (x, layer.weight, layer.bias))).float()
    assert y.dtype == torch.float32
    assert torch.equal(y, rounded)
    assert not torch.equal(y, layer(x))
    assert torch.equal(product, x @ x.mT)
    assert torch.equal(normalised, x.log_softmax(1))
    y.square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_training_in_bfloat16_loses_next_to_nothing():
    """Two hundredths of a nat at the most, at the same start and draws."""
    torch.manual_seed(0)
    full = fits()
    torch.manual_seed(0)
    mixed = fits(precision="bf16")
    assert mixed.trace[0] != full.trace[0]
    assert mixed.valid_trace[-1] > mixed.valid_trace[0]
    assert abs(mixed.elbo - full.elbo) < 0.02
    assert all(each.dtype == torch.float32 for each in mixed.model.parameters())


def test_a_captured_step_rounds_as_the_plain_one():
    found = []
    for way in (False, "graph"):
        torch.manual_seed(0)
        found.append(fits(precision="bf16", compile=way, num_epochs=3))
    torch.testing.assert_close(found[1].trace, found[0].trace, rtol=1e-5, atol=0)


def test_what_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match=r'`precision` must be "full" or "bf16", got .half.'):
        fits(precision="half")
    with pytest.raises(ValueError, match=r"`precision='bf16'` needs a way of computing .* got compile='inductor'"):
        fits(precision="bf16", compile="inductor")
    with pytest.raises(ValueError, match=r"`precision='bf16'` needs parameters in float32, got torch.float64; use"):
        fit.svi(VAE(1, D).double(), bits().double(), execution=Execution(precision="bf16"))
