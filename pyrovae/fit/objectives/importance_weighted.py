"""The importance-weighted bound of local latents, log of a mean of k weights for each datum apart."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import torch_backward, torch_sum
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from pyro.util import warn_if_nan
from torch import Tensor

Program = Callable[..., Any]
PARTICLES = "num_particles_vectorized"  # Pyro's name of the plate over particles


class ImportanceWeightedELBO(ELBO):
    """The k-sample bound of log p(x), tighter the larger k, for models whose latents are local to a data plate:

        Σ_n log (1/k) Σ_k w_nk,    w_nk = p(x_n, z_nk) / q(z_nk|x_n),    z_nk ~ q(z|x_n).

    The mean over particles is taken for each datum apart; where the plate holds a subsample, the sum over its data is
    scaled by size / subsample_size afterwards, outside of the logarithm.  With one particle it is ``Trace_ELBO``.

    ``gradient="doubly_reparametrised"`` changes only the gradients through the guide.  With the normalised weights
    ŵ_k = w_k / Σ_j w_j held fixed, it takes Σ_k ŵ_k² (∂ log w_k / ∂z_k)(∂z_k / ∂φ) for φ, with φ held fixed in
    log w_k, in place of Σ_k ŵ_k d log w_k / dφ: the same in expectation, but without noise where q is the exact
    posterior, and with a signal that is not lost in noise as k grows.  With one particle it is "sticking the landing".
    A guide may have any number of sites, each depending on those before it.

    Args:
        num_particles: k.
        gradient: ``"reparametrised"`` or ``"doubly_reparametrised"``.
        data_plate: Name of the vectorized plate over data; every sample site of model and guide must be inside.
        max_plate_nesting: Plates inside one another, at most: 1 where there is none but that over data.  With
            ``math.inf`` Pyro runs the programs once to find it, and says so.
        vectorize_particles: Draw the particles in one plate to the left of all others; else one after the other.

    Raises:
        ValueError: If an argument is out of range; from the loss, if a site is outside of the data plate, is
            enumerated, or is not reparametrised in the guide.

    Example:
        >>> from pyrovae import VAE, fit
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> vae = VAE(latent_dim=1, data_shape=(3,), hidden=(8,))
        >>> fit.svi(vae, x, num_epochs=2, elbo=fit.ImportanceWeightedELBO(num_particles=5)).objective
        'importance-weighted bound, k = 5'

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders; Tucker, Lawson, Gu and Maddison
        (2019), Doubly reparameterized gradient estimators for Monte Carlo objectives; Roeder, Wu and Duvenaud (2017),
        Sticking the landing.
    """

    def __init__(
        self,
        num_particles: int = 5,
        *,
        gradient: Literal["reparametrised", "doubly_reparametrised"] = "reparametrised",
        data_plate: str = "data",
        max_plate_nesting: float = 1,
        vectorize_particles: bool = True,
    ) -> None:
        if not (isinstance(num_particles, int) and num_particles >= 1):
            raise ValueError(f"`num_particles` must be a whole number of at least 1, got {num_particles!r}.")
        if gradient not in ("reparametrised", "doubly_reparametrised"):
            raise ValueError(f"`gradient` must be 'reparametrised' or 'doubly_reparametrised', got {gradient!r}.")
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
        )
        self.gradient = gradient
        self.data_plate = data_plate

    @property
    def objective(self) -> str:
        """What it is, for a title."""
        return f"importance-weighted bound, k = {self.num_particles}"

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative bound as a number, nats, summed over data."""
        return warn_if_nan(self.differentiable_loss(model, guide, *args, **kwargs), "loss").item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative bound as a number, its gradients added to the parameters: a step of stock ``SVI``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        torch_backward(loss, self.retain_graph)
        return warn_if_nan(loss, "loss").item()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound for autograd, nats, summed over data."""
        model_traces, guide_traces = zip(*self._get_traces(model, guide, args, kwargs), strict=True)
        log_p, log_q = self._per_datum(model_traces), self._per_datum(guide_traces)
        scale = self._plate_scale(_sample_sites(model_traces[0])[0])
        log_weights = log_p - log_q
        bound = scale * (log_weights.logsumexp(0) - math.log(self.num_particles)).sum()
        if self.gradient == "reparametrised" or not torch.is_grad_enabled():
            return -bound
        weights = log_weights.detach().softmax(0)
        latents = [site for trace in guide_traces for _, site in trace.iter_stochastic_nodes()]
        surrogate = scale * (weights * log_p).sum() + _along_paths(scale * (weights**2 * log_weights).sum(), latents)
        return -(bound.detach() + surrogate - surrogate.detach())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        """Traces of the guide and of the model run against it; for the doubly reparametrised, draws are leaves."""
        leaves = DrawLeaves()
        guide = leaves(guide) if self.gradient == "doubly_reparametrised" else guide
        model_trace, guide_trace = get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)
        for site in _sample_sites(model_trace) + _sample_sites(guide_trace):
            if site["infer"].get("enumerate") and not site["is_observed"]:
                raise ValueError(
                    f"`model` and `guide` must have no enumerated site, got {site['name']!r}; "
                    "to sum over a discrete latent use TraceEnum_ELBO."
                )
        for name, site in guide_trace.iter_stochastic_nodes():
            if not (site["fn"].has_rsample and is_identically_zero(site["score_parts"].score_function)):
                raise ValueError(
                    f"`guide` must be reparametrised at every site, got {type(site['fn']).__name__} at "
                    f"{name!r}; use Trace_ELBO, which has score-function gradients."
                )
            site["draw"] = leaves.draws.get(name)
        return model_trace, guide_trace

    def _per_datum(self, traces: Sequence[Trace]) -> Tensor:
        """Log-densities summed over sites, for each particle and datum apart, without the plate's scale; (k, N)."""
        log_probs = [sum(map(self._log_prob, _sample_sites(trace)), torch.zeros(())) for trace in traces]
        return torch.stack(log_probs).reshape(self.num_particles, -1)

    def _log_prob(self, site: Any) -> Tensor:
        """Of one site, summed over all plates but those of particles and data."""
        kept = {frame.dim for frame in site["cond_indep_stack"] if frame.name in (PARTICLES, self.data_plate)}
        summed = [dim for dim in range(-site["log_prob"].dim(), 0) if dim not in kept]
        return torch_sum(site["log_prob"], summed) / self._plate_scale(site)

    def _plate_scale(self, site: Any) -> float:
        """By how much the data plate around a site scales its log-density: size / subsample_size."""
        for frame in site["cond_indep_stack"]:
            if frame.name == self.data_plate and frame.vectorized:
                return frame.full_size / frame.size
        raise ValueError(
            f"`data_plate` must name a vectorized plate around every sample site, got {self.data_plate!r}, but site "
            f"{site['name']!r} is outside of it; a weight for each datum needs latents that are local to it."
        )


class DrawLeaves(Messenger):
    """Hands on every draw as a leaf of autograd, apart from the parameters that it was drawn with; keeps the draw."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or not msg["fn"].has_rsample:
            return
        draw = msg["fn"](*msg["args"], **msg["kwargs"]) if msg["value"] is None else msg["value"]
        self.draws[msg["name"]] = draw
        msg["value"] = draw.detach().requires_grad_()
        msg["done"] = True


def _along_paths(target: Tensor, latents: list[Any]) -> Tensor:
    """A surrogate whose gradient is that of ``target`` by way of the draws alone.

    From the last site to the first, the gradient at a draw includes that by way of the draws that depend on it.
    """
    path = torch.zeros_like(target)
    for site in reversed(latents):
        (adjoint,) = torch.autograd.grad(target + path, site["value"], retain_graph=True)
        path = path + (adjoint * site["draw"]).sum()
    return path


def _sample_sites(trace: Trace) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]
