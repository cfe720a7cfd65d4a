"""What a model says of every row of a table: log p(x), the component it comes from, its latents, what is missing."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, Transform

from pyrovae.data import Observations, as_observations
from pyrovae.data.provenance import in_reference
from pyrovae.evaluate.latents.encoding import encode, is_continuous, posteriors_by_site
from pyrovae.evaluate.likelihood.estimate import LogLikelihood
from pyrovae.evaluate.likelihood.log_likelihood import log_likelihood
from pyrovae.models.base import LatentVariableModel

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class RowScores:
    """What :func:`score_rows` returns.

    Attributes:
        table: A line for each datum.
        sentences: What its columns are.
    """

    table: "pd.DataFrame"
    sentences: list[str]

    def to_plain(self) -> dict[str, Any]:
        """Both as JSON holds them; null is what there is not."""
        rows = json.loads(self.table.to_json(orient="records", double_precision=15))
        return {"sentences": self.sentences, "rows": rows}


@torch.no_grad()
def score_rows(model: LatentVariableModel, data: Observations | Tensor, *, seed: int = 0, **bound: Any) -> RowScores:
    """What a model says of each datum, in the units of the reference space, whatever view the model sees.

    Args:
        model: Any model.  One of a class that has ``missing="nan"`` takes missing values, built with it or not.
        data: N data as the model sees them.  If they know the ``names`` of their columns and the ``rows`` of their
            file, so does the table.
        seed: Of the draws.
        **bound: How log p(x) is bounded where it is not exact; see :func:`log_likelihood`.

    Returns:
        The table, with the columns

        - ``row``, the number of the row in its file from 1, or without a file ``datum``, from 0;
        - ``log_p``, nats, exact; or ``log_p_bound``, a lower bound in expectation, and ``log_p_bound_se``, its
          Monte-Carlo standard error, NaN where the weights do not know it; of p(x|y) ``log_p_given_y…``;
        - of a mixture ``component``, the most probable one from 0, and ``component_probability``; of continuous latents
          their posterior means, ``z[0]``, …;
        - where values are missing ``num_missing`` and, for every column with such, ``imputed_NAME``, E[x|the observed],
          and ``imputed_sd_NAME``, NaN where nothing is missing.

    Raises:
        ValueError: If values are missing that the model does not take; else as :func:`log_likelihood`.

    Example:
        >>> from pyrovae import PPCA
        >>> x = torch.tensor([[0.0, 1.0], [2.0, torch.nan]], dtype=torch.float64)
        >>> score_rows(PPCA(latent_dim=1, data_shape=(2,)), x).table.columns.tolist()
        ['datum', 'log_p', 'z[0]', 'num_missing', 'imputed_x[1]', 'imputed_sd_x[1]']
    """
    import pandas as pd

    observations = as_observations(data, allow_nan=True).fixed(seed)
    incomplete = bool(observations.x.isnan().any())
    if incomplete:
        model = _taking_missing(model, observations)
    exact = hasattr(model, "log_prob")  # and then never replaced by a bound
    likelihood = log_likelihood(model, observations, seed=seed, **{**bound, **({"method": "auto"} if exact else {})})
    given = model.num_classes is not None
    name = f"log_p{'_given_y' if given else ''}{'' if exact else '_bound'}"
    columns: Columns = (
        {"datum": torch.arange(len(observations))} if observations.rows is None else {"row": observations.rows}
    )
    columns[name] = likelihood.values.double().cpu() + observations.log_abs_det.cpu()
    if not exact:
        columns[f"{name}_se"] = likelihood.standard_error
    columns |= _latents(model, observations) | (_imputed(model, observations) if incomplete else {})
    table = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    return RowScores(table, _sentences(name, likelihood, observations, given))


def _latents(model: Any, data: Observations) -> Columns:
    """The component of a mixture, or the posterior means of continuous latents."""
    if hasattr(model, "predict_proba"):
        component = model.predict(data)
        probability = model.predict_proba(data).gather(1, component[:, None])[:, 0]
        return {"component": component, "component_probability": probability}
    sites = next(posteriors_by_site(model, data[:1])).sites.values()
    if not all(is_continuous(site["fn"]) for site in sites):
        return {}
    encoding = encode(model, data)
    return dict(zip(encoding.units, encoding.flat.mean.double().T, strict=True))


def _imputed(model: Any, data: Observations) -> Columns:
    """How many values of a datum are missing, and what they are expected to be, in the reference space."""
    missing = data.x.isnan().flatten(1).cpu()
    columns: Columns = {"num_missing": missing.sum(1)}
    if not _is_affine(data.space.transform):
        return columns
    seen, variance = (each.flatten(1).to("cpu", torch.float64) for each in model.impute(data))
    mean = in_reference(seen, data.space)
    slope = data.space.transform.log_abs_det_jacobian(mean, seen).exp()
    deviation = (variance.sqrt() / slope).expand(mean.shape)
    names = data.column_names
    for d in missing.any(0).nonzero().flatten().tolist():
        for what, values in (("imputed", mean), ("imputed_sd", deviation)):
            columns[f"{what}_{names[d]}"] = values[:, d].where(missing[:, d], torch.nan)
    return columns


def _is_affine(transform: Transform) -> bool:
    """Whether means of what a model sees are means in the reference space, too."""
    if isinstance(transform, ComposeTransform):
        return all(map(_is_affine, transform.parts))
    return isinstance(transform, AffineTransform) or isinstance(transform.inv, AffineTransform)


def _taking_missing(model: LatentVariableModel, data: Observations) -> LatentVariableModel:
    """The same p(x) as a model that takes missing values."""
    if model.missing == "nan":
        return model
    if "missing" not in (model.config or {}):
        rows = data.x.isnan().flatten(1).any(1).nonzero().flatten()
        raise ValueError(
            f"`data` must have no missing values for a {type(model).__name__}, got some in {len(rows)} of {len(data)} "
            f"data, first in {data.datum(int(rows[0]))}; leave these out, or impute them."
        )
    again = type(model)(**{**(model.config or {}), "missing": "nan"}).to(model._like)
    again.load_state_dict(model.state_dict())
    return again.eval()


def _sentences(name: str, likelihood: LogLikelihood, data: Observations, given: bool) -> list[str]:
    """What the columns are."""
    meaning = likelihood.meaning.replace("log p(x)", "log p(x|y)" if given else "log p(x)")
    view, missing = data.space.transform_name, int(data.x.isnan().flatten(1).any(1).sum())
    brought = "" if view == "as it is" else f", brought back from the view of the model ({view})"
    units = f"nats, in the units of {data.space.reference!r}{brought}"
    said = [f"{name}: {meaning[0].lower()}{meaning[1:-1]}; {units}."]
    said += [likelihood.doubt] if likelihood.doubt else []
    if missing:
        said.append(
            f"Values are missing in {missing} of {len(data)} rows: log p(x) there is that of the observed ones."
        )
        if not _is_affine(data.space.transform):
            said.append(f"They are not imputed: the view of the model ({view}) does not keep means.")
    return said
