"""What the latents hold: q(z|x) of a data set in numbers, and how much each unit of z tells of x.

Everything is read off an :class:`Encoding`, the means and variances of q(z|x) at N data.  A unit that carries
nothing has q(z_l|x) = p(z_l) for every x: its mean does not move with x, and its KL divergence is zero.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.evaluate.evaluation import latent_sites
from pyrovae.models.base import LatentVariableModel, Program

SAME_KL = 1e-6  # nats: units that differ by less stand in the order of their numbers
ENCODED_FLOATS = 2**22  # numbers in a block of data to encode, 16 MiB in float32


@dataclass(frozen=True, eq=False)
class Encoding:
    """Means and variances of q(z|x) at N data.

    Attributes:
        mean: E_q[z], shape (N, L).
        variance: Var_q[z], unit by unit, shape (N, L).
        labels: Classes of the data, shape (N,), or None.
    """

    mean: Tensor
    variance: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: Any) -> "Encoding":
        """The subset at a slice, a boolean mask or an index tensor."""
        labels = None if self.labels is None else self.labels[index]
        return Encoding(self.mean[index], self.variance[index], labels)

    @property
    def latent_dim(self) -> int:
        """L."""
        return self.mean.shape[1]

    @property
    def kl(self) -> Tensor:
        """KL(q(z_l|x) ‖ Normal(0, 1)) = ½(μ² + σ² − 1 − log σ²) of every unit, shape (N, L), nats.

        For a Gaussian q.  If q has independent units, its KL divergence is the sum of these; if not, it is larger, by
        what the units tell of one another under q.
        """
        return 0.5 * (self.mean.square() + self.variance - 1 - self.variance.log())


@dataclass(frozen=True, eq=False)
class LatentReport:
    """What every unit of z carries, averaged over data; prints as a table, the unit that carries most on top.

    Attributes:
        kl: Mean over data of KL(q(z_l|x) ‖ Normal(0, 1)), shape (L,), nats.
        mean_variance: Var_x(E_q[z_l]), how far the means move with x, shape (L,).
        posterior_variance: Mean over data of Var_q[z_l], shape (L,); near 1 where q is the prior.
        threshold: A unit is active if its ``mean_variance`` is above this.
        num_data: N.
    """

    kl: Tensor
    mean_variance: Tensor
    posterior_variance: Tensor
    threshold: float
    num_data: int

    @property
    def kl_bits(self) -> Tensor:
        """:attr:`kl` in bits, shape (L,)."""
        return self.kl / math.log(2)

    @property
    def active(self) -> Tensor:
        """Which units are active, shape (L,), boolean."""
        return self.mean_variance > self.threshold

    @property
    def num_active(self) -> int:
        """Number of active units."""
        return int(self.active.sum())

    @property
    def by_kl(self) -> list[int]:
        """The units, that of the highest KL divergence first; of units within 1e-6 nats, that of the lower number."""
        kl, order = self.kl.sort(descending=True, stable=True)
        rank = (kl.diff(prepend=kl[:1]) < -SAME_KL).cumsum(0)
        return [unit for _, unit in sorted(zip(rank.tolist(), order.tolist(), strict=True))]

    @property
    def collapse_share(self) -> float:
        """Share of the units that are not active."""
        return 1 - self.num_active / len(self.kl)

    def __str__(self) -> str:
        head = f"{'unit':<6} {'KL, nats':>9} {'KL, bits':>9} {'Var E_q[z]':>11} {'E Var_q[z]':>11}  active"
        columns = (self.kl, self.kl_bits, self.mean_variance, self.posterior_variance, self.active)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = [
            f"{f'z[{unit}]':<6} {nats:9.3f} {bits:9.3f} {moved:11.4f} {left:11.4f}  {'yes' if active else 'no'}"
            for unit, (nats, bits, moved, left, active) in enumerate(rows)
        ]
        lines = [lines[unit] for unit in self.by_kl]
        summary = (
            f"{self.num_active} of {len(self.kl)} units active (Var E_q[z] > {self.threshold:g}), collapse share "
            f"{self.collapse_share:.0%}; KL {self.kl.sum():.3f} nats = {self.kl_bits.sum():.3f} bits in all, "
            f"N = {self.num_data:,}"
        )
        return "\n".join([head, *lines, summary])


def encode(model: LatentVariableModel, data: Observations | Tensor, *, guide: Program | None = None) -> Encoding:
    """Means and variances of q(z|x) at every datum: the exact posterior's where it is known, else the guide's.

    Args:
        model: Any model with a continuous z.
        data: N data, Observations or tensor.
        guide: q; by default the exact posterior of a tractable model, else ``model.guide``.

    Returns:
        The encoding, on the model's device, with the labels of the data.

    Raises:
        ValueError: If the data do not fit the model, or its z is discrete.

    Example:
        >>> from pyrovae import PPCA
        >>> encoding = encode(PPCA(latent_dim=2, data_shape=(5,)), torch.zeros(4, 5))
        >>> encoding.mean.shape, encoding.variance.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """
    every = continuous_posteriors(model, data, "to be encoded", guide=guide)
    mean, variance = map(torch.cat, zip(*((q.mean.flatten(1), q.variance.flatten(1)) for q in every), strict=True))
    labels = as_observations(data).labels
    return Encoding(mean, variance, None if labels is None else labels.to(mean.device))


def latent_report(encoding: Encoding, *, threshold: float = 0.01) -> LatentReport:
    """Which units of z are used, and for how much: active units, collapse share, KL divergence of every unit.

    A unit is active if Var_x(E_q[z_l]) exceeds the threshold.  Its KL divergence, averaged over data, bounds from above
    the information that it gives about x, and is the rate that it costs in the ELBO.

    Args:
        encoding: What :func:`encode` gives, of many data.
        threshold: The least variance of the mean of an active unit.

    Returns:
        The report.

    Raises:
        TypeError: If ``encoding`` is no encoding.
        ValueError: If it holds a single datum, which has no variance.

    Example:
        >>> mean = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> report = latent_report(Encoding(mean, torch.tensor([[0.5, 1.0]] * 2, dtype=torch.float64)))
        >>> report.num_active, report.collapse_share
        (1, 0.5)
        >>> print(report)
        unit    KL, nats  KL, bits  Var E_q[z]  E Var_q[z]  active
        z[0]       0.597     0.861      1.0000      0.5000  yes
        z[1]       0.000     0.000      0.0000      1.0000  no
        1 of 2 units active (Var E_q[z] > 0.01), collapse share 50%; KL 0.597 nats = 0.861 bits in all, N = 2

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders (active units).
    """
    check_encoding(encoding)
    if len(encoding) < 2:
        raise ValueError(
            f"`encoding` must be of at least 2 data, got {len(encoding)}; whether a mean moves with x needs several."
        )
    mean, variance = encoding.mean.double(), encoding.variance.double()
    return LatentReport(
        kl=replace(encoding, mean=mean, variance=variance).kl.mean(0),
        mean_variance=mean.var(0, correction=0),
        posterior_variance=variance.mean(0),
        threshold=threshold,
        num_data=len(encoding),
    )


@torch.no_grad()
def posteriors(
    model: LatentVariableModel, data: Observations | Tensor, *, guide: Program | None = None
) -> Iterator[Any]:
    """q(z|x) for block after block of data: the exact posterior where it is known, else the guide's.

    Args, Raises: as for :func:`encode`, but any z will do.

    Yields:
        A distribution of batch shape (n,) for the next n data.
    """
    inputs, program = model.program_inputs(data), guide or model.guide
    exact = getattr(model, "posterior", None) if guide is None else None
    size = max(1, ENCODED_FLOATS // math.prod(inputs[0].shape[1:]))
    for block in zip(*(each.split(size) for each in inputs), strict=True):
        with evaluating(model, program), seeded(0):
            q = exact(*block) if exact is not None else _guide_distribution(program, *block)
        yield q


def continuous_posteriors(
    model: LatentVariableModel, data: Observations | Tensor, purpose: str, *, guide: Program | None = None
) -> Iterator[Any]:
    """:func:`posteriors` of a continuous z.

    Raises:
        ValueError: If z is discrete; the message names the purpose.
    """
    for q in posteriors(model, data, guide=guide):
        if not is_continuous(q):
            raise ValueError(
                f"`model` must have a continuous z {purpose}, got {type(model).__name__} with a discrete one; "
                "use its posterior(x).probs."
            )
        yield q


def is_continuous(q: Any) -> bool:
    """Whether a distribution over z has a density, and so a mean that is a place."""
    return not q.support.is_discrete


def _guide_distribution(guide: Program, *inputs: Tensor) -> Any:
    """What the guide draws z from."""
    sites = latent_sites(guide, *inputs)
    if "z" not in sites:
        raise ValueError("`guide` must sample the site 'z', got none; pass exact_guide(model), or one with an encoder.")
    return sites["z"]["fn"]


def check_encoding(encoding: Any, name: str = "encoding") -> None:
    """Check that this is an encoding.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(encoding, Encoding):
        raise TypeError(f"`{name}` must be an Encoding, got {type(encoding).__name__}; pass evaluate.encode(model, x).")
