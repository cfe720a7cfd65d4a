"""The random variables of a program by name: its latents, one or many, and the site of its data."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.models.sites import PARTICLES, data_plate

Latents = dict[str, Tensor]
Values = Any  # the tensor of one site, or Latents of several
DRAWS, AT_ONCE = 1000, 100  # of a distribution without moments in closed form
FEW = 3  # data on which the sites of a program are looked at
DATA = "data"  # the name of the plate over data


def is_random(site: Any) -> bool:
    """Whether a node of a trace is a random variable: neither a plate nor a value that follows from others."""
    return site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")


def is_latent(site: Any) -> bool:
    """Whether a node of a trace is a random variable that is not observed."""
    return is_random(site) and not site["is_observed"]


def latent_sites(program: Any, *inputs: Any) -> dict[str, Any]:
    """What a program draws and does not observe, by name: the site of each in one run of the program."""
    return {name: site for name, site in traced(program, inputs[0], *inputs).nodes.items() if is_latent(site)}


def unmatched(guided: list[Any], modelled: list[Any]) -> tuple[str, ...]:
    """The latents of a guide that the model does not count as it does, so that p(x, z) / q(z|x) is no weight.

    Such are points or masses where the model has a density, a mask of one of them alone, and latents that the model
    has not.  Where points follow from the latter, as in Pyro's automatic guides, all is well.

    Args:
        guided, modelled: What both sample.
    """
    own = {site["name"]: site for site in modelled}
    latents = {site["name"]: site for site in guided if is_latent(site)}
    shared = {name: (site, own[name]) for name, site in latents.items() if name in own}
    points = [name for name, (q, p) in shared.items() if (kind(q), kind(p)) == ("point", "density")]
    others = [name for name in latents if name not in own]
    unlike = [name for name, pair in shared.items() if not _alike(*pair)]
    return (*unlike, *(() if points and others else (*points, *others)))


def _alike(q: Any, p: Any) -> bool:
    """Whether two sites count a value in one measure, with one mask; a point may stand for any."""
    first, second = (torch.as_tensor(True if site["mask"] is None else site["mask"]) for site in (q, p))
    return kind(q) in ("point", kind(p)) and bool((first == second).all())


def kind(site: Any) -> str:
    """Whether a site has a ``"density"``, a ``"mass"``, or is a ``"point"``."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return "point" if isinstance(fn, Delta) else "mass" if fn.support.is_discrete else "density"


def traced(program: Any, like: Tensor, *inputs: Any, **options: Any) -> Any:
    """The trace of one run; draws of another floating-point type, which layers refuse, get that of ``like``.

    Such are draws of a mixture that was fitted in double precision, as the prior of a program in single precision.
    """
    try:
        return poutine.trace(program).get_trace(*inputs, **options)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("same dtype", "scalar type", "Input type")):
            raise
        with InTypeOf(like):
            return poutine.trace(program).get_trace(*inputs, **options)


def check_local(latents: dict[str, Any], num_data: int) -> None:
    """Refuse a latent that all data share: nothing here integrates over it.

    Args:
        latents: The latent sites of a run.
        num_data: Of the run; FEW, so that no other plate is likely to be as large.

    Raises:
        ValueError: If one is outside the plate over data; the message names it.
    """
    for name, site in latents.items():
        plates = [plate for plate in site["cond_indep_stack"] if plate.vectorized and plate.name not in PARTICLES]
        if not any(plate.name == DATA or plate.size == num_data for plate in plates):
            raise ValueError(
                f"`model` must have every site inside the plate over data, got site {name!r} outside it, which all "
                "data share; make it a parameter, or draw one for each datum."
            )


def data_axis(site: Any) -> int:
    """Where the data are among the dimensions of a site's value; plates beside them stand to their left or right."""
    plate = data_plate(site)
    return 0 if plate is None else len(site["fn"].batch_shape) + plate.dim


def data_first(site: Any, value: Tensor | None = None) -> Tensor:
    """The value of a site, or another of its shape, with the data first, (N, ...)."""
    value, axis = site["value"] if value is None else value, data_axis(site)
    return value.movedim(axis, 0) if axis else value


