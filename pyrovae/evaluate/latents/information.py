"""How much z tells of x under q, and how far the aggregate posterior q(z) = E_x q(z|x) is from the prior."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.evaluate.latents.encoding import is_continuous, posteriors
from pyrovae.evaluate.likelihood.estimate import known, standard_error
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.latents import FEW, check_local, latent_sites

DENSITIES = 2**22  # numbers in a block of densities of draws under all q


@dataclass(frozen=True, eq=False)
class LatentInformation:
    """The KL divergence of a guide from the prior, in two parts: what z tells of x, and what is off in its marginal.

    mean KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z)), with q(z) the mean of q(z|x) over the N data.

    Attributes:
        mean_kl: Mean over data of KL(q(z|x) ‖ p(z)), nats.
        mutual_information: I_q between z and which of the N data it came from, nats: at most log N.  For the population
            of x it is a lower bound in expectation.
        mutual_information_upper: The same with q(z) taken over the other N − 1 data, nats: for the population an upper
            bound in expectation.  Infinite where a datum's code has no mass under any other's.
        marginal_kl: KL(q(z) ‖ p(z)), nats.
        standard_errors: Of these four, by name, from their spread over data, the Monte-Carlo noise included, as if the
            data did not share q(z); that of a bound tells nothing of how far it is off.
        ceiling: log N, what the mutual information could be at most on so many data.
        exact: Whether there is no Monte-Carlo noise, which is so for a discrete z.
    """

    mean_kl: float
    mutual_information: float
    mutual_information_upper: float
    marginal_kl: float
    standard_errors: dict[str, float]
    ceiling: float
    exact: bool

    def __str__(self) -> str:
        errors = self.standard_errors.items()
        lines = [f"{name:<25} {getattr(self, name):8.4f} ± {known(error)} nats" for name, error in errors]
        return "\n".join([*lines, f"{'log N':<25} {self.ceiling:8.4f}"])


@torch.no_grad()
def latent_information(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    num_particles: int = 1,
    guide: Program | None = None,
    seed: int = 0,
) -> LatentInformation:
    """I_q(x; z) and KL(q(z) ‖ p(z)) over a data set, by the aggregate posterior: all N² densities q(z_n|x_m).

    I_q is the mean of log q(z|x) − log q(z) over draws z ~ q(z|x), and q(z) the mean of all N posteriors,
    so that nothing but the draws is random; a discrete z is summed over.  Taken for an estimate of the population of x,
    it is low by at most what ``mutual_information_upper`` − ``mutual_information`` is in expectation, and near
    ``ceiling`` it says nothing but that the data are too few.

    Args:
        model: Any model whose guide samples one latent z.
        data: N data, at least 2.
        num_particles: Draws of z for each datum.
        guide: q; by default the exact posterior of a tractable model, else ``model.guide``.
        seed: Seed of the draws.

    Returns:
        The two parts, their sum, and the bounds.

    Raises:
        ValueError: If there is one datum only, an argument is out of range, or q is a flow without an inverse.
        TypeError: If z is discrete and not categorical.

    Example:
        >>> from pyrovae import GaussianMixture
        >>> gmm = GaussianMixture(num_components=3, data_shape=(2,))  # whose components are all the same
        >>> information = latent_information(gmm, torch.randn(10, 2, dtype=torch.float64))
        >>> information.exact, abs(information.mutual_information) < 1e-12
        (True, True)

    Reference:
        Hoffman and Johnson (2016), ELBO surgery; Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational
        bounds of mutual information, for the two bounds.
    """
    check_whole("num_particles", num_particles)
    inputs = model.program_inputs(data)
    if len(inputs[0]) < 2:
        raise ValueError("`data` must hold at least 2 data for an aggregate posterior, got 1.")
    with evaluating(model), seeded(block_seed(seed)):
        prior = _prior(model, inputs)
        blocks = list(posteriors(model, data, guide=guide))
        if is_continuous(blocks[0]):
            try:
                own, mixed, others, prior_log = _by_draws(blocks, prior, num_particles)
            except (KeyError, NotImplementedError) as error:  # of a flow, which knows its own draws alone
                raise ValueError(
                    "`guide` must have a density at every z for q(z), got a flow whose inverse is not known; take one "
                    "that has an inverse."
                ) from error
        else:
            own, mixed, others, prior_log = _by_sums(blocks, prior)
    figures = {
        "mean_kl": own - prior_log,
        "mutual_information": own - mixed,
        "mutual_information_upper": own - others,
        "marginal_kl": mixed - prior_log,
    }
    return LatentInformation(
        **{name: each.mean().item() for name, each in figures.items()},
        standard_errors={name: standard_error(each) for name, each in figures.items()},
        ceiling=math.log(len(own)),
        exact=not is_continuous(blocks[0]),
    )


def _prior(model: LatentVariableModel, inputs: tuple[Tensor, ...]) -> Any:
    """What the model draws z from, batch shape (N,)."""
    few = tuple(each[:FEW] for each in inputs)
    with seeded(0):
        check_local(latent_sites(model.model, *few), len(few[0]))
        sites = latent_sites(model.model, *inputs)
    if len(sites) != 1:
        raise ValueError(f"`model` must have one latent site, got {list(sites)}.")
    return next(iter(sites.values()))["fn"]


def _by_draws(blocks: list[Any], prior: Any, num_particles: int) -> tuple[Tensor, ...]:
    """E log q(z|x_n), E log q(z), the same without x_n, and E log p(z), for each datum, by draws, each (N,)."""
    z = torch.cat([q.sample((num_particles,)) for q in blocks], dim=1)  # (S, N, L)
    parts = z.split([q.batch_shape[0] for q in blocks], dim=1)
    own = torch.cat([q.log_prob(part) for q, part in zip(blocks, parts, strict=True)], dim=1).double()
    mixed, others = torch.full_like(own, -math.inf), torch.full_like(own, -math.inf)
    position, num_data = 0, z.shape[1]
    number = torch.arange(num_data, device=z.device)
    for q in blocks:
        rows = max(1, DENSITIES // (q.batch_shape[0] * z[0, 0].numel() * num_particles))
        for start in range(0, num_data, rows):
            part = slice(start, start + rows)
            each = q.log_prob(z[:, part].unsqueeze(2)).double()  # (S, rows, n)
            mixed[:, part] = torch.logaddexp(mixed[:, part], each.logsumexp(2))
            same = number[part, None] == number[position : position + q.batch_shape[0]]
            others[:, part] = torch.logaddexp(others[:, part], each.masked_fill(same, -math.inf).logsumexp(2))
        position += q.batch_shape[0]
    prior_log = prior.log_prob(z).double()
    return own.mean(0), mixed.mean(0) - math.log(num_data), others.mean(0) - math.log(num_data - 1), prior_log.mean(0)


def _by_sums(blocks: list[Any], prior: Any) -> tuple[Tensor, ...]:
    """The same for a discrete z, by sums over its values."""
    if not all(isinstance(q, torch.distributions.Categorical) for q in (*blocks, prior)):
        raise TypeError(f"`guide` must sample a discrete z from a Categorical, got {type(blocks[0]).__name__}.")
    probs = torch.cat([q.probs for q in blocks]).double()  # (N, K)
    total = probs.sum(0)
    without = ((total - probs).clamp_min(0) / (len(probs) - 1)).log()
    logs = (probs.log(), (total / len(probs)).log().expand_as(probs), without, prior.logits.double().log_softmax(-1))
    return tuple(torch.where(probs > 0, probs * log, 0.0).sum(1) for log in logs)
