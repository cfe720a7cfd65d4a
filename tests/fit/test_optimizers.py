"""Adam's running means do not fade into subnormal numbers, and nothing else changes."""

import pytest
import torch
from torch import nn

from pyrovae import VAE, Bernoulli, Execution, fit
from pyrovae.fit import training
from pyrovae.fit.optimizers import NEGLIGIBLE, UPKEEP, forget_negligible

TINY = torch.finfo(torch.float32).tiny


def subnormal(tensor):
    return (tensor != 0) & (tensor.abs() < TINY)


def test_between_two_upkeeps_no_running_mean_becomes_subnormal():
    """From the least number that upkeep leaves, by Adam's own decay of 0.9 at zero gradients."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    parameter.grad = torch.ones(2)
    optimizer.step()
    mean = optimizer.state[parameter]["exp_avg"]
    mean.copy_(torch.tensor([1.01 * NEGLIGIBLE * TINY, 0.99 * NEGLIGIBLE * TINY]))
    forget_negligible(optimizer)
    assert (mean != 0).tolist() == [True, False]
    parameter.grad = torch.zeros(2)
    for _ in range(UPKEEP):
        optimizer.step()
    assert not subnormal(mean).any()
    forget_negligible(optimizer)
    assert (mean == 0).all()


def rare_pixels():
    """Of 48 pixels 40 are on in one datum of 1,200 each: after 790 steps 0.9^n is subnormal, after 980 it is zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((1200, 48), 0.5), generator=generator)
    x[:, 8:] = 0
    x[torch.arange(40), torch.arange(8, 48)] = 1
    return x


def fitted(optimizers):
    def adam(parameters, lr):
        optimizers.append(torch.optim.Adam(parameters, lr=lr))
        return optimizers[-1]

    torch.manual_seed(0)
    options = {"num_epochs": 2, "batch_size": 1, "optimizer": adam, "seed": 1, "execution": Execution(compile="graph")}
    vae = VAE(2, 48, Bernoulli(), hidden=(6,))
    return fit.svi(vae, rare_pixels(), warm_start=True, **options).model.state_dict()  # not started at the data: x is 0


@pytest.mark.filterwarnings("ignore:SVI ended in a degenerate fit")  # pixels without structure
def test_a_fit_is_the_same_to_the_bit_and_has_no_subnormal_numbers(monkeypatch):
    kept, plain = [], []
    with_upkeep = fitted(kept)
    monkeypatch.setattr(training, "forget_negligible", lambda optimizer: None)
    without = fitted(plain)
    for name, value in with_upkeep.items():
        assert (value == without[name]).all(), name
    means = [state["exp_avg"] for optimizer in (*kept, *plain) for state in optimizer.state.values()]
    of_each = torch.tensor([subnormal(mean).sum().item() for mean in means]).view(2, -1).sum(1)
    assert of_each[0] == 0
    assert of_each[1] > 0  # else the test asks for nothing


def test_another_optimizer_is_left_alone():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.full((1,), 1e-35)
    optimizer.step()
    forget_negligible(optimizer)
    assert optimizer.state[parameter]["momentum_buffer"] == torch.tensor(1e-35)
