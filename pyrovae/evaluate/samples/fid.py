"""Fréchet inception distance, by torchmetrics: how far generated images lie from real ones, as a network sees them.

FID = |m − m'|² + tr(C + C' − 2 (C C')^½), with m, C the mean and covariance of the features of real images, m', C' of
generated ones.  It is biased upwards by an amount that falls with the number of images: compare at equal numbers only.
It is no likelihood, and says nothing of one.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyrovae.data import Observations, Space, as_observations
from pyrovae.models.base import LatentVariableModel


class FID:
    """Fréchet distance to a fixed set of real images, whose features are taken once.

    Args:
        real: Images, shape (N, channels, height, width) with values in [0, 1], or Observations of images; at least 2.
        feature: Any module, images → features (N, F), in whose space the distance is measured; it is given the images
            as they are.  None for the Inception network of the FID of the literature, which takes greys repeated to
            three channels; its weights are downloaded once, by torch-fidelity.
        batch_size: Images that go through the network at once.
        device: Where to compute; by default where the images are.

    Raises:
        ImportError: If torchmetrics (or, for the Inception network, torch-fidelity) is not installed.
        OSError: If the weights of the Inception network are not there and cannot be downloaded.
        ValueError: If images have another shape or range, or are fewer than 2.

    Reference:
        Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter (2017), GANs trained by a two time-scale update rule
        converge to a local Nash equilibrium.
    """

    def __init__(
        self,
        real: Observations | Tensor,
        feature: nn.Module | None = None,
        *,
        batch_size: int = 128,
        device: torch.device | str | None = None,
    ) -> None:
        images = _images(real, "real")
        self.image_shape = tuple(images.shape[1:])
        self.batch_size = batch_size
        self.device = torch.device(device or images.device)
        self.inception = feature is None
        if feature is not None:
            feature = _Features(copy.deepcopy(feature).to(self.device), images[:1].to(self.device))
        elif self.image_shape[0] not in (1, 3):
            raise ValueError(
                f"`real` must have 1 or 3 channels for the Inception network, got {self.image_shape[0]}; "
                "pass a `feature` module."
            )
        self._metric = _metric(feature).to(self.device)
        self._update(images, real=True)

    def __call__(self, generated: Observations | Tensor) -> float:
        """The distance from the real images to these; at least 0, lower is better.

        Args:
            generated: Images as ``real``, in [0, 1]: clamp what a Gaussian decoder gives.
        """
        images = _images(generated, "generated", self.image_shape)
        self._metric.reset()  # which keeps the features of the real images
        self._update(images, real=False)
        return float(self._metric.compute().clamp_min(0))  # rounding may leave it below

    @torch.no_grad()
    def _update(self, images: Tensor, *, real: bool) -> None:
        for batch in images.split(self.batch_size):
            batch = batch.to(self.device)
            if self.inception:
                batch = batch.float().expand(-1, 3, -1, -1)
            self._metric.update(batch, real=real)


def fid(
    real: Observations | Tensor, generated: Observations | Tensor, feature: nn.Module | None = None, **options: Any
) -> float:
    """Fréchet inception distance between real and generated images; lower is better.

    Args:
        real: Images with values in [0, 1], as for :class:`FID`, like every option.
        generated: Images of the same shape, of a number of their own.
        feature: A module, images → features, or None for the Inception network.
        **options: ``batch_size``, ``device``.

    Returns:
        The distance, in squared units of the features.

    Raises:
        ImportError, OSError, ValueError: As for :class:`FID`.
    """
    return FID(real, feature, **options)(generated)


class FIDHistory:
    """FID by epoch: called after an epoch of a fit, it adds the distance of what the model generates then.

    Args:
        distance: A :class:`FID` with the real images.
        space: The view of the images that the model is fitted in, ``data.space``; None if it sees them as they are.
            What it generates is brought back from there, and clamped to [0, 1], as if to be looked at.
        generate: ``"means"``, E[x|z] at z of the prior; ``"samples"``, x ~ p(x|z) there; or any function of
            the model that gives images as it sees them, ``lambda model: reconstruct_means(model, valid)`` say.
        num_images: Means or samples to generate; give equal numbers to whatever is to be compared.
        every: Epochs from one value to the next; the first is always taken.
        seed: Of the images, the same at every epoch.

    Attributes:
        epochs: Epochs that were measured.
        values: Their distances.
    """

    def __init__(
        self,
        distance: FID,
        space: Space | None = None,
        *,
        generate: Literal["means", "samples"] | Callable[[LatentVariableModel], Tensor] = "means",
        num_images: int = 1000,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        if every < 1 or num_images < 2:
            raise ValueError(f"`every` must be at least 1 and `num_images` at least 2, got {every} and {num_images}.")
        if not callable(generate) and generate not in ("means", "samples"):
            raise ValueError(f'`generate` must be "means", "samples" or a function of the model, got {generate!r}.')
        self.distance, self.transform = distance, (space or Space()).transform
        self.generate, self.num_images, self.every, self.seed = generate, num_images, every, seed
        self.epochs: list[int] = []
        self.values: list[float] = []

    def __call__(self, epoch: int, model: LatentVariableModel) -> None:
        """Measure ``model`` after ``epoch``, counted from 1."""
        if (epoch - 1) % self.every:
            return
        if callable(self.generate):
            x = self.generate(model)
        else:
            draw = model.sample_means if self.generate == "means" else model.sample
            x, _ = draw(self.num_images, seed=self.seed)
        images = self.transform.inv(x.to("cpu", torch.float64)).clamp(0, 1)
        self.values.append(self.distance(images.reshape(-1, *self.distance.image_shape)))
        self.epochs.append(epoch)


class _Features(nn.Module):
    """A feature module that knows how many features it gives, and stays in evaluation mode."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.module = module
        self.dtype = next((parameter.dtype for parameter in module.parameters()), None)
        self.eval()
        with torch.no_grad():
            features = self(image)
        if features.ndim != 2 or features.shape[0] != 1:
            raise ValueError(
                f"`feature` must give features of shape (N, F), got {tuple(features.shape)} for one image."
            )
        self.num_features: int = features.shape[1]

    def train(self, mode: bool = True) -> "_Features":
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images if self.dtype is None else images.to(self.dtype))


