"""Importance weights that repair themselves: where those of the guide are not reliable, q is fitted to the datum.

**Draws that decide are not draws that count.**  Weights whose k̂ was looked at, and found good, are no longer a fair
sample.  So pilot draws choose the proposal of each datum, the search for it draws again, and log p(x) is then estimated
once, by draws of its own, whatever these say of themselves.  Every value is a lower bound in expectation.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Chi2

from pyrovae.data import as_observations
from pyrovae.engine.isolation import alone
from pyrovae.engine.seeding import block_seed
from pyrovae.evaluate.evaluation import Evaluation
from pyrovae.evaluate.likelihood.annealed import AISOptions, bounds
from pyrovae.evaluate.likelihood.best_gaussian import GaussianPosteriors, SearchOptions, best_gaussians
from pyrovae.evaluate.likelihood.estimate import LogLikelihood, summarize
from pyrovae.evaluate.likelihood.importance import weigh
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.pareto import k_hat_threshold
from pyrovae.evaluate.likelihood.plates import check_likelihood, plates_of
from pyrovae.evaluate.likelihood.tiles import Tiles
from pyrovae.models.linear_algebra import log_det

FLOATS = 2**24  # numbers in the draws of a block of data, whose q are fitted together
MOST_DATA = 1024  # of a block
PILOT = (200, 1000)  # fewest and most particles of the weights that decide
SEARCH = SearchOptions(step_particles=8, max_steps=200, tolerance=0.03)
ANNEALING = AISOptions(num_temperatures=300)  # of what nothing else has mended
MARGIN = 0.15  # of a k̂ that decides below the threshold, as other draws give another
RIDGE = 1e-4  # of a correlation matrix of draws
TREATMENTS = ("by the guide", "by a q of their own", "by one matched to its weights", "by annealing")


@dataclass(frozen=True, eq=False, repr=False)
class AdaptiveLikelihood(LogLikelihood):
    """log p(x) by importance sampling, of every datum from the first proposal that its weights do not speak against.

    Attributes:
        treatment: What the value of each datum comes from, shape (N,), an index of ``TREATMENTS``.
    """

    treatment: Tensor

    @property
    def counts(self) -> dict[str, int]:
        """How many data were estimated by what."""
        found = self.treatment.bincount(minlength=len(TREATMENTS)).tolist()
        return {name: number for name, number in zip(TREATMENTS, found, strict=True) if number}

    @property
    def meaning(self) -> str:
        how = ", ".join(f"{number:,} {name}" for name, number in self.counts.items())
        return (
            f"A lower bound of log p(x) in expectation, by {self.num_particles:,} importance weights a datum, "
            f"adapted where those of the guide are not reliable: {how}."
        )


class StudentTs(NamedTuple):
    """A multivariate Student t for each of n data, around a Gaussian and wider, so that its weights are bounded.

    The more latents, the less wide, as each adds to the spread of the weights.
    """

    gaussian: GaussianPosteriors

    def draw(self, num_particles: int) -> tuple[Tensor, Tensor]:
        """z (S, n, L), and log q(z), (S, n)."""
        mean, factor = self.gaussian
        latent_dim = mean.shape[1]
        df, wider = 5 + 0.3 * latent_dim, 1 + 0.8 / math.sqrt(latent_dim)
        noise = torch.randn(num_particles, *mean.shape, dtype=mean.dtype, device=mean.device)
        noise *= (df / Chi2(noise.new_tensor(df)).sample(noise.shape[:2])).sqrt()[..., None]
        scaled = GaussianPosteriors(mean, factor * wider)
        constant = math.lgamma((df + latent_dim) / 2) - math.lgamma(df / 2) - latent_dim / 2 * math.log(df * math.pi)
        tail = (df + latent_dim) / 2 * (noise.square().sum(-1) / df).log1p()
        return scaled.at(noise), constant - tail - log_det(scaled.scale_tril)


@torch.no_grad()
def adaptive(run: Evaluation, num_particles: int) -> AdaptiveLikelihood:
    """log p(x) of all data, block after block.

    Args:
        run: The model and the data.
        num_particles: S, of the weights that count.

    Raises:
        ValueError: If a latent is discrete, or outside the plate over data, or a site is scaled or masked.
    """
    with run.at(0):
        plates = plates_of(run, run.guide, run.model.model)
        check_likelihood(plates)
        joint = Joint(run.model.model, run.inputs, Tiles.of(run), plates)
    size = max(1, min(MOST_DATA, FLOATS // (max(num_particles, PILOT[0]) * joint.latent_dim)))
    found = []
    with alone(), run.bar(len(joint), "adaptive importance weights") as bar:
        for number, block in run.blocks(size):
            index = torch.arange(number * size, number * size + len(block[0]))
            with run.at(number):
                found.append(Block(run, joint, index.to(block[0].device), num_particles).estimate())
            bar.update(len(index))
    values, standard_error, ess, k_hat, treatment = map(torch.cat, run.joined(found))
    return AdaptiveLikelihood(values, "adaptive", num_particles, standard_error, ess, k_hat.cpu(), treatment.cpu())


class Block:
    """A block of data whose proposals are chosen, and then weighed.

    Args:
        run: The model and all data.
        joint: log p(x, z) of all data.
        index: Of the data of this block, (n,).
        num_particles: S.
    """

    def __init__(self, run: Evaluation, joint: Joint, index: Tensor, num_particles: int) -> None:
        self.run, self.joint, self.index, self.num_particles = run, joint[index], index, num_particles
        self.num_pilot = min(max(num_particles, PILOT[0]), PILOT[1])

    def estimate(self) -> tuple[Tensor, ...]:
        """Value, standard error, ESS, k̂ and treatment of each datum, (n,)."""
        treatment, posteriors = self.choose()
        columns = [torch.empty(len(self.index), dtype=torch.float64) for _ in range(4)]
        for number in treatment.unique().tolist():
            chosen = (treatment == number).nonzero().squeeze(1)
            for column, values in zip(columns, self.weighed(number, chosen, posteriors), strict=True):
                column[chosen.cpu()] = values.double().cpu()
        like = self.joint.inputs[0]
        values, standard_error, ess = (each.to(like) for each in columns[:3])
        return values, standard_error, ess, columns[3], treatment

    def choose(self) -> tuple[Tensor, GaussianPosteriors]:
        """What each datum is to be estimated by, and its own q; pilot draws decide."""
        treatment = torch.zeros(len(self.index), dtype=torch.long, device=self.index.device)
        told, mean, factor = self.pilot()
        own = GaussianPosteriors(mean, factor)
        left = (~told).nonzero().squeeze(1)
        for stage in (1, 2):
            if not len(left):
                return treatment, own
            treatment[left] = stage
            joint, q = self.joint[left], own.of(left)
            if stage == 1:
                q, _ = best_gaussians(joint, q, "full", SEARCH)
            z, log_q = StudentTs(q).draw(self.num_pilot)
            log_w = joint.log_prob(z) - log_q
            own = own.put(left, q)
            wrong = ~is_told(log_w)
            if stage == 1:
                matched = moments(z[:, wrong], log_w[:, wrong], q.of(wrong.nonzero().squeeze(1)))
                own = own.put(left[wrong], matched)
            left = left[wrong]
        treatment[left] = 3
        return treatment, own

    def pilot(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whether the guide's weights know their error, (n,), and the mean and covariance of its z, as a factor."""
        found = []
        for block in weigh(self.part(self.index, 1), self.num_pilot, density=True):
            z = self.joint.flat(block.z)
            q = moments(z, torch.zeros_like(block.log_w))
            found.append((is_told(block.log_w), *q))
        told, mean, factor = map(torch.cat, zip(*found, strict=True))
        return told, mean, factor

    def weighed(self, number: int, chosen: Tensor, posteriors: GaussianPosteriors) -> tuple[Tensor, ...]:
        """Value, standard error, ESS and k̂ of some data, by draws that have decided nothing."""
        run = self.part(self.index[chosen], 2)
        if number == 0:
            parts = [summarize(block.log_w) for block in weigh(run, self.num_particles, density=True)]
            return tuple(map(torch.cat, zip(*parts, strict=True)))
        if number == 3:
            annealed = bounds(run, ANNEALING)["lower"]
            return annealed.values, annealed.standard_error, annealed.ess, annealed.k_hat
        z, log_q = StudentTs(posteriors.of(chosen)).draw(self.num_particles)
        return summarize(self.joint[chosen].log_prob(z) - log_q)

    def part(self, index: Tensor, purpose: int) -> Evaluation:
        """Some of the data by themselves, with draws of their own for each purpose."""
        run = self.run
        data = as_observations(run.data, "x", allow_nan=True).fixed(run.seed)[index.cpu()]
        seed = block_seed(run.seed + purpose, int(index[0]))
        return Evaluation(run.model, data, run.given_guide, run.chunk_size, seed, progress=False)


