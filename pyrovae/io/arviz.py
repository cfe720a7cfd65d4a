"""ArviZ's data structures, for version 0.23 and 1.x alike."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.engine.isolation import quiet
from pyrovae.engine.seeding import seeded
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.latents import by_site, named_sites
from pyrovae.models.tractable import TractableModel


@torch.no_grad()
def inference_data(model: LatentVariableModel, data: Observations, log_prob: Tensor, num_draws: int, seed: int) -> Any:
    """Draws of z, their log importance weights, and given pointwise log-likelihoods as ArviZ data.

    Args:
        model: Any model.
        data: N data as the model sees them.
        log_prob: Shape (N,), nats, in the reference space of the data.
        num_draws: Draws of z for each datum.
        seed: Of the draws.

    Returns:
        ``InferenceData`` (ArviZ 0.23) or ``DataTree`` (1.x).
    """
    if isinstance(model, TractableModel):
        drawn_from = "the exact posterior"
        with seeded(seed):
            z: Any = model.posterior(data).sample((num_draws,))
        log_weights = model.log_prob(data).expand(num_draws, -1)  # under the exact posterior every weight is p(x)
    else:
        drawn_from = "the guide, an approximation of the posterior"
        z, log_weights = evaluate.draws(model, data, num_draws, seed=seed)
    log_weights = log_weights.cpu() + data.log_abs_det.cpu()  # in the reference space, like the log-likelihood
    observed, latents = named_sites(model)
    z = by_site(z, latents)
    drawn = {
        "posterior": z,
        "sample_stats": {"log_weight": log_weights},
        "log_likelihood": {observed: log_prob[None]},
    }
    groups = {group: {name: value[None].cpu().numpy() for name, value in part.items()} for group, part in drawn.items()}
    groups["observed_data"] = {observed: data.x.cpu().numpy()}
    dims = {name: ["datum", *_latent_dims(name, value, len(z))] for name, value in z.items()}
    dims |= {"log_weight": ["datum"], observed: ["datum"]}
    return _from_groups(groups, dims, {"drawn_from": drawn_from, "log_likelihood": "log p(x) per datum, nats"})


def _latent_dims(name: str, z: Tensor, num_sites: int) -> list[str]:
    """The name of the dimension of units; those of several sites are not the same."""
    return [] if z.ndim < 3 else ["latent"] if num_sites == 1 else [f"{name}_latent"]


def _from_groups(arrays: dict[str, Any], dims: dict[str, list[str]], attributes: dict[str, str]) -> Any:
    with quiet():  # both versions announce their changes on import; one draw is on purpose
        import arviz

        if int(arviz.__version__.split(".")[0]) < 1:
            return arviz.from_dict(**arrays, dims=dims, attrs=attributes)
        return arviz.from_dict(arrays, dims=dims, attrs={"/": attributes, "posterior": attributes})


def to_netcdf(content: Any, path: Path) -> None:
    """Write ArviZ data of either version to one NetCDF file."""
    with quiet():
        content.to_netcdf(path, engine="h5netcdf")
