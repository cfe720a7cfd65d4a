"""The classifier whose hidden layers are features for FID: learns, follows its seed, leaves the world as it was."""

import pytest
import torch
from torch import nn

from pyrovae import data, evaluate


def dense():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_tells_held_out_digits_apart(digits):
    network = evaluate.train_classifier(dense, digits.train, num_epochs=10)
    right = (network(digits.test.x).argmax(1) == digits.test.labels).float().mean()
    assert right > 0.8  # 0.1 by chance; a linear classifier is right on 95%
    assert not network.training


def test_seed_decides_and_leaves_no_trace(digits):
    state = torch.get_rng_state()
    first, again, other = (evaluate.train_classifier(dense, digits.train, num_epochs=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    x = digits.test.x
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


def test_hidden_layers_are_features_for_fid(digits):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: pip install 'pyrovae[fid]'")
    network = evaluate.train_classifier(dense, digits.train.images(), num_epochs=2)
    distance = evaluate.FID(digits.test, network[:-1])
    noise = torch.rand(len(digits.valid), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance(digits.valid) < distance(noise)


def test_data_without_labels_are_refused():
    with pytest.raises(ValueError, match="`data` must have labels"):
        evaluate.train_classifier(dense, data.Observations(torch.zeros(4, 3)))


@pytest.mark.parametrize("name", ["num_epochs", "batch_size"])
def test_counts_are_checked(digits, name):
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number"):
        evaluate.train_classifier(dense, digits.train, **{name: 0})
