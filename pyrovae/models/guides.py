"""Guides q(z|x) that serve more than one model; that of a conditional VAE stands beside its program."""

from typing import Any

import pyro
from pyro.poutine.runtime import InferDict
from torch import Tensor, nn

from pyrovae.models.base import Program
from pyrovae.models.tractable import TractableModel


class AmortizedGuide(Program):
    """z ~ q(z|x) = encoder(x); a discrete z is marked for enumeration."""

    encoder: nn.Module

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        if x is None:
            raise ValueError("`x` must be given to an amortized guide, got None; q(z|x) needs data.")
        q = self.encoder(x)
        infer: InferDict = {"enumerate": "parallel"} if q.has_enumerate_support else {}
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q, infer=infer)


class MarginalGuide(Program):
    """The empty guide: z is enumerated in the model, so the ELBO of ``TraceEnum_ELBO`` is log p(x) itself."""

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> None:
        return None


def exact_guide(model: TractableModel) -> AmortizedGuide:
    """The exact posterior of a tractable model as a Pyro guide: every importance weight then equals log p(x).

    Args:
        model: Any model with ``posterior``.

    Returns:
        A guide for stock Pyro, ``guide(x, *, num_data=1)``.

    Raises:
        TypeError: If the model's posterior is not known.
    """
    if not hasattr(model, "posterior"):
        raise TypeError(f"`model` must have a closed-form posterior, got {type(model).__name__}; use its own guide.")
    return AmortizedGuide(_ExactPosterior(model))


def is_exact(guide: Program) -> bool:
    """Whether a guide is one of :func:`exact_guide`."""
    return isinstance(getattr(guide, "encoder", None), _ExactPosterior)


class _ExactPosterior(nn.Module):
    """The encoder that knows: x → the exact p(z|x) of a tractable model."""

    def __init__(self, tractable: TractableModel) -> None:
        super().__init__()
        self._tractable = (tractable,)  # in a tuple: its parameters are θ, not this encoder's

    def forward(self, x: Tensor) -> pyro.distributions.Distribution:
        tractable: Any = self._tractable[0]
        posterior = getattr(tractable, "_posterior", tractable.posterior)  # which does not check the data at each step
        return posterior(x)
