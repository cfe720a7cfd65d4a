"""Saving and loading models: a description in plain values and the tensors, so that loading never executes code."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae.engine.files import written_whole
from pyrovae.models import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.likelihoods import LIKELIHOODS
from pyrovae.models.parameters import taken
from pyrovae.models.stored import restore_stored, stored_tensors

FORMAT = "pyrovae model, version 1"
CONTENT = {"format": str, "model": str, "config": dict | None, "state": dict}
MODELS: dict[str, type[LatentVariableModel]] = {
    cls.__name__: cls for cls in (GaussianMixture, PPCA, FactorAnalysis, PPCAMixture, BernoulliMixture, VAE)
}


def save(model: LatentVariableModel, path: str | Path, *, description: Mapping[str, Any] | None = None) -> Path:
    """Write a model to a file, under a temporary name that is then renamed.

    Args:
        model: Any model.  One with modules of your own can be loaded only into a model like it.
        path: The file, in a folder that exists.
        description: What else to keep, in plain values (as in JSON): its data, say.  See :func:`describe`.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is no such folder.
        TypeError: If ``description`` holds anything but plain values.

    Example:
        >>> import tempfile
        >>> ppca = PPCA(latent_dim=1, data_shape=(3,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(save(ppca, Path(folder) / "ppca.pt"))
        >>> again.config == ppca.config
        True
    """
    try:
        described = json.dumps(description)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`description` must hold plain values, as JSON does, got others: {error}.") from error
    content = {
        "format": FORMAT,
        "model": type(model).__name__,
        "config": model.config,
        "state": {name: tensor.cpu() for name, tensor in {**model.state_dict(), **taken(model)}.items()},
        "stored": {name: getattr(holder, key).detach().cpu() for name, holder, key in stored_tensors(model)},
        "description": described,
    }
    with written_whole(path) as temporary:
        torch.save(content, temporary)
    return Path(path)


def load(
    path: str | Path, into: LatentVariableModel | None = None, *, device: torch.device | str = "cpu"
) -> LatentVariableModel:
    """Read a model from a file.

    Args:
        path: A file written by :func:`save`.
        into: For a model with modules of your own: a model built as that one was, to copy and fill.
        device: Where to put it.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not one of ours, or needs ``into``, or another one.
    """
    content = _read(path)
    kind, state = content["model"], content["state"]
    if into is not None and type(into).__name__ != kind:
        raise ValueError(f"`into` must be a {kind}, which the file holds, got a {type(into).__name__}.")
    model = _built(kind, content["config"]) if into is None else into.copy()
    own_state = (state[name] for name, _ in model.named_parameters() if name in state)
    dtype = next((tensor.dtype for tensor in own_state if tensor.is_floating_point()), None)
    try:
        model.to(device=device, dtype=dtype)
        for name, own in itertools.chain(model.named_parameters(), model.named_buffers()):
            own.data = own.data.to(state.get(name, own).dtype)  # a fitted mixture has one of its own, as a prior
        model.load_state_dict({**_without_units(model, state), **state})
        restore_stored(model, content.get("stored", {}))
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise ValueError(f"`path` holds parameters that do not fit the {kind}: {message}") from error
    return model.eval()


def _without_units(model: LatentVariableModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What files of earlier releases lack: their networks saw the data, and gave p(x|z), in the units of the data."""
    one = {"centre": torch.zeros_like, "unit": torch.ones_like}
    buffers = ((name, name.rpartition(".")[2], each) for name, each in model.named_buffers() if name not in state)
    return {name: one[last](each) for name, last, each in buffers if last in one}


def describe(path: str | Path) -> dict[str, Any] | None:
    """The description that a model was saved with, or None.

    Args:
        path: A file written by :func:`save`.

    Raises:
        FileNotFoundError, ValueError: As :func:`load`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     describe(save(PPCA(1, 3), Path(folder) / "ppca.pt", description={"data": "digits"}))
        {'data': 'digits'}
    """
    return _read(path)["description"]


def _read(path: str | Path) -> dict[str, Any]:
    """What is in a file: the tensors on the CPU, the description in plain values, None if there is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a file written by pyrovae.save, got {str(path)!r}, which is no file.")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        whole = all(isinstance(content[key], kind) for key, kind in CONTENT.items())
        if not (whole and all(isinstance(tensor, torch.Tensor) for tensor in content["state"].values())):
            raise TypeError("not the content of a model")
        content["description"] = json.loads(content.get("description", "null"))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"`path` must be a file written by pyrovae.save, got {str(path)!r}, which is not.") from error
    if (written := content["format"]) != FORMAT:
        raise ValueError(f"`path` must hold a {FORMAT!r}, got {written!r}; read it with the release that wrote it.")
    return content


def _built(kind: str, config: dict[str, Any] | None) -> LatentVariableModel:
    """The model that a description names, if every class in it is one of ours."""
    if config is None or not _is_ours(kind, config):
        raise ValueError(
            f"`into` must be given for a {kind} with parts of your own, got None; pass a model built as that one was."
        )
    try:
        arguments = {**config, "data_shape": tuple(config["data_shape"])}
        if "likelihood" in config:
            described = dict(config["likelihood"])
            arguments["likelihood"] = LIKELIHOODS[described.pop("kind")](**described)
        return MODELS[kind](**arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"`path` holds no {kind} that can be built: {' '.join(str(error).split())}") from error


def _is_ours(kind: str, config: dict[str, Any]) -> bool:
    """Whether every class that the description names is one of ours."""
    return kind in MODELS and ("likelihood" not in config or dict(config["likelihood"]).get("kind") in LIKELIHOODS)
