"""Saving and loading models: a description in plain values and the tensors, so that loading never executes code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from pyrovae.models import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture
from pyrovae.models.base import LatentVariableModel

FORMAT = "pyrovae model, version 1"
MODELS: dict[str, type[LatentVariableModel]] = {cls.__name__: cls for cls in (GaussianMixture, PPCA, VAE)}
LIKELIHOODS: dict[str, type] = {cls.__name__: cls for cls in (Bernoulli, Gaussian)}


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
        ValueError: If the file is not one of ours, or needs ``into``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must be a file written by checkpoint.save, got {str(path)!r}, which is no file."
        )
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        known = (content["format"] == FORMAT and content["model"] in MODELS | {"": None}) or into is not None
    except Exception as error:
        raise ValueError(
            f"`path` must be a file written by checkpoint.save, got {str(path)!r}, which is not."
        ) from error
    if not known:
        raise ValueError(
            f"`path` holds a {content['model']!r} of {content['format']!r}, which this version cannot build."
        )
    if into is None and content["config"] is None:
        raise ValueError("`into` must be given for a model with modules of your own: a model built as that one was.")
    model = into.copy() if into is not None else MODELS[content["model"]](**_arguments(content["config"]))
    state = content["state"]
    dtype = next(iter(state.values())).dtype
    model.to(device=device, dtype=dtype).load_state_dict(state)
    return model.eval()


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments from their description."""
    arguments = dict(config)
    arguments["data_shape"] = tuple(arguments["data_shape"])
    if "likelihood" in arguments:
        description = dict(arguments["likelihood"])
        arguments["likelihood"] = LIKELIHOODS[description.pop("kind")](**description)
    return arguments
