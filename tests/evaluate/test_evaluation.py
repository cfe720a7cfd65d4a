"""What an evaluator works in leaves no trace: modes of modules, random state, parameter store."""

import pyro
import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, evaluate
from pyrovae.engine.isolation import evaluating
from pyrovae.evaluate.evaluation import Evaluation


def frozen_in_part():
    vae = VAE(1, 4, hidden=(6,)).train()
    vae.decoder.eval()  # as a batch norm that its user has frozen
    return vae


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_in_its_own_mode_again(fails):
    vae = frozen_in_part()
    modes = [module.training for module in vae.modules()]
    try:
        with evaluating(vae, vae.guide):
            assert not any(module.training for module in vae.modules())
            pyro.param("mine", torch.zeros(1))
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [module.training for module in vae.modules()] == modes
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize(
    "call",
    [
        lambda vae, x: evaluate.log_weights(vae, x, 5),
        lambda vae, x: evaluate.quadrature(vae, x, tolerance=0.1),
        lambda vae, x: evaluate.posterior_grid(vae, x, 5, tolerance=0.1),
        lambda vae, x: evaluate.encode(vae, x),
        lambda vae, x: evaluate.reconstruct_samples(vae, x),
        lambda vae, x: evaluate.posterior_predictive_check(vae, x, num_replicates=2),
    ],
)
def test_an_evaluator_leaves_modes_and_random_state(call):
    vae, state = frozen_in_part(), torch.get_rng_state()
    modes = [module.training for module in vae.modules()]
    torch.set_rng_state(state)
    call(vae, torch.linspace(-1, 1, 12).reshape(3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in vae.modules()] == modes


def test_blocks_of_two_posteriors_at_once_leave_the_parameter_store_to_its_owner():
    """Two generators that overlap, the first ending first."""
    pyro.param("mine", torch.ones(1))
    try:
        evaluate.posterior_gap(PPCA(1, 3), torch.zeros(2, 3, dtype=torch.float64))
        assert set(pyro.get_param_store().keys()) == {"mine"}
    finally:
        pyro.clear_param_store()


def test_what_cannot_be_evaluated_is_refused():
    x = torch.zeros(3, 4)
    with pytest.raises(TypeError, match="`model` must be a LatentVariableModel, got Linear"):
        Evaluation(nn.Linear(2, 2), x)
    with pytest.raises(ValueError, match="`chunk_size` must be a whole number of at least 1, or None, got 0"):
        Evaluation(VAE(1, 4, hidden=(6,)), x, chunk_size=0)