def bare(latents: Latents) -> Values:
    """The value of a single site, or the values of several by name."""
    return next(iter(latents.values())) if len(latents) == 1 else latents


def by_site(values: Values, names: Any, argument: str = "z") -> Latents:
    """Values by site; those of a single site may come without its name.

    Raises:
        ValueError: If they are of other sites.
    """
    names = list(names)
    if isinstance(values, Tensor) and len(names) == 1:
        return {names[0]: values}
    if isinstance(values, Tensor) or set(values) != set(names):
        given = "a tensor" if isinstance(values, Tensor) else f"{list(values)}"
        raise ValueError(f"`{argument}` must hold a tensor for each of the latent sites {names}, got {given}.")
    return values


def known(p: Any, figure: str) -> Tensor:
    """The mean or another figure of p(x|z).

    Raises:
        ValueError: If it has no closed form.
    """
    try:
        value: Tensor = getattr(p, figure)
    except NotImplementedError as error:
        raise ValueError(
            f"`model` must have a p(x|z) of known {figure}, got a {type(p).__name__}; take samples of it instead."
        ) from error
    return value


def moments(q: Any, number: int = DRAWS) -> tuple[Tensor, Tensor]:
    """Mean and variance of a distribution over z; of so many draws where they have no closed form, as of a flow."""
    try:
        return q.mean, q.variance
    except NotImplementedError:
        every = (q.sample((min(number, AT_ONCE),)) for _ in range(0, number, AT_ONCE))
        return pooled([(z.mean(0), z.var(0, correction=0)) for z in every])


def pooled(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance of equal parts together, from those of each."""
    mean, variance = (torch.stack(part) for part in zip(*parts, strict=True))
    return mean.mean(0), variance.mean(0) + mean.var(0, correction=0)


class InTypeOf(Messenger):
    """A block in which what a program draws has the floating-point type of a tensor, whatever its priors have."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.like = like

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and msg["value"].is_floating_point():
            msg["value"] = msg["value"].to(self.like.dtype)


def named_sites(model: Any) -> tuple[str, dict[str, Any]]:
    """The name of a model's observed site, and its latent sites by name, from a run of its program on data of zeros.

    Raises:
        ValueError: If it observes no site or several, or a latent is outside the plate over data.
    """
    inputs = zeros_for(model)
    with torch.no_grad(), evaluating(model), seeded(0):
        nodes = run_of(model, inputs, FEW)
    every = {name: site for name, site in nodes.items() if is_random(site)}
    observed = [name for name, site in every.items() if site["is_observed"] or (inputs[0] is None and name == "x")]
    if len(observed) != 1:
        raise ValueError(
            f"`model` must observe one site to be sampled or decoded, and have a `data_shape`, got {observed}; "
            "pyro.infer.Predictive takes any program."
        )
    latents = {name: site for name, site in every.items() if name not in observed}
    check_local(latents, FEW)
    return observed[0], latents


def run_of(model: Any, inputs: Sequence[Any], num_data: int, at: Latents | None = None) -> Any:
    """The nodes of one run of a model's program, by name, its latents as given or drawn.

    Raises:
        ValueError: If the program makes no data where x is None.
    """
    program = poutine.condition(model.model, at or {})
    try:
        return traced(program, model._like, *inputs, num_data=num_data).nodes
    except (TypeError, AttributeError) as error:
        if inputs[0] is not None or not any(sign in str(error) for sign in ("NoneType", "not callable")):
            raise
        raise ValueError(
            "`model` must make `num_data` data where x is None, from distributions of pyro.distributions in "
            f"plate('data', num_data if x is None else len(x)), got {error}."
        ) from error


def zeros_for(model: Any) -> tuple[Any, ...]:
    """What a program can be called with where only its sites are of interest: a few data, None where nobody knows x."""
    like = model._like
    x = None if model.data_shape is None else like.new_zeros(FEW, *model.data_shape)
    return (x,) if model.num_classes is None else (x, torch.zeros(FEW, dtype=torch.long, device=like.device))
