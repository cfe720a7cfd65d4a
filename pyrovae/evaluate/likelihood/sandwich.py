"""Both sides of log p(x), for data that the model itself simulates."""

from dataclasses import dataclass

from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.evaluate.checks import check_density
from pyrovae.evaluate.evaluation import Evaluation, simulated
from pyrovae.evaluate.likelihood.annealed import DEFAULT_OPTIONS, AISOptions, AnnealedLikelihood, bounds
from pyrovae.evaluate.likelihood.estimate import known, standard_error
from pyrovae.models.base import LatentVariableModel, Program, check_model


@dataclass(frozen=True, eq=False)
class Sandwich:
    """log p(x) of simulated data, from both sides.

    Attributes:
        lower: From chains up to the posterior: below log p(x) in expectation.
        upper: From chains down from the exact posterior: above it in expectation.
        data: The simulated x.
        latents: The z of every x, by site.
    """

    lower: AnnealedLikelihood
    upper: AnnealedLikelihood
    data: Observations
    latents: dict[str, Tensor]

    @property
    def gap(self) -> float:
        """Mean of upper − lower, nats per datum: what is not known of the mean log p(x), up to its standard error."""
        return (self.upper.values - self.lower.values).mean().item()

    @property
    def gap_standard_error(self) -> float:
        """Standard error of :attr:`gap`, by its spread over data: that of the z the chains start from is in it."""
        return standard_error(self.upper.values - self.lower.values)

    def __str__(self) -> str:
        rows = [
            f"{name} bound in expectation {each.mean:12.4f} ± {known(each.monte_carlo_standard_error)} nats per datum, "
            f"acceptance {known(each.acceptance.mean().item(), 2)}"
            for name, each in (("lower", self.lower), ("upper", self.upper))
        ]
        gap = f"gap {self.gap:.4f} ± {known(self.gap_standard_error)}, N = {len(self.data):,}"
        from_one_z = "the chains of the upper bound start from one z a datum, and their ± knows of no other"
        doubts = dict.fromkeys(each.doubt for each in (self.lower, self.upper) if each.doubt)
        return "\n".join([*rows, f"{gap}; {from_one_z}", *doubts])


@keywords_moved(options=AISOptions, execution=Execution)
def sandwich(
    model: LatentVariableModel,
    num_data: int = 100,
    options: AISOptions = DEFAULT_OPTIONS,
    *,
    guide: Program | None = None,
    labels: Tensor | int | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> Sandwich:
    """log p(x) of data that the model itself simulates, bounded from both sides by the same annealed chains.

    What it says of simulated data, it says of real ones only as far as those are like them.

    Args:
        model: Any model.
        num_data: N.
        options, guide, chunk_size, progress, execution: As for :func:`ais`.
        labels: For a model of p(x|y), as for its ``sample``.
        seed: Seed of the data and of the chains.

    Returns:
        Both bounds, and the data.

    Raises:
        ValueError: As :func:`ais`.

    Example:
        >>> from pyrovae import PPCA
        >>> both = sandwich(PPCA(latent_dim=2, data_shape=(5,)), 3, AISOptions(num_temperatures=20, num_chains=4))
        >>> both.lower.bound, both.upper.bound
        ('lower', 'upper')

    Reference:
        Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional Monte Carlo.
    """
    check_model(model)
    check_density(model)
    check_whole("num_data", num_data)
    data, z = simulated(model, num_data, labels, seed)
    found = bounds(Evaluation(model, data, guide, chunk_size, seed, progress, execution), options, z)
    return Sandwich(found["lower"], found["upper"], data, z)