def is_told(log_w: Tensor) -> Tensor:
    """Whether (S, n) log weights know their error, and others of the same proposal can be expected to, (n,)."""
    _, error, _, k_hat = summarize(log_w)
    return ~error.isnan() & ~(k_hat.to(error.device) > k_hat_threshold(len(log_w)) - MARGIN)


def moments(z: Tensor, log_w: Tensor, before: GaussianPosteriors | None = None) -> GaussianPosteriors:
    """Mean and covariance of z (S, n, L) under weights, mixed with those from before where few of them count."""
    weight = log_w.softmax(0)
    mean = torch.einsum("sn,snl->nl", weight, z)
    centred = z - mean
    covariance = torch.einsum("sn,snl,snk->nlk", weight, centred, centred)
    if before is not None:
        kept = z.shape[2] / (z.shape[2] + 1 / weight.square().sum(0))[:, None]
        change = mean - before.mean
        old = before.scale_tril @ before.scale_tril.mT
        within = change[:, :, None] * change[:, None, :] * (1 - kept)[..., None]
        covariance = kept[..., None] * (old + within) + (1 - kept[..., None]) * covariance
        mean = before.mean + (1 - kept) * change
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(torch.finfo(z.dtype).tiny)
    correlation = covariance / scale[:, :, None] / scale[:, None, :]
    factor = torch.linalg.cholesky(correlation + RIDGE * torch.eye(z.shape[2], dtype=z.dtype, device=z.device))
    return GaussianPosteriors(mean, scale[:, :, None] * factor)
