"""Objectives beside Pyro's own: Pyro ELBO objects, for stock ``SVI``, for ELBO modules, and for :func:`fit.svi`.

Each takes any static model and guide, knows nothing of the loop that calls it, and gives what Pyro's ELBOs give:
``loss``, ``differentiable_loss`` and ``loss_and_grads``, in nats, summed over data.
"""

from pyrovae.fit.objectives.beta import BetaELBO as BetaELBO, LinearWarmup as LinearWarmup
from pyrovae.fit.objectives.importance_weighted import ImportanceWeightedELBO as ImportanceWeightedELBO
