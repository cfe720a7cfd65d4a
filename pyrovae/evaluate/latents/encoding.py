"""What the latents hold: q(z|x) of a data set in numbers, and how much each unit of z tells of x.

Everything is read off an :class:`Encoding`, the means and variances of q(z|x) at N data.  A unit that carries
nothing has q(z_l|x) = p(z_l) for every x: its mean does not move with x, and its KL divergence is zero.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import block_seed, seeded
from pyrovae.models.base import LatentVariableModel, Program, check_model
from pyrovae.models.collapse import gaussian_kl
from pyrovae.models.latents import (
    DRAWS,
    FEW,
    Latents,
    Values,
    bare,
    check_local,
    data_axis,
    data_first,
    latent_sites,
    moments,
    pooled,
)

SAME_KL = 1e-6  # nats: units that differ by less stand in the order of their numbers
ENCODED_FLOATS = 2**22  # numbers in a block of data to encode, 16 MiB in float32
RUNS = 100  # of a guide with several sites


@dataclass(frozen=True, eq=False)
class Encoding:
    """Means and variances of q(z|x) at N data; of several latents dicts by site, which ``encoding[name]`` gives alone.

    Attributes:
        mean: E_q[z], shape (N, L).
        variance: Var_q[z], unit by unit, shape (N, L).
        labels: Classes of the data, shape (N,), or None.
    """

    mean: Values
    variance: Values
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.flat.mean)

    def __getitem__(self, index: Any) -> "Encoding":
        """The subset at a slice, a boolean mask or an index tensor; at a name, the latent of that site."""
        if isinstance(index, str):
            return Encoding(self.mean[index], self.variance[index], self.labels)
        labels = None if self.labels is None else self.labels[index]
        if isinstance(self.mean, Tensor):
            return Encoding(self.mean[index], self.variance[index], labels)
        mean, variance = ({name: value[index] for name, value in part.items()} for part in (self.mean, self.variance))
        return Encoding(mean, variance, labels)

    @property
    def flat(self) -> "Encoding":
        """All units side by side, (N, L), those of one site after those of another."""
        if isinstance(self.mean, Tensor):
            return self
        mean, variance = (torch.cat(list(part.values()), dim=1) for part in (self.mean, self.variance))
        return Encoding(mean, variance, self.labels)

    @property
    def units(self) -> list[str]:
        """What the L units are called: z[0], z[1], …, or by the names of their sites."""
        sites = {"z": self.mean} if isinstance(self.mean, Tensor) else self.mean
        return unit_names({name: value.shape[1] for name, value in sites.items()})

    @property
    def latent_dim(self) -> int:
        """L."""
        return len(self.units)

    @property
    def kl(self) -> Tensor:
        """KL(q(z_l|x) ‖ Normal(0, 1)) = ½(μ² + σ² − 1 − log σ²) of every unit, shape (N, L), nats.

        For a Gaussian q.  If q has independent units, its KL divergence is the sum of these; if not, it is larger, by
        what the units tell of one another under q.
        """
        return gaussian_kl(self.flat.mean, self.flat.variance)


def unit_names(sizes: dict[str, int]) -> list[str]:
    """What units are called, by the number of them at each site."""
    return [f"{name}[{unit}]" for name, size in sizes.items() for unit in range(size)]


@dataclass(frozen=True, eq=False)
class LatentReport:
    """What every unit of z carries, averaged over data; prints as a table, the unit that carries most on top.

    Attributes:
        kl: Mean over data of KL(q(z_l|x) ‖ Normal(0, 1)), shape (L,), nats.
        mean_variance: Var_x(E_q[z_l]), how far the means move with x, shape (L,).
        posterior_variance: Mean over data of Var_q[z_l], shape (L,); near 1 where q is the prior.
        threshold: A unit is active if its ``mean_variance`` is above this.
        num_data: N.
        units: What the units are called.
    """

    kl: Tensor
    mean_variance: Tensor
    posterior_variance: Tensor
    threshold: float
    num_data: int
    units: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.units:
            object.__setattr__(self, "units", unit_names({"z": len(self.kl)}))

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
        rows = zip(self.units, *(column.tolist() for column in columns), strict=True)
        lines = [
            f"{unit:<6} {nats:9.3f} {bits:9.3f} {moved:11.4f} {left:11.4f}  {'yes' if active else 'no'}"
            for unit, nats, bits, moved, left, active in rows
        ]
        lines = [lines[unit] for unit in self.by_kl]
        summary = (
            f"{self.num_active} of {len(self.kl)} units active (Var E_q[z] > {self.threshold:g}), collapse share "
            f"{self.collapse_share:.0%}; KL to N(0, 1) {self.kl.sum():.3f} nats = {self.kl_bits.sum():.3f} bits in "
            f"all, N = {self.num_data:,}"
        )
        return "\n".join([head, *lines, summary])


def encode(model: LatentVariableModel, data: Observations | Tensor, *, guide: Program | None = None) -> Encoding:
    """Means and variances of q(z|x) at every datum: the exact posterior's where it is known, else the guide's.

    A flow has no mean in closed form: its moments are those of 1,000 draws.  Where the guide has several sites, a later
    one may depend on the draws of earlier ones: moments are taken over 100 runs of it, the means and variances of its
    distributions in each, which is exact for sites that depend on none.

    Args:
        model: Any model of continuous latents.
        data: N data, Observations or tensor.
        guide: q; by default the exact posterior of a tractable model, else ``model.guide``.

    Returns:
        The encoding, on the model's device, with the labels of the data; of several latents by site.

    Raises:
        TypeError: If ``model`` is no model of this package's form.
        ValueError: If the data do not fit the model, or a latent is discrete or shared by all data.

    Example:
        >>> from pyrovae import PPCA
        >>> encoding = encode(PPCA(latent_dim=2, data_shape=(5,)), torch.zeros(4, 5))
        >>> encoding.mean.shape, encoding.variance.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """
    mean, variance = (
        bare({name: value.reshape(len(value), -1) for name, value in part.items()})
        for part in posterior_moments(model, data, "to be encoded", guide=guide)
    )
    labels = data.labels if isinstance(data, Observations) else None
    return Encoding(mean, variance, None if labels is None else labels.to(model._like.device))


def latent_report(encoding: Encoding, *, threshold: float = 0.01) -> LatentReport:
    """Which units of z are used, and for how much: active units, collapse share, KL divergence of every unit.

    A unit is active if Var_x(E_q[z_l]) exceeds the threshold.  Its KL divergence, averaged over data, bounds from above
    the information that it gives about x, and is the rate that it costs in the ELBO.  It is that to Normal(0, 1); of a
    program with another prior, :func:`elbo_terms` gives the KL divergence.

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
        1 of 2 units active (Var E_q[z] > 0.01), collapse share 50%; KL to N(0, 1) 0.597 nats = 0.861 bits in all, N = 2

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders (active units).
    """
    check_encoding(encoding)
    if len(encoding) < 2:
        raise ValueError(
            f"`encoding` must be of at least 2 data, got {len(encoding)}; whether a mean moves with x needs several."
        )
    mean, variance = encoding.flat.mean.double(), encoding.flat.variance.double()
    return LatentReport(
        kl=Encoding(mean, variance).kl.mean(0),
        mean_variance=mean.var(0, correction=0),
        posterior_variance=variance.mean(0),
        threshold=threshold,
        num_data=len(encoding),
        units=encoding.units,
    )


class Posterior:
    """q(z|x) of a block of n data: what a guide samples, by site.

    Args:
        run: Gives the sites of one run of the guide, by name, whose values follow torch's random state.
    """

    def __init__(self, run: Callable[[], dict[str, Any]]) -> None:
        self.run = run
        with seeded(0):
            self.sites = run()
        if not self.sites:
            raise ValueError("`guide` must sample a latent, got none; pass exact_guide(model), or one with an encoder.")

    @property
    def distribution(self) -> Any:
        """That of the only site, batch shape (n,).

        Raises:
            ValueError: If there are several.
        """
        if len(self.sites) > 1:
            raise ValueError(f"`model` must have one latent site here, got {list(self.sites)}.")
        return next(iter(self.sites.values()))["fn"]

    def draws(self, number: int) -> Latents:
        """So many draws of all sites together, by torch's random state, each (S, n, ...)."""
        if len(self.sites) > 1:
            runs = [self.run() for _ in range(number)]
            return {name: torch.stack([data_first(run[name]) for run in runs]) for name in self.sites}
        ((name, site),) = self.sites.items()
        return {name: site["fn"].sample((number,)).movedim(1 + data_axis(site), 1)}

    def moments(self) -> tuple[Latents, Latents]:
        """Means and variances of every site, (n, ...), over the draws of the sites that come before it."""
        runs = [self.sites, *(self.run() for _ in range(RUNS - 1 if len(self.sites) > 1 else 0))]
        number = DRAWS if len(runs) == 1 else 1  # where there is no closed form
        found = {name: pooled([moments(run[name]["fn"], number) for run in runs]) for name in self.sites}
        means, variances = (
            {name: data_first(self.sites[name], each[part]) for name, each in found.items()} for part in (0, 1)
        )
        return means, variances


