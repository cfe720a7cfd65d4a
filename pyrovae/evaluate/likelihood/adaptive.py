"""Importance weights that repair themselves: where those of the guide do not know their error, q is fitted to the datum.

**Draws that decide are not draws that count.**  Weights whose k̂ was looked at, and found good, are no longer a fair
sample.  So pilot draws choose the proposal of each datum, the search for it draws again, and log p(x) is then estimated
once, by draws of its own, whatever these say of themselves.  Every value is a lower bound in expectation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.data import as_observations
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.evaluate.evaluation import Evaluation
from pyrovae.evaluate.likelihood.annealed import AISOptions, bounds
from pyrovae.evaluate.likelihood.best_gaussian import GaussianPosteriors, SearchOptions, best_gaussians
from pyrovae.evaluate.likelihood.estimate import LogLikelihood, summarize
from pyrovae.evaluate.likelihood.importance import weigh
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.plates import check_likelihood, plates_of
from pyrovae.evaluate.likelihood.tiles import Tiles

PAIRS = 2**18  # (particle, datum) pairs of a block of data, whose q are fitted together
PILOT = 1000  # particles of the weights that decide, at most
SEARCH = SearchOptions(step_particles=8, max_steps=300, tolerance=0.03)
LAST_RESORT = AISOptions(num_temperatures=300)
TREATMENTS = ("q(z|x)", "a q of its own", "moments matched", "annealing")


class StudentTs(NamedTuple):
    """A multivariate Student t for each of n data, around a Gaussian and wider, so that its weights are bounded.

    Wider the fewer the latents, as the weights' spread grows with the latents at the same widening.
    """

    gaussian: GaussianPosteriors

    def draw(self, num_particles: int) -> tuple[Tensor, Tensor]:
        """z (S, n, L), and log q(z), (S, n)."""
        mean, factor = self.gaussian
        num_data, latent_dim = mean.shape
        df, wider = 5 + 0.3 * latent_dim, 1 + 0.8 / math.sqrt(latent_dim)
        noise = torch.randn(num_particles, num_data, latent_dim, dtype=mean.dtype, device=mean.device)
        chi2 = torch._standard_gamma(torch.full_like(noise[..., 0], df / 2)) * 2
        noise = noise * (df / chi2).sqrt()[..., None]
        scaled = GaussianPosteriors(mean, factor * wider)
        log_det = scaled.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = math.lgamma((df + latent_dim) / 2) - math.lgamma(df / 2) - latent_dim / 2 * math.log(df * math.pi)
        return scaled.at(noise), constant - (df + latent_dim) / 2 * (noise.square().sum(-1) / df).log1p() - log_det
