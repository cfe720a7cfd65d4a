"""A check of a model that several evaluators share."""

from pyrovae.models.base import LatentVariableModel


def check_density(model: LatentVariableModel) -> None:
    """Check that p(x|z) is a density or a mass, so that there is a log p(x).

    Raises:
        ValueError: If it is neither.
    """
    if not model.is_density:
        raise ValueError(
            f"`model` must have a likelihood that is a density or a mass, got a {type(model).__name__} trained by a "
            "loss that is neither; its bound can be watched with evaluate.elbo_terms."
        )
