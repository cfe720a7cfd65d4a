"""Pictures of models whose latents have other names, are several, or have no dimensions of their own."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae import data, plots
from pyrovae.models.base import LatentVariableModel, Program

SIDE = 2
D = SIDE**2


class Layers(Program):
    """a ~ Normal(0, 1), a number; b ~ Normal(a, I₃); pixels ~ Normal(first of b, 1)."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x.mean(1) if self.guide else torch.zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a[..., None].expand(*a.shape, 3), 1.0).to_event(1))
            if not self.guide:
                pyro.sample("pixels", dist.Normal(b[..., :1].expand(*a.shape, D), 1.0).to_event(1), obs=x)


class Number(Program):
    """A single latent: a number that is real, or positive; pixels ~ Normal(a, 1)."""

    def __init__(self, guide, positive):
        super().__init__()
        self.guide, self.positive = guide, positive

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            loc = x.mean(1) * D / (D + 1) if self.guide else torch.zeros((), dtype=torch.float64)
            kind = dist.LogNormal if self.positive else dist.Normal
            a = pyro.sample("a", kind(loc, (D + 1) ** -0.5 if self.guide else 1.0))
            if not self.guide:
                pyro.sample("pixels", dist.Normal(a[..., None].expand(*a.shape, D), 1.0).to_event(1), obs=x)


class Own(LatentVariableModel):
    data_shape = (D,)

    def __init__(self, program, *arguments):
        super().__init__()
        self.register_buffer("like", torch.zeros((), dtype=torch.float64 if arguments else torch.float32))
        self.model, self.guide = program(False, *arguments), program(True, *arguments)


@pytest.fixture
def images():
    return data.Observations(torch.randn(12, D), labels=torch.arange(12) % 3, image_shape=(1, SIDE, SIDE))


def test_every_picture_takes_several_latents(images):
    models = {"layers": Own(Layers)}
    assert [axes.get_title().split("\n")[0] for axes in plots.latents(models, images).axes][:2] == [
        "layers, a",
        "layers, b",
    ]
    for draw in (plots.reconstructions, plots.strips, plots.sigma_maps, plots.samples):
        assert draw(models, images).axes
    with pytest.raises(ValueError, match=r"must have a continuous z of at least 2 units, got the sites \['a', 'b'\]"):
        plots.manifold(models, images)


def test_the_exact_guide_of_a_number_lies_on_the_posterior():
    x = torch.randn(2, D, dtype=torch.float64)
    figure = plots.posterior_contours(Own(Number, False), x)
    for axes in figure.axes:
        (curve,) = axes.lines
        place, height = torch.as_tensor(curve.get_xdata()), torch.as_tensor(curve.get_ydata())
        edge = torch.as_tensor(axes.collections[0].get_paths()[0].vertices)
        highest = edge[edge[:, 1].argmax()]
        torch.testing.assert_close(highest, torch.stack([place[height.argmax()], height.max()]), rtol=0, atol=1e-3)
        torch.testing.assert_close(height.max().item(), ((D + 1) / (2 * math.pi)) ** 0.5, rtol=0, atol=1e-3)


def test_a_positive_number_is_not_drawn_on_the_grid_of_its_logarithm():
    with pytest.raises(ValueError, match=r"`model` must have a latent of all real numbers to be drawn, got one of Gr"):
        plots.posterior_contours(Own(Number, True), torch.randn(2, D, dtype=torch.float64))
