"""Checks of arguments: whatever comes, the answer is the sentence or nothing."""

import numpy as np
import pytest
import torch

from pyrovae import PPCA, VAE, load, save
from pyrovae.engine.checks import check_choice, check_positive, check_share, check_whole


@pytest.mark.parametrize("value", [0, 2.0, "2", None, True, np.array([1, 2]), torch.ones(2), 5])
def test_what_is_no_whole_number_in_range_is_refused(value):
    with pytest.raises(ValueError, match="`n` must be a whole number from 1 to 4, got"):
        check_whole("n", value, 1, 4)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 10**400, "2", None, True, torch.ones(2), [1]])
def test_what_is_no_positive_number_is_refused(value):
    with pytest.raises(ValueError, match="`a` must be a positive number, got"):
        check_positive("a", value)
    with pytest.raises(ValueError, match="`a` must be a number between 0 and 1, got"):
        check_share("a", value)


@pytest.mark.parametrize("value", ["b", 0, None, torch.ones(2), np.array(["a", "a"]), ["a"]])
def test_what_is_no_choice_is_refused(value):
    with pytest.raises(ValueError, match='`c` must be "a" or False, got'):
        check_choice("c", value, ("a", False))


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    check_whole("n", np.int64(3), 1, 4)
    check_whole("n", None, optional=True)
    check_positive("a", np.float32(0.5))
    check_positive("a", torch.tensor(0.5))
    check_choice("c", False, ("a", False))
    for model in (PPCA(np.int64(1), (3,)), VAE(np.int64(1), (3,), hidden=(4,))):
        assert load(save(model, tmp_path / "model.pt")).latent_dim == 1
