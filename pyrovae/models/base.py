"""What every model here is: a Pyro program with parameters θ, and a guide with parameters φ.

``model.model`` and ``model.guide`` are the two programs, callables for stock Pyro with one signature,
``program(x=None, *, num_data=1)``, and a plate ``"data"`` over the batch given.  Latent sites, one or several, and the
one observed site may have any names; here they are ``"z"`` and ``"x"``.  A
:class:`~pyrovae.models.tractable.TractableModel` has in closed form, in plain torch and independent of Pyro, also
log p(x) and p(z|x).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyrovae.data import Observations, as_observations
from pyrovae.data.observations import Support
from pyrovae.engine.checks import check_choice, check_positive, check_whole
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.models.floors import share_at_floor
from pyrovae.models.latents import (
    Latents,
    Values,
    bare,
    data_first,
    known,
    named_sites,
    run_of,
    zeros_for,
)
from pyrovae.models.parameters import Held, Parameters, hold, parameters_of
from pyrovae.models.stored import computed_from_own, copied, stored_tensors

Missing = Literal["error", "nan"]

_instance_number = itertools.count()


class Program(PyroModule):
    """A Pyro program that holds its own parameters, under a name that no other instance has.

    Pyro finds parameters by name, in one store for the whole process: two modules of one name share them, and the
    second never trains.  So each instance is named at birth, and renamed when it is copied or unpickled.

    Attributes:
        pyro_params: What it takes by ``pyro.param``, once a fit has taken that into the model.
    """

    pyro_params: Parameters

    def __init__(self) -> None:
        super().__init__(name=f"{type(self).__name__}_{next(_instance_number)}")
        self.pyro_params = Parameters()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Held(self.pyro_params):
            return super().__call__(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fresh_context = type(self._pyro_context)()
        self._pyro_set_supermodule(f"{type(self).__name__}_{next(_instance_number)}", fresh_context)


class LatentVariableModel(nn.Module):
    """A generative model p(z) p(x|z) beside a guide q(z|x).

    Attributes:
        model: The generative program, holding θ.
        guide: The amortized guide, holding φ.
        data_shape: Shape of one datum, or None when only the user's own modules know.
        support: ``"boolean"``, ``"integer"`` or ``"real"``: what kind of data p(x) is a density or mass of; None when
            unknown.
        missing: ``"nan"`` where a NaN among the data is a value not observed, and p(x) is the marginal of the observed
            ones; ``"error"`` where it is refused.  The Pyro programs take complete data alone.
        num_classes: Number of classes K where the model is p(x|y), conditional on labels y in {0, …, K − 1}; None
            where it is p(x).
        is_density: Whether p(x|z) is a density or a mass at all; a loss under its name is not.
        decoded_floats: Numbers that p(x|z) holds for each datum, if more than x itself has; else None.
        covariance_floor: ε, if every Gaussian in p(x) is kept at Σ ⪰ ε I; None where p(x) is a mass, or has no such
            floor.
        floor_is_given: Whether a fit keeps this ε; else it follows the data of each fit.
        config: The constructor's arguments as plain values, so that a saved model can be built again; None where
            modules of the user's own are part of it.
        takes_particles: Whether the programs are known to take many particles at once; else evaluators look.
    """

    model: Program
    guide: Program
    data_shape: tuple[int, ...] | None = None
    support: Support | None = "real"
    missing: Missing = "error"
    num_classes: int | None = None
    is_density: bool = True
    decoded_floats: int | None = None
    covariance_floor: float | None = None
    floor_is_given: bool = True
    config: dict[str, Any] | None = None
    takes_particles: bool = False
    _frozen: tuple[nn.Module, ...] = ()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a submodule that was put into evaluation mode by itself always stays there.

        Such a one is a backbone whose batch norm is frozen, say.  Its own ``train()`` thaws it.
        """
        known = self.modules() if self.training else self._frozen
        self._frozen = tuple(each for each in known if not each.training)
        super().train(mode)
        for each in self._frozen:
            each.training = False
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Beside parameters and buffers, ``to`` and its like move the distributions that a program stores."""
        super()._apply(fn, recurse)
        for _, holder, key in stored_tensors(self):
            setattr(holder, key, fn(getattr(holder, key)))
        return self

    @property
    def _like(self) -> Tensor:
        """A tensor of the type of the parameters, on their device; of a program without any, torch's default."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.zeros(()))

    def hold_parameters(self) -> None:
        """Take into the model what its programs, in their last runs, have taken from Pyro's store by ``pyro.param``."""
        hold(self)

    def forget_parameters(self) -> None:
        """Hold nothing of ``pyro.param``, so that a fit starts from what the programs or Pyro's store give."""
        for _, each in parameters_of(self):
            each.forget()

    def initialize(self, x: Tensor) -> None:
        """Set the starting parameters from data ``x`` (N, *data_shape) and torch's random state, in place."""
        raise NotImplementedError(
            f"`model` must have a method initialize(x) to start from the data, got {type(self).__name__} without one; "
            "write it, or pass warm_start=True to start from the parameters as they are."
        )

    def as_input(self, data: Observations | Tensor, name: str = "x") -> Tensor:
        """Check ``data`` and return them as this model takes them: of its shape, support, type and device.

        Observations of images serve flat or as images, whichever they are; a plain tensor must have the shape.

        Raises:
            ValueError: If the shape or the values do not fit the model.
        """
        x = self.checked(data, name).x
        like = next(itertools.chain(self.parameters(), self.buffers()), x)
        x = x.to(device=like.device, dtype=like.dtype)
        return x.clone() if x.is_inference() else x  # else no gradient could use it

    def checked(self, data: Observations | Tensor, name: str = "x") -> Observations:
        """Check that ``data`` are of this model's shape and support, and return them with nothing left to chance.

        Raises:
            ValueError: If the shape or the values do not fit the model.
        """
        observations = as_observations(data, name, allow_nan=self.missing == "nan").fixed()
        if (image := observations.image_shape) is not None and self.data_shape in (image, (math.prod(image),)):
            observations = replace(observations, x=observations.x.reshape(len(observations), *self.data_shape))
        if self.data_shape is not None and observations.data_shape != self.data_shape:
            expected = ", ".join(map(str, ("N", *self.data_shape)))
            flat = math.prod(observations.data_shape) == math.prod(self.data_shape)
            hint = "flatten or reshape the data first" if flat else "build the model with the `data_shape` of the data"
            raise ValueError(f"`{name}` must have shape ({expected}), got {tuple(observations.x.shape)}; {hint}.")
        x = observations.x
        if self.support == "boolean" and not ((x == 0) | (x == 1) | x.isnan()).all():
            seen = x[~x.isnan()]
            low, high = seen.min().item(), seen.max().item()
            raise ValueError(
                f"`{name}` must hold only 0 and 1 for a Bernoulli likelihood, got values in [{low:g}, {high:g}]; "
                'binarize them, e.g. data.load(..., observations="binary").'
            )
        return observations

    def program_inputs(self, data: Observations | Tensor, name: str = "x") -> tuple[Tensor, ...]:
        """What ``model`` and ``guide`` are called with on these data: ``(x,)``, or ``(x, y)`` if they ask for labels.

        Raises:
            TypeError: If labels are no whole numbers.
            ValueError: If the shape or the values do not fit the model, or labels are missing.
        """
        x = self.as_input(data, name)
        if self.num_classes is None:
            return (x,)
        labels = data.labels if isinstance(data, Observations) else None
        if labels is None:
            raise ValueError(
                f"`{name}` must carry labels for a model of p(x|y), got none; pass Observations(x, labels=y)."
            )
        return x, _as_labels(labels, self.num_classes, len(x), f"{name}.labels").to(x.device)

    @torch.no_grad()
    def sample(
        self, num_samples: int = 1, *, labels: Tensor | int | None = None, seed: int = 0
    ) -> tuple[Tensor, Values]:
        """Ancestral samples: z from the prior, then x from p(x|z), in evaluation mode.

        Args:
            num_samples: How many.
            labels: For a model of p(x|y): y, shape (num_samples,), or one label for all; left out, the classes in
                turn, 0, 1, … and round again.
            seed: Seed of the draws.

        Returns:
            x of shape (num_samples, *data_shape), and the z that it came from; by name, if there are several latents.

        Raises:
            ValueError: If the program observes several sites, or has a latent that all data share.
        """
        x, latents = self._generate(num_samples, labels, seed)
        return data_first(x), bare(latents)

    @torch.no_grad()
    def sample_means(
        self, num_samples: int = 1, *, labels: Tensor | int | None = None, seed: int = 0
    ) -> tuple[Tensor, Values]:
        """E[x|z] at z drawn from the prior: smoother than :meth:`sample`, and *not* samples of the model.

        The same seed gives the same z as :meth:`sample`.

        Args, Raises: As for :meth:`sample`.

        Returns:
            Means of shape (num_samples, *data_shape), and their z.
        """
        x, latents = self._generate(num_samples, labels, seed)
        return data_first(x, known(x["fn"], "mean")), bare(latents)

    def _generate(self, num_samples: int, labels: Tensor | int | None, seed: int) -> tuple[Any, Latents]:
        """The site of x, and the latents that it came from, by name."""
        check_whole("num_samples", num_samples)
        inputs = self._labels_to_generate(num_samples, labels)
        observed, latents = named_sites(self)
        with evaluating(self), seeded(seed):
            nodes = run_of(self, (None, *inputs), num_samples)
        if missing := [name for name in (observed, *latents) if name not in nodes]:
            raise ValueError(f"`model` must have the same sites with data and without, got {missing} with data alone.")
        return nodes[observed], {name: data_first(nodes[name]) for name in latents}

    def _labels_to_generate(self, num_samples: int, labels: Tensor | int | None) -> tuple[Tensor, ...]:
        """Nothing, or the labels of so many samples."""
        if self.num_classes is None:
            if labels is not None:
                raise ValueError("`labels` must be left out for a model of p(x), which knows no classes; got some.")
            return ()
        if labels is None:
            labels = torch.arange(num_samples) % self.num_classes
        y = torch.as_tensor(labels)
        device = self._like.device
        y = y.expand(num_samples) if y.ndim == 0 else y
        return (_as_labels(y, self.num_classes, num_samples, "labels").to(device),)

    @torch.no_grad()
    def share_at_floor(self, data: Observations | Tensor) -> Tensor:
        """Of the D variances that p(x) has about each datum, the share at the floor, up to 1.1 ε, shape (N,).

        They are those of p(x|z) at the mean of q(z|x), or of the component that x most likely comes from;
        of a Gaussian that is no product over dimensions, the eigenvalues of its covariance.

        Raises:
            ValueError: If there is no floor, or the data do not fit.
        """
        floor = self._floor_of_covariances()
        return share_at_floor(self._floored_variances(data), floor)

    @torch.no_grad()
    def with_floor(self, floor: float) -> Self:
        """A copy with a higher floor, to which those variances that are below it are lifted; all else stays.

        Raises:
            ValueError: If there is no floor to raise, or ``floor`` is not positive.
        """
        self._floor_of_covariances()
        lifted = self.copy()
        lifted.covariance_floor = check_floor(floor)
        lifted._lift(self, lifted.covariance_floor)
        return lifted

    def _floor_of_covariances(self) -> float:
        if self.covariance_floor is None:
            raise ValueError(f"`model` must have a covariance floor, got a {type(self).__name__} without one.")
        return self.covariance_floor

    def _floored_variances(self, data: Observations | Tensor) -> Tensor:
        """The variances about each datum that the floor binds, (N, D)."""
        raise NotImplementedError

    def _lift(self, lower: Self, floor: float) -> None:
        """Become ``lower``, of which this is a copy, with the variances below a floor lifted to it."""
        raise NotImplementedError

    def _plain(self, *names: str) -> dict[str, Any]:
        """The constructor's arguments of these names, as plain values."""
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def num_free_parameters(self) -> int | None:
        """Number of free parameters of p(x), those of ``model``; the guide's do not count.  None where nobody says."""
        return sum(p.numel() for p in self.model.parameters())

    def copy(self) -> Self:
        """An independent copy, with names of its own in Pyro's parameter store.

        Distributions that the program stores, a mixture as prior say, are constant in it.

        Raises:
            ValueError: If one was computed from the model's own parameters, so that no training reaches it.
        """
        if computed_from_own(self) and self.data_shape is not None:  # a program that makes them anew replaces them now
            with torch.no_grad(), evaluating(self), seeded(0):
                self.guide(*zeros_for(self))
                self.model(*zeros_for(self))
            if names := computed_from_own(self):
                raise ValueError(
                    f"`model` must make a distribution of its parameters while its program runs, got {names[0]!r}, "
                    "made before, which no training reaches; store the parameters alone, and build it in forward."
                )
        with torch.inference_mode(False):
            twin = copied(self)
        for parameter, given in zip(twin.parameters(), self.parameters(), strict=True):
            if not parameter.is_leaf:  # a copy of a module in TorchScript hangs on the gradients of the first
                parameter.detach_().requires_grad_()
            for hook in (given._backward_hooks or {}).values():  # a mask of gradients, say, which torch leaves behind
                parameter.register_hook(hook)
        return twin


