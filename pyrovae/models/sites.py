"""What the sites of a program count: Pyro's masks and scales, and the plate that holds the data."""

from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

FEW = 256  # data on which programs are run once to see what they are
PARTICLES = ("particles", "num_particles_vectorized")  # the plates over particles, ours and Pyro's


def log_density(site: Any) -> Tensor:
    """The log-density of a site as Pyro counts it: masked and scaled, one value for each place in the plates."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])


def data_plate(site: Any) -> Any:
    """The plate over data around a site: the one of the name "data", else the outermost; None outside of all plates."""
    plates = [each for each in vectorized(site) if each.name not in PARTICLES]
    return next((each for each in plates if each.name == "data"), plates[0] if plates else None)


def vectorized(*sites: Any) -> list[Any]:
    """The plates around sites that are dimensions of their values, those of a site from the outermost inwards."""
    return [each for site in sites for each in site["cond_indep_stack"] if each.vectorized]


class GivenData(Messenger):
    """In it a program is one of the data given: a plate that holds just these does not scale them up to a larger set.

    Args:
        num_data: How many are given.
    """

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.num_data = num_data

    def _pyro_sample(self, msg: Any) -> None:
        plate = data_plate(msg)
        if plate is not None and plate.size == self.num_data != plate.full_size:
            msg["scale"] = msg["scale"] * (self.num_data / plate.full_size)
            own = plate._replace(full_size=self.num_data)
            msg["cond_indep_stack"] = tuple(own if each is plate else each for each in msg["cond_indep_stack"])
