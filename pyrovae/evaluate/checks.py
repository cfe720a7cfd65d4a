"""Checks of arguments that several evaluators share."""

from pyrovae.models.base import LatentVariableModel


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check an argument that is one of several words.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in choices:
        *most, last = (f'"{each}"' for each in choices)
        raise ValueError(f"`{name}` must be {', '.join(most)} or {last}, got {value!r}.")


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
