"""Saving and loading models: a description in plain values and the tensors, so that loading never executes code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from pyrovae.models import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.likelihoods import LIKELIHOODS

FORMAT = "pyrovae model, version 1"
MODELS: dict[str, type[LatentVariableModel]] = {
    cls.__name__: cls for cls in (GaussianMixture, PPCA, FactorAnalysis, PPCAMixture, BernoulliMixture, VAE)
}


def save(model: LatentVariableModel, path: str | Path) -> Path:
    """Write a model to a file, under a temporary name that is then renamed.

    Args:
        model: Any model.  One with modules of your own can be loaded only into a model like it.
        path: The file.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> ppca = PPCA(latent_dim=1, data_shape=(3,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(save(ppca, Path(folder) / "ppca.pt"))
        >>> again.config == ppca.config
        True
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "model": type(model).__name__,
        "config": model.config,
        "state": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must be a file written by checkpoint.save, got {str(path)!r}, which is no file."
        )
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written, kind, config, state = (content[key] for key in ("format", "model", "config", "state"))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"`path` must be a file written by checkpoint.save, got {str(path)!r}, which is not."
        ) from error
    if written != FORMAT:
        raise ValueError(f"`path` must hold a {FORMAT!r}, got {written!r}; read it with the release that wrote it.")
    if into is None and (config is None or not _can_build(kind, config)):
        raise ValueError(
            f"`into` must be given for a {kind} with parts of your own, got None; pass a model built as that one was."
        )
    if into is not None and type(into).__name__ != kind:
        raise ValueError(f"`into` must be a {kind}, which the file holds, got a {type(into).__name__}.")
    model = into.copy() if into is not None else MODELS[kind](**_arguments(config))
    dtype = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), None)
    try:
        model.to(device=device, dtype=dtype).load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"`path` holds parameters that do not fit the {kind}: {' '.join(str(error).split())}"
        ) from error
    return model.eval()


def _can_build(kind: str, config: dict[str, Any]) -> bool:
    """Whether every class that the description names is one of ours."""
    return kind in MODELS and ("likelihood" not in config or config["likelihood"]["kind"] in LIKELIHOODS)


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments from their description."""
    arguments = dict(config)
    arguments["data_shape"] = tuple(arguments["data_shape"])
    if "likelihood" in arguments:
        description = dict(arguments["likelihood"])
        arguments["likelihood"] = LIKELIHOODS[description.pop("kind")](**description)
    return arguments
