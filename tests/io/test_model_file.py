"""A model that was saved is the same model when it is loaded, and loading runs no code of the file."""

import itertools
import math
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import (
    PPCA,
    VAE,
    Bernoulli,
    BernoulliMixture,
    ContinuousBernoulli,
    CrossEntropyLoss,
    DiscretizedLogistic,
    FactorAnalysis,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    LowRankGaussian,
    PPCAMixture,
    evaluate,
)
from pyrovae.data import Observations
from pyrovae.io import model_file
from pyrovae.models.networks import LinearGaussianEncoder

D = 4
LIKELIHOODS = (
    Bernoulli(),
    ContinuousBernoulli(),
    CrossEntropyLoss(),
    DiscretizedLogistic(2, "per_dim", 0.01),
    Gaussian("decoder", bounded=True),
    LowRankGaussian(1, 0.01),
    FullGaussian(0.01),
)


def vae(likelihood, network, posterior, num_classes):
    hidden = (8, 6) if network == "mlp" else (3,)
    return VAE(2, (1, 2, 2), likelihood, hidden, "silu", network=network, posterior=posterior, num_classes=num_classes)


MODELS = {
    **{
        f"{covariance} mixture": lambda covariance=covariance: GaussianMixture(3, D, covariance, floor=0.1)
        for covariance in ("full", "tied", "diag", "spherical")
    },
    "PPCA": lambda: PPCA(2, D, floor=0.1),
    "factor analysis": lambda: FactorAnalysis(2, D, floor=0.1),
    "mixture of PPCAs": lambda: PPCAMixture(3, 2, D, floor=0.1),
    "Bernoulli mixture": lambda: BernoulliMixture(3, D, floor=0.1),
    "Bernoulli VAE": lambda: VAE(2, D, Bernoulli(), hidden=(8,)),
    **{
        f"Gaussian VAE, {scale}": lambda scale=scale: VAE(2, D, Gaussian(scale, 0.01), (8, 6), "silu")
        for scale in (0.3, "shared", "per_dim", "decoder_scalar", "decoder")
    },
    "linear VAE": lambda: VAE(2, D, hidden=()),
    "image VAE": lambda: VAE(2, (1, 2, 2), hidden=(8,)),
    **{
        ", ".join(map(str, choice)): lambda choice=choice: vae(*choice)
        for choice in itertools.product(LIKELIHOODS, ("mlp", "conv"), ("diag", "full"), (None, 3))
    },
}


