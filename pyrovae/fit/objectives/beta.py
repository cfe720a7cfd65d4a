"""The β-weighted ELBO, E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z)), and its warm-up."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor, nn

from pyrovae.engine.checks import check_positive, check_whole

Program = Callable[..., Any]
WITHOUT_KL = "without KL use a small one"
WEIGHTED = (Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO)  # not their subclasses: one that compiles would keep a β


@dataclass(frozen=True)
class LinearWarmup:
    """A weight that grows linearly over the first steps, from final / num_steps at step 1, and then stays.

    Args:
        num_steps: Steps until the final weight.
        final: The final weight.

    Raises:
        ValueError: If ``num_steps`` is below 1.

    Example:
        >>> warmup = LinearWarmup(4, final=2.0)
        >>> [warmup(step) for step in (1, 2, 4, 5, math.inf)]
        [0.5, 1.0, 2.0, 2.0, 2.0]

    Reference:
        Bowman et al. (2016), Generating sentences from a continuous space; Sønderby et al. (2016), Ladder variational
        autoencoders.
    """

    num_steps: int
    final: float = 1.0

    def __post_init__(self) -> None:
        check_whole("num_steps", self.num_steps, hint="for no warm-up give the number β")

    def __call__(self, step: float) -> float:
        return self.final * min(1.0, step / self.num_steps)


class LatentScale(ScaleMessenger):
    """``poutine.scale``, for the latent sites alone: their log-densities are multiplied, those observed are not."""

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            super()._process_message(msg)


class BetaELBO(ELBO):
    """The ELBO with β times its Kullback–Leibler term:

        E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z))  =  E_q[log p(x|z) + β log p(z) − β log q(z|x)],

    so the latent sites of model and guide, whatever their names, are put under ``poutine.scale(scale=β)``, and ``elbo``
    does the rest.  It is a bound of log p(x) only for β ≥ 1.

    A schedule of β counts *steps*: losses with gradients while the guide is in training mode (a plain function always
    is), and every ``SVI.step``.  Anything else, such as a validation loss, ``SVI.evaluate_loss`` or a loss under
    ``torch.no_grad``, is no step, and is weighted with the final β: validation is on one scale during the warm-up and
    after it, as the losses of the steps are not.  Every ELBO module ``elbo(model, guide)``, hence every
    :func:`fit.svi`, counts for itself, from its first step; stock ``SVI`` objects count in the object that they are
    given, so give each its own.

    Args:
        beta: β > 0, or a schedule of it: a function of the step, 1, 2, …, such as :class:`LinearWarmup`, which is also
            asked at ``math.inf``, for the final β.
        elbo: The ELBO that is weighted: ``Trace_ELBO`` (the default), ``TraceMeanField_ELBO`` for the analytic KL, or
            ``TraceEnum_ELBO`` for a discrete z that the guide enumerates.

    Raises:
        TypeError: If ``beta`` is neither a number nor a function, or ``elbo`` is none of these.
        ValueError: If β is not a positive number; from the loss, if the model sums over a discrete z, which then has no
            KL term.

    Example:
        >>> from pyrovae import VAE, fit
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> vae = VAE(latent_dim=1, data_shape=(3,), hidden=(8,))
        >>> fit.svi(vae, x, num_epochs=2, elbo=fit.BetaELBO(4.0)).objective
        'β-weighted ELBO, β = 4'
        >>> warming = fit.svi(vae, x, num_epochs=2, elbo=fit.BetaELBO(fit.LinearWarmup(2000)))

    Reference:
        Higgins et al. (2017), beta-VAE: learning basic visual concepts with a constrained variational framework.
    """

    def __init__(self, beta: float | Callable[[float], float], elbo: ELBO | None = None) -> None:
        super().__init__()
        if not callable(beta) and not isinstance(beta, (int, float)):
            raise TypeError(f"`beta` must be a number or a function of the step, got {type(beta).__name__}.")
        self.elbo: Any = Trace_ELBO() if elbo is None else elbo
        if type(self.elbo) not in WEIGHTED:
            raise TypeError(
                f"`elbo` must be a Trace_ELBO, TraceMeanField_ELBO or TraceEnum_ELBO, got {type(elbo).__name__}; "
                "only these split into a reconstruction and a KL term."
            )
        self.beta = beta
        self.step = 0
        self.beta_at(math.inf)

    @property
    def objective(self) -> str:
        """What it is, for a title."""
        return f"β-weighted ELBO, β = {self.beta_at(math.inf):g}"

    def beta_at(self, step: float) -> float:
        """β at a step, 1, 2, …, or at the end, ``math.inf``."""
        beta = self.beta(step) if callable(self.beta) else float(self.beta)
        check_positive("beta", beta, f"number at step {step}" if callable(self.beta) else "number", hint=WITHOUT_KL)
        return beta

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """An ELBO module of the pair, with a count of steps of its own."""
        own = copy.copy(self)
        own.elbo, own.step = copy.copy(self.elbo), 0
        return ELBOModule(model, guide, own)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, with the final β."""
        return self.elbo.loss(*_weighted(model, guide, self.beta_at(math.inf)), *args, **kwargs)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss for autograd; a step in training mode."""
        training = torch.is_grad_enabled() and getattr(guide, "training", True)
        weight = self.next_weight() if training else self.beta_at(math.inf)
        return self.weighted_loss(weight, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, its gradients added to the parameters: a step of stock ``SVI``."""
        return self.elbo.loss_and_grads(*_weighted(model, guide, self.next_weight()), *args, **kwargs)

    def next_weight(self) -> float:
        """Count a step, and give its β."""
        self.step += 1
        return self.beta_at(self.step)

    def weighted_loss(self, beta: float | Tensor, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss for autograd with this β, which may be a tensor; no step."""
        return self.elbo.differentiable_loss(*_weighted(model, guide, beta), *args, **kwargs)

    def _get_trace(self, *args: Any) -> Any:
        return self.elbo._get_trace(*args)


def _weighted(model: Program, guide: Program, beta: float | Tensor) -> tuple[Program, Program]:
    scale = LatentScale(beta)
    return scale(model), scale(guide)