def posteriors_by_site(
    model: LatentVariableModel, data: Observations | Tensor, *, guide: Program | None = None
) -> Iterator[Posterior]:
    """q(z|x) for block after block of data: the exact posterior where it is known, else the guide's.

    Args, Raises: as for :func:`encode`, but any z will do.
    """
    check_model(model, guide)
    inputs, program = model.program_inputs(data), guide or model.guide
    exact = getattr(model, "posterior", None) if guide is None else None
    size = max(1, ENCODED_FLOATS // math.prod(inputs[0].shape[1:]))

    def run(*block: Tensor) -> dict[str, Any]:
        with torch.no_grad(), evaluating(model, program):
            if exact is None:
                return latent_sites(program, *block)
            q = exact(*block)
            return {"z": {"fn": q, "value": None, "cond_indep_stack": ()}}

    few = tuple(each[:FEW] for each in inputs)
    if exact is None:
        with seeded(0):
            check_local(run(*few), len(few[0]))
    for block in zip(*(each.split(size) for each in inputs), strict=True):
        yield Posterior(partial(run, *block))


def posteriors(
    model: LatentVariableModel, data: Observations | Tensor, *, guide: Program | None = None
) -> Iterator[Any]:
    """q(z|x) of the one latent, a distribution of batch shape (n,) for block after block of n data.

    Args, Raises: as for :func:`encode`, but any z will do, and several will not.
    """
    return (block.distribution for block in posteriors_by_site(model, data, guide=guide))


def continuous_posteriors(
    model: LatentVariableModel, data: Observations | Tensor, purpose: str, *, guide: Program | None = None
) -> Iterator[Posterior]:
    """:func:`posteriors_by_site` of continuous latents.

    Raises:
        ValueError: If one is discrete; the message names the purpose.
    """
    for block in posteriors_by_site(model, data, guide=guide):
        for name, site in block.sites.items():
            if not is_continuous(site["fn"]):
                raise ValueError(
                    f"`model` must have a continuous z {purpose}, got {type(model).__name__} with a discrete one, "
                    f"{name!r}; use its posterior(x).probs."
                )
        yield block


@torch.no_grad()
def posterior_moments(
    model: LatentVariableModel, data: Observations | Tensor, purpose: str, *, guide: Program | None = None
) -> tuple[Latents, Latents]:
    """Means and variances of continuous latents under q(z|x), by site, each (N, ...)."""
    with seeded(block_seed(0)):
        blocks = [block.moments() for block in continuous_posteriors(model, data, purpose, guide=guide)]
    means, variances = zip(*blocks, strict=True)
    return joined(means), joined(variances)


def joined(blocks: Sequence[Latents], dim: int = 0) -> Latents:
    """The latents of all blocks of data, by site."""
    return {name: torch.cat([block[name] for block in blocks], dim=dim) for name in blocks[0]}


def is_continuous(q: Any) -> bool:
    """Whether a distribution over z has a density, and so a mean that is a place."""
    return not q.support.is_discrete


def check_encoding(encoding: Any, name: str = "encoding") -> None:
    """Check that this is an encoding.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(encoding, Encoding):
        raise TypeError(f"`{name}` must be an Encoding, got {type(encoding).__name__}; pass evaluate.encode(model, x).")