def random_parameters(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def values(model):
    """What the model says of fixed data: log p(x), or the importance weights at a fixed seed."""
    dtype = next(model.parameters()).dtype
    x = Observations((torch.arange(6 * D).reshape(6, *model.data_shape) % 2).to(dtype), labels=torch.arange(6) % 3)
    with torch.no_grad():
        return model.log_prob(x) if hasattr(model, "log_prob") else evaluate.log_weights(model, x, 5, seed=1)


@pytest.fixture(params=MODELS)
def model(request):
    return random_parameters(MODELS[request.param]())


# -------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_loaded_is_what_was_saved_to_the_last_bit(model, dtype, tmp_path):
    model.to(dtype)
    again = model_file.load(model_file.save(model, tmp_path / "model.pt"))
    assert type(again) is type(model)
    assert again.config == model.config
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert torch.equal(values(again), values(model))


def test_in_a_new_process_too(tmp_path):
    expected = {}
    for number, build in enumerate([*MODELS.values()][:8] + [*MODELS.values()][8::5]):
        model = random_parameters(build())
        model_file.save(model, tmp_path / f"{number}.pt")
        expected[number] = values(model)
    torch.save(expected, tmp_path / "expected")
    script = f"""
import sys, importlib.util, torch
from pyrovae.io import model_file
spec = importlib.util.spec_from_file_location("here", {__file__!r})
here = importlib.util.module_from_spec(spec); spec.loader.exec_module(here)
expected = torch.load({str(tmp_path / "expected")!r})
assert all(torch.equal(here.values(model_file.load(f"{tmp_path}/{{n}}.pt")), v) for n, v in expected.items())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_loaded_model_is_ready_to_be_used_and_trained(tmp_path):
    again = model_file.load(model_file.save(VAE(2, D, hidden=(8,)), tmp_path / "vae.pt"))
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())


def test_saving_replaces_an_earlier_file_and_leaves_no_other(tmp_path):
    first, second = (random_parameters(PPCA(q, D)) for q in (1, 2))
    path = tmp_path / "model.pt"
    assert model_file.save(first, path) == model_file.save(second, str(path)) == path
    assert model_file.load(path).latent_dim == 2
    assert os.listdir(tmp_path) == ["model.pt"]


# ------------------------------------------------------------------------------------------------ modules of one's own


class OwnDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, D)

    def forward(self, z):
        return dist.Normal(self.net(z), 1.0).to_event(1)


class OwnVAE(VAE):
    pass


@dataclass(frozen=True)
class OwnLikelihood(Gaussian):
    pass


OWN = {
    "decoder": lambda: VAE(2, D, decoder=OwnDecoder(), hidden=(8,)),
    "guide": lambda: PPCA(2, D, encoder=LinearGaussianEncoder(D, 2, torch.float64)),
    "class": lambda: OwnVAE(2, D, hidden=(8,)),
    "likelihood": lambda: VAE(2, D, OwnLikelihood(), hidden=(8,)),
}


@pytest.mark.parametrize("build", OWN.values(), ids=OWN)
def test_parts_of_ones_own_are_loaded_into_a_model_built_as_that_one(build, tmp_path):
    model, like = random_parameters(build()), build()
    path = model_file.save(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"`into` must be given for a \w+ with parts of your own"):
        model_file.load(path)
    before = {name: tensor.clone() for name, tensor in like.state_dict().items()}
    again = model_file.load(path, into=like)
    assert torch.equal(values(again), values(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in like.state_dict().items())  # `into` is copied


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (PPCA(2, D), "`into` must be a VAE, which the file holds, got a PPCA"),
        (VAE(2, D, hidden=(9,)), "holds parameters that do not fit the VAE"),
    ],
    ids=["class", "sizes"],
)
def test_a_model_built_otherwise_is_refused(into, message, tmp_path):
    path = model_file.save(VAE(2, D, hidden=(8,)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        model_file.load(path, into=into)


# ------------------------------------------------------------------------------------------------------------ bad files


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("into", [None, PPCA(2, D)], ids=["alone", "into"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(write, into, tmp_path):
    target, path = tmp_path / "touched", tmp_path / "model.pt"
    write({"format": model_file.FORMAT, "model": "PPCA", "config": {}, "state": Malicious(str(target))}, path)
    with pytest.raises(ValueError, match=r"`path` must be a file written by pyrovae.save"):
        model_file.load(path, into)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1])], ids=["empty", "text", "pickle"])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` must be a file written by pyrovae.save, got '.*model.pt'"):
        model_file.load(path)


def test_a_state_dict_alone_is_refused(tmp_path):
    torch.save(PPCA(2, D).state_dict(), tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"`path` must be a file written by pyrovae.save"):
        model_file.load(tmp_path / "state.pt")


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"format": "pyrovae model, version 9", "model": "PPCA", "config": {}, "state": {}}, path)
    with pytest.raises(ValueError, match="must hold a 'pyrovae model, version 1', got 'pyrovae model, version 9'"):
        model_file.load(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must be a file .*nothing.pt', which is no file"):
        model_file.load(tmp_path / "nothing.pt")


@pytest.mark.parametrize("state", [[1], {"weight": 3}, {"weight": torch.zeros(1), "nested": {}}])
def test_a_state_that_is_none_is_refused(state, tmp_path):
    torch.save({"format": model_file.FORMAT, "model": "PPCA", "config": None, "state": state}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"`path` must be a file written by pyrovae.save"):
        model_file.load(tmp_path / "model.pt", PPCA(2, D))


@pytest.mark.parametrize("config", [{}, {"data_shape": 3}, {"data_shape": [4], "latent_dim": 9}, {"likelihood": []}])
def test_a_description_that_no_model_has_is_refused(config, tmp_path):
    torch.save({"format": model_file.FORMAT, "model": "PPCA", "config": config, "state": {}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"`path` holds no PPCA that can be built|`into` must be given"):
        model_file.load(tmp_path / "model.pt")


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must be a file in a folder that exists, .* make it first"):
        model_file.save(PPCA(2, D), tmp_path / "nowhere" / "model.pt")
    assert not os.listdir(tmp_path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"`path` must be a file, got .* which is a folder"):
        model_file.save(PPCA(2, D), tmp_path)


def test_a_description_is_kept_beside_the_model(tmp_path):
    description = {"data": "digits", "numbers": [1, 0.1, None, True], "nested": {"ε": math.pi}}
    path = model_file.save(PPCA(2, D), tmp_path / "model.pt", description=description)
    assert model_file.describe(path) == description
    assert model_file.describe(model_file.save(PPCA(2, D), path)) is None
    with pytest.raises(TypeError, match=r"`description` must hold plain values, as JSON does, got others: .*Tensor"):
        model_file.save(PPCA(2, D), path, description={"x": torch.zeros(1)})


def test_a_file_of_an_earlier_release_has_no_description(tmp_path):
    path = model_file.save(PPCA(2, D), tmp_path / "model.pt", description={"data": "digits"})
    content = torch.load(path, weights_only=True)
    del content["description"]
    torch.save(content, path)
    assert model_file.describe(path) is None
    assert model_file.load(path).latent_dim == 2


def test_nothing_is_left_behind_when_saving_fails(tmp_path, monkeypatch):
    path = model_file.save(random_parameters(PPCA(2, D)), tmp_path / "model.pt")
    before = path.read_bytes()

    def full(content, file):
        file.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        model_file.save(PPCA(1, D), path)
    assert os.listdir(tmp_path) == ["model.pt"]
    assert path.read_bytes() == before
