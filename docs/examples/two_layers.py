"""Two layers of latents, of 100 and of 50 units, on binarized MNIST: the deeper model of Burda et al.

p(x, z₁, z₂) = p(x|z₁) p(z₁|z₂) p(z₂), and q(z₁, z₂|x) = q(z₁|x) q(z₂|z₁): two Pyro programs and what they hold.  What
fits, bounds, encodes and compares in pyrovae takes the model as it is, and gives latents by the names of their sites.

Reference:
    Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, section 5 and appendix C.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import data, evaluate, fit
from pyrovae.models import LatentVariableModel, Program
from pyrovae.models.networks import mlp, redraw_parameters

PIXELS, LOW, TOP = 784, 100, 50  # units of x, z₁ and z₂


class Normal(nn.Module):
    """h → Normal(μ(h), σ(h)), by two layers of tanh."""

    def __init__(self, num_inputs: int, width: int, num_outputs: int) -> None:
        super().__init__()
        self.body = mlp((num_inputs, width, width), nn.Tanh)
        self.loc, self.log_scale = nn.Linear(width, num_outputs), nn.Linear(width, num_outputs)

    def forward(self, h: Tensor) -> dist.Distribution:
        h = self.body(h)
        return dist.Normal(self.loc(h), self.log_scale(h).exp()).to_event(1)


class Pixels(nn.Module):
    """z₁ → Bernoulli for each pixel, by two layers of tanh."""

    def __init__(self, num_inputs: int, width: int, num_outputs: int) -> None:
        super().__init__()
        self.body, self.logits = mlp((num_inputs, width, width), nn.Tanh), nn.Linear(width, num_outputs)

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=self.logits(self.body(z)), validate_args=False).to_event(1)


class Generative(Program):
    """z₂ ~ Normal(0, I);  z₁ ~ p(z₁|z₂);  x ~ p(x|z₁)."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.low, self.pixels = Normal(TOP, 100, LOW), Pixels(LOW, 200, pixels)
        self.register_buffer("zero", torch.zeros(TOP), persistent=False)

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.zero, 1.0).to_event(1))
            z1 = pyro.sample("z1", self.low(z2))
            return pyro.sample("x", self.pixels(z1), obs=x)


class Recognition(Program):
    """z₁ ~ q(z₁|x);  z₂ ~ q(z₂|z₁)."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.low, self.top = Normal(pixels, 200, LOW), Normal(LOW, 100, TOP)

    def forward(self, x: Tensor, *, num_data: int = 1) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", self.low(x))
            pyro.sample("z2", self.top(z1))


class TwoLayers(LatentVariableModel):
    """The generative program and its guide, for binary data of so many pixels."""

    support = "boolean"

    def __init__(self, pixels: int = PIXELS) -> None:
        super().__init__()
        self.model, self.guide, self.data_shape = Generative(pixels), Recognition(pixels), (pixels,)

    def initialize(self, x: Tensor) -> None:
        """Fresh weights, and pixels that start at their means."""
        redraw_parameters(self)
        with torch.no_grad():
            self.model.pixels.logits.bias.copy_(x.mean(0).clamp(0.001, 0.999).logit())


def train(train: data.Observations, num_epochs: int, **options: Any) -> fit.FitResult:
    """The fit by the ELBO, or by another ``elbo=`` such as ``fit.ImportanceWeightedELBO(5)``.

    For the same time the ELBO takes three to four times as many epochs, which is more than five particles are worth
    in minutes; in days it is the other way round.
    """
    options = {"batch_size": 100, "lr": 3e-3, "schedule": "one_cycle", **options}
    return fit.svi(TwoLayers(len(train.x[0])), train, num_epochs=num_epochs, **options)


def main(minutes: float = 10.0) -> None:
    """Train for so long on MNIST, binarized afresh at each use, and print log p(x) of the test set."""
    mnist = data.load("mnist", observations="binary", resample=True)
    one, three = (train(mnist.train, number).seconds for number in (1, 3))  # the first has the capture of the graph
    result = train(mnist.train, max(1, round(60 * minutes / ((three - one) / 2))))
    print(result)
    print(evaluate.latent_report(evaluate.encode(result.model, mnist.test)))
    print(evaluate.log_likelihood(result.model, mnist.test, num_particles=5000))


if __name__ == "__main__":
    main()
