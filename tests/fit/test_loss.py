"""What a batch counts: a loss a datum, whatever number of data the program's plate stands for."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import Execution, evaluate, fit
from pyrovae.models import LatentVariableModel, Program

N, D = 40, 3


class Written(Program):
    def __init__(self, plate, guide):
        super().__init__()
        self.plate, self.guide = plate, guide
        self.w, self.b = nn.Parameter(torch.ones(D).double()), nn.Parameter(torch.zeros(D).double())

    def forward(self, x=None, *, num_data=1):
        with self.plate(x):
            if self.guide:
                return pyro.sample("z", dist.Normal(x @ self.w / (1 + D), 0.5))
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            return pyro.sample("x", dist.Normal(z[..., None] * self.w + self.b, 1.0).to_event(1), obs=x)


class Model(LatentVariableModel):
    data_shape = (D,)

    def __init__(self, plate):
        super().__init__()
        self.model, self.guide = Written(plate, guide=False), Written(plate, guide=True)


def whole(x):
    return pyro.plate("data", len(x), dim=-1)


def of_a_population(x):
    return pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1)


def of_patients(x):
    return pyro.plate("patients", 37 * len(x), subsample=torch.arange(len(x)), dim=-1)


ELBOS = [
    None,
    Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    TraceMeanField_ELBO(),
    fit.BetaELBO(fit.LinearWarmup(5)),
]
BOUND = fit.ImportanceWeightedELBO(3)


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize(
    ("plate", "elbo"),
    [(of_a_population, BOUND), *((plate, elbo) for plate in (of_a_population, of_patients) for elbo in ELBOS)],
)
def test_a_plate_that_stands_for_more_data_changes_no_fit(plate, elbo, compile):
    x = torch.randn(N, D, dtype=torch.float64)
    options = {"valid": x[:10], "num_epochs": 3, "batch_size": 16, "elbo": elbo, "warm_start": True, "progress": False}
    found, expected = (
        fit.svi(Model(each), x, lr=0.05, execution=Execution(compile=compile), **options) for each in (plate, whole)
    )
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.valid_trace, expected.valid_trace, rtol=1e-9, atol=0)
    assert math.isclose(found.elbo, expected.elbo, rel_tol=1e-9)


def test_the_elbo_of_a_fit_is_that_of_evaluation():
    x = torch.randn(2000, D, dtype=torch.float64)
    result = fit.svi(Model(of_a_population), x, num_epochs=1, lr=1e-9, batch_size=1000, warm_start=True, progress=False)
    elbo = evaluate.elbo(result.model, x, 20)
    spread = evaluate.log_weights(result.model, x, 2).std()  # of one draw for one datum, the data's own spread included
    assert abs(result.elbo - elbo.mean().item()) < 6 * spread / len(x) ** 0.5


def test_a_program_that_draws_a_part_of_its_batch_fits_on_the_same_scale():
    """Pyro scales the part up to the batch, so that the mean over many steps is the ELBO of a datum."""

    class Part(Written):
        def forward(self, x=None, *, num_data=1):
            with pyro.plate("data", len(x), subsample_size=10, dim=-1) as some:
                part = x[some]
                if self.guide:
                    return pyro.sample("z", dist.Normal(part @ self.w / (1 + D), 0.5))
                z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
                return pyro.sample("x", dist.Normal(z[..., None] * self.w + self.b, 1.0).to_event(1), obs=part)

    x, model, steps = torch.randn(N, D, dtype=torch.float64), Model(whole), 300
    expected = evaluate.elbo(model, x, 1000).mean().item()
    spread = evaluate.log_weights(model, x, 100).std().item()
    model.model, model.guide = Part(None, guide=False), Part(None, guide=True)
    result = fit.svi(model, x, num_epochs=steps, batch_size=N, lr=1e-9, warm_start=True, progress=False)
    assert abs(result.trace.mean().item() - expected) < 6 * spread / (10 * steps) ** 0.5


def test_a_model_without_parameters_is_refused():
    class Fixed(Program):
        def forward(self, x=None, *, num_data=1):
            with whole(x):
                pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))

    model = Model(whole)
    model.model, model.guide = Fixed(), Fixed()
    with pytest.raises(
        ValueError, match="`model` must have a parameter to be fitted, got none that requires a gradient"
    ):
        fit.svi(model, torch.zeros(5, D, dtype=torch.float64), warm_start=True)


def test_the_first_offender_is_no_masked_site():
    class Masked(Written):
        def forward(self, x=None, *, num_data=1):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
                with pyro.poutine.mask(mask=False):
                    pyro.sample("nothing", dist.Normal(z, 1.0), obs=z / 0)
                pyro.sample("x", dist.Normal(z[..., None] * self.w, 1.0).to_event(1), obs=x / 0)

    model = Model(whole)
    model.model = Masked(whole, guide=False)
    with pytest.raises(fit.DivergenceError, match="the log-density of site 'x' is not"):
        fit.svi(model, torch.ones(5, D, dtype=torch.float64), num_epochs=1, warm_start=True, progress=False)