def _as_labels(labels: Tensor, num_classes: int, num_data: int, name: str) -> Tensor:
    """Labels y in 0, …, K − 1 of so many data, checked."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"`{name}` must be whole numbers, got {labels.dtype}; convert them with y.long().")
    if labels.shape != (num_data,):
        raise ValueError(f"`{name}` must have shape ({num_data},), one label a datum, got {tuple(labels.shape)}.")
    low, high, last = labels.min().item(), labels.max().item(), num_classes - 1
    if low < 0 or high > last:
        raise ValueError(
            f"`{name}` must be in 0, …, {last}, got values from {low} to {high}; "
            "number the classes from 0, or build the model with more `num_classes`."
        )
    return labels.long()


def flat_dims(data_shape: int | tuple[int, ...]) -> int:
    """The D of a model of vectors, from ``D`` or ``(D,)``.

    Raises:
        ValueError: If the shape is not that of a vector.
    """
    shape = (data_shape,) if isinstance(data_shape, int) else tuple(data_shape)
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(
            f"`data_shape` must be (D,) with D at least 1, got {shape}; this model takes vectors, so flatten."
        )
    return shape[0]


def check_floor(floor: float) -> float:
    """A covariance floor ε > 0, in squared units of the data.

    Raises:
        ValueError: If it is not a positive number.
    """
    what = "variance, in squared units of the data"
    check_positive("floor", floor, what, hint="without one the likelihood is unbounded")
    return float(floor)


def check_missing(missing: Missing) -> Missing:
    """What is to become of a NaN.

    Raises:
        ValueError: If it is neither ``"error"`` nor ``"nan"``.
    """
    check_choice("missing", missing, ("error", "nan"))
    return missing


def check_model(model: object, guide: object = None) -> None:
    """Refuse what is no model of this package, or of its form.

    Args:
        model: What is to be one.
        guide: What is to stand for its guide, if anything.

    Raises:
        TypeError: If ``model`` is none, or its programs or ``guide`` are no programs.
    """
    if not isinstance(model, LatentVariableModel):
        kind = model.__name__ if callable(model) and hasattr(model, "__name__") else type(model).__name__
        raise TypeError(
            f"`model` must be a LatentVariableModel, got {kind}; a VAE takes any encoder and decoder, and any other "
            "Pyro model and guide become one as a subclass of pyrovae.models.LatentVariableModel."
        )
    programs = {f"model.{name}": getattr(model, name, None) for name in ("model", "guide")}
    for name, program in {**programs, "guide": guide}.items():
        if not isinstance(program, Program | None):
            raise TypeError(
                f"`{name}` must be a pyrovae.models.Program, got {type(program).__name__}; make it a subclass, whose "
                "forward(x=None, *, num_data=1) is the Pyro program."
            )