def _metric(feature: nn.Module | None) -> Any:
    """torchmetrics' own FID, with failures in one sentence."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(2048 if feature is None else feature, reset_real_features=False, normalize=True)
    except ImportError as error:
        raise ImportError(
            "FID needs torchmetrics, and torch-fidelity for the Inception network, which are not installed; "
            "install them by pip install 'pyrovae[fid]'."
        ) from error
    except OSError as error:
        folder = torch.hub.get_dir()
        raise OSError(
            f"`feature` None needs the weights of the Inception network, which could not be downloaded ({error}); put "
            f"torch-fidelity's weights-inception-2015-12-05-6726825d.pth into {folder}/checkpoints, or pass a module."
        ) from error


def _images(data: Observations | Tensor, name: str, image_shape: tuple[int, ...] | None = None) -> Tensor:
    """Checked images (N, channels, height, width)."""
    images = data.images().x if isinstance(data, Observations) else as_observations(data, name).x
    if images.ndim != 4 or len(images) < 2 or (image_shape is not None and tuple(images.shape[1:]) != image_shape):
        expected = ", ".join(map(str, image_shape or ("channels", "height", "width")))
        raise ValueError(
            f"`{name}` must be at least 2 images of shape (N, {expected}), got shape {tuple(images.shape)}."
        )
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"`{name}` must have values in [0, 1], got [{images.min():g}, {images.max():g}]; rescale them, or clamp "
            "what a Gaussian decoder gives by x.clamp(0, 1)."
        )
    return images
