"""What is known in closed form: KL(q ‖ p(z|x)), all that an ELBO loses, and the two steps of EM.

For a model whose posterior is known every figure here is exact, and the ground truth of what is estimated elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.evaluate.latents.encoding import is_continuous, posteriors
from pyrovae.evaluate.likelihood.best_gaussian import as_gaussian
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.tractable import TractableModel


@dataclass(frozen=True, eq=False)
class EMDecomposition:
    """One iteration of EM, from θ to θ', per datum; nats, each shape (N,).

    With q = p(z|x; θ), the bound touches log p(x; θ).  The M step raises it, which opens KL(q ‖ p(z|x; θ')); the E step
    of the next iteration closes that: log p(x; θ') = log p(x; θ) + ``raised`` + ``closed``.

    Attributes:
        log_prob_before: log p(x; θ), where the bound starts.
        bound: ELBO of q at θ'.
        log_prob_after: log p(x; θ'), to which the next E step lifts the bound.
    """

    log_prob_before: Tensor
    bound: Tensor
    log_prob_after: Tensor

    @property
    def raised(self) -> Tensor:
        """What the M step raised the bound by; its sum over the data that it was fitted to is not negative."""
        return self.bound - self.log_prob_before

    @property
    def closed(self) -> Tensor:
        """KL(p(z|x; θ) ‖ p(z|x; θ')), which the next E step closes; not negative for any datum."""
        return self.log_prob_after - self.bound

    def __str__(self) -> str:
        means = [each.mean().item() for each in (self.log_prob_before, self.raised, self.closed, self.log_prob_after)]
        return "log p {:.6f}, bound raised by {:.6f}, KL closed {:.6f}, log p {:.6f} nats per datum".format(*means)


@torch.no_grad()
def posterior_gap(model: LatentVariableModel, data: Observations | Tensor, *, guide: Program | None = None) -> Tensor:
    """KL(q(z|x) ‖ p(z|x)) in closed form, for a model whose posterior is known: all that the ELBO loses.

    Args:
        model: A tractable model, with a Gaussian or a categorical posterior.
        data: N data.
        guide: q; by default ``model.guide``.

    Returns:
        Tensor (N,), nats.

    Raises:
        TypeError: If the posterior is not known.

    Example:
        >>> from pyrovae import PPCA
        >>> ppca = PPCA(latent_dim=1, data_shape=(3,))  # whose guide is the posterior
        >>> posterior_gap(ppca, torch.zeros(2, 3)).abs().max().item() < 1e-12
        True
    """
    return torch.cat([exact_kl(q, p) for q, p in guide_and_posterior(model, data, guide)])


@torch.no_grad()
def em_decomposition(before: TractableModel, after: TractableModel, data: Observations | Tensor) -> EMDecomposition:
    """One iteration of EM in two parts: how far the M step raised the bound, and the KL that the next E step closes.

    Args:
        before: The model with the parameters that the E step was taken at.
        after: The same with those of the M step, or any others.
        data: N data.

    Returns:
        What each of the two steps changed.

    Raises:
        TypeError: If a model's posterior is not known.

    Example:
        >>> from pyrovae import GaussianMixture
        >>> gmm = GaussianMixture(num_components=2, data_shape=(3,))
        >>> em_decomposition(gmm, gmm, torch.zeros(4, 3)).closed.max().item()
        0.0

    Reference:
        Neal and Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants.
    """
    pairs = zip(exact_posteriors(before, data), exact_posteriors(after, data), strict=True)
    closed = torch.cat([exact_kl(q, p) for q, p in pairs])
    log_prob_after = after.log_prob(data)
    return EMDecomposition(before.log_prob(data), log_prob_after - closed, log_prob_after)


def guide_and_posterior(
    model: LatentVariableModel, data: Observations | Tensor, guide: Program | None
) -> Iterator[tuple[Any, Any]]:
    """q and the exact posterior, block after block of data."""
    return zip(posteriors(model, data, guide=guide or model.guide), exact_posteriors(model, data), strict=True)


def exact_posteriors(model: LatentVariableModel, data: Observations | Tensor) -> Iterator[Any]:
    """The exact posterior, block after block of data."""
    if not hasattr(model, "posterior"):
        raise TypeError(
            f"`model` must have a posterior in closed form, got {type(model).__name__}; bound log p(x) by evaluate.ais."
        )
    return posteriors(model, data)


def exact_kl(q: Any, p: Any) -> Tensor:
    """KL(q ‖ p) of two Gaussians, or of two categorical distributions, (n,)."""
    if not is_continuous(p):
        # torch's own is infinite where a probability of p underflows, though its logarithm is finite
        return torch.where(q.probs > 0, q.probs * (q.logits - p.logits), 0.0).sum(-1)
    return as_gaussian(q).kl(as_gaussian(p))
