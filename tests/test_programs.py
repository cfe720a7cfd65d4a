"""A Pyro program means here what it means in Pyro: a table of programs, each scored and trained by both.

A row is a class with two programs, ``p(own, x)`` and ``q(own, x)``; ``own`` holds the parameters, the same for every
row.  Stock Pyro scores one datum and one draw at a time, which no plate of ours can get wrong, and trains by ``SVI``.
"""

import math
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroParam
from torch import nn
from torch.distributions import constraints

from pyrovae import Execution, evaluate, fit
from pyrovae.evaluate.evaluation import Evaluation
from pyrovae.evaluate.likelihood.importance import weigh
from pyrovae.models import LatentVariableModel, Program

N, D, S, EPOCHS, LR = 5, 3, 2, 4, 0.002


class Written(Program):
    """A program whose body is a function of the parameters and x; every row has the same parameters."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.net = nn.Linear(D, 4).double()
        self.w = nn.Parameter(torch.randn(2, D, dtype=torch.float64))
        self.b = nn.Parameter(0.1 * torch.randn(D, dtype=torch.float64))
        self.sigma = PyroParam(torch.full((D,), 0.7, dtype=torch.float64), constraint=constraints.positive)
        self.spline = transforms.Spline(2, count_bins=4, bound=4.0).double()

    def forward(self, x=None, *, num_data=1):
        return self.body(self, x)


class Row(LatentVariableModel):
    data_shape = (D,)
    elbo = Trace_ELBO()
    size = N  # of the plate over data
    captured = True  # whether a graph can be had
    density = True  # whether there is a log p(x)

    def __init__(self):
        super().__init__()
        self.model, self.guide = Written(type(self).p), Written(type(self).q)
        self.guide.load_state_dict(self.model.state_dict())

    @staticmethod
    def data():
        return torch.randn(N, D, dtype=torch.float64)


def plate(x, **options):
    return pyro.plate("data", len(x), dim=-1, **options)


def normal(own, x, number=2):
    """An amortized Gaussian over so many numbers."""
    out = own.net(x)
    return dist.Normal(out[..., :number], (0.3 * out[..., 2 : 2 + number]).exp()).to_event(1)


def standard(*shape):
    return dist.Normal(torch.zeros(shape, dtype=torch.float64), 1.0).to_event(len(shape))


def gaussian(own, z, x):
    """x ~ Normal(z W + b, ½)."""
    return pyro.sample("x", dist.Normal(z @ own.w[: z.shape[-1]] + own.b, 0.5).to_event(1), obs=x)


ROWS = []


def row(cls):
    ROWS.append(cls)
    return cls


class Enumerated(Row):
    elbo = TraceEnum_ELBO(max_plate_nesting=1)


PARALLEL = {"enumerate": "parallel"}

# Discrete latents


@row
class Coin(Enumerated):
    def p(own, x):
        with plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(z[..., None] * own.w[0] + own.b, 1.0).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.Bernoulli(logits=own.net(x)[..., 0]), infer=PARALLEL)


@row
class ScoreFunction(Row):
    """The same without enumeration."""

    p = Coin.p

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.Bernoulli(logits=own.net(x)[..., 0]))


@row
class Categories(Enumerated):
    def p(own, x):
        with plate(x):
            z = pyro.sample("z", dist.Categorical(logits=own.b))
            pyro.sample("x", dist.Normal(torch.eye(D, dtype=x.dtype)[z], own.sigma).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.Categorical(logits=own.net(x)[..., :D]), infer=PARALLEL)


@row
class OneHot(Row):
    def p(own, x):
        with plate(x):
            z = pyro.sample("z", dist.OneHotCategorical(logits=own.b))
            pyro.sample("x", dist.Normal(z, own.sigma).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.OneHotCategorical(logits=own.net(x)[..., :D]))


@row
class TwoCoins(Enumerated):
    """The second depends on the first, in model and guide."""

    def p(own, x):
        with plate(x):
            first = pyro.sample("first", dist.Bernoulli(torch.tensor(0.4, dtype=x.dtype)))
            second = pyro.sample("second", dist.Bernoulli(0.2 + 0.5 * first))
            loc = first[..., None] * own.w[0] + second[..., None] * own.w[1]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def q(own, x):
        out = own.net(x)
        with plate(x):
            first = pyro.sample("first", dist.Bernoulli(logits=out[..., 0]), infer=PARALLEL)
            pyro.sample("second", dist.Bernoulli(logits=out[..., 1] + first), infer=PARALLEL)


# Continuous latents, and both together


@row
class Nonlinear(Row):
    def p(own, x):
        with plate(x):
            z = pyro.sample("z", standard(2))
            pyro.sample("x", dist.Laplace((z @ own.w).tanh(), own.sigma).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("z", normal(own, x))


@row
class FullCovariance(Row):
    def p(own, x):
        with plate(x):
            gaussian(own, pyro.sample("z", dist.MultivariateNormal(own.b[:2], torch.eye(2, dtype=x.dtype))), x)

    def q(own, x):
        out = own.net(x)
        factor = torch.eye(2, dtype=x.dtype) + torch.ones(2, 2, dtype=x.dtype).tril(-1) * out[..., 2, None, None]
        with plate(x):
            pyro.sample("z", dist.MultivariateNormal(out[..., :2], scale_tril=factor))


@row
class PositiveLatent(Row):
    def p(own, x):
        with plate(x):
            tau = pyro.sample("tau", dist.Gamma(own.sigma[0], own.sigma[1]))
            pyro.sample("x", dist.Normal(own.b, tau[..., None].rsqrt()).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("tau", dist.LogNormal(own.net(x)[..., 0], 0.5))


@row
class Mixed(Row):
    """A switch and a number: the number's prior is that of the switch."""

    def p(own, x):
        with plate(x):
            c = pyro.sample("c", dist.Categorical(logits=own.b))
            z = pyro.sample("z", dist.Normal(own.w[0][c], 1.0))
            pyro.sample("x", dist.Normal(z[..., None] + own.b, 1.0).to_event(1), obs=x)

    def q(own, x):
        out = own.net(x)
        with plate(x):
            c = pyro.sample("c", dist.Categorical(logits=out[..., :D]))
            pyro.sample("z", dist.Normal(out[..., 3] + own.b[c], 0.8))


@row
class MixedEnumerated(Enumerated):
    p = Mixed.p

    def q(own, x):
        out = own.net(x)
        with plate(x):
            c = pyro.sample("c", dist.Categorical(logits=out[..., :D]), infer=PARALLEL)
            pyro.sample("z", dist.Normal(out[..., 3] + own.b[c], 0.8))


# Posteriors that are known: every weight is log p(x)


class Exact(Row):
    """Adds ``log_p(own, x)``, log p(x) in closed form; q is the posterior at the starting parameters."""


@row
class LinearGaussian(Exact):
    def p(own, x):
        with plate(x):
            gaussian(own, pyro.sample("z", standard(2)), x)

    def q(own, x):
        precision = torch.eye(2, dtype=x.dtype) + 4 * own.w @ own.w.T
        mean = torch.linalg.solve(precision, 4 * own.w @ (x - own.b).T).T
        with plate(x):
            pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))

    def log_p(own, x):
        covariance = own.w.T @ own.w + 0.25 * torch.eye(D, dtype=x.dtype)
        return dist.MultivariateNormal(own.b, covariance).log_prob(x)


@row
class GammaPoisson(Exact):
    def data():
        return torch.poisson(torch.full((N, D), 3.0, dtype=torch.float64))

    def p(own, x):
        with plate(x):
            rate = pyro.sample("rate", dist.Gamma(own.sigma[0], 0.5))
            pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape, D)).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("rate", dist.Gamma(own.sigma[0] + x.sum(-1), 0.5 + D))

    def log_p(own, x):
        a, total = own.sigma[0], x.sum(-1)
        gammas = (a + total).lgamma() - a.lgamma() - (x + 1).lgamma().sum(-1)
        return gammas + a * math.log(0.5) - (a + total) * math.log(0.5 + D)


@row
class BetaBernoulli(Exact):
    def data():
        return torch.bernoulli(torch.full((N, D), 0.4, dtype=torch.float64))

    def p(own, x):
        with plate(x):
            share = pyro.sample("share", dist.Beta(own.sigma[0], 3.0))
            pyro.sample("x", dist.Bernoulli(share[..., None].expand(*share.shape, D)).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("share", dist.Beta(own.sigma[0] + x.sum(-1), 3 + D - x.sum(-1)))

    def log_p(own, x):
        def log_beta(a, b):
            return a.lgamma() + b.lgamma() - (a + b).lgamma()

        ones = x.sum(-1)
        return log_beta(own.sigma[0] + ones, 3 + D - ones) - log_beta(own.sigma[0], torch.tensor(3.0).to(x))


@row
class DirichletMultinomial(Exact):
    def data():
        return dist.Multinomial(6, torch.ones(D, dtype=torch.float64) / D).sample((N,))

    def p(own, x):
        with plate(x):
            shares = pyro.sample("shares", dist.Dirichlet(own.sigma))
            pyro.sample("x", dist.Multinomial(6, shares), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("shares", dist.Dirichlet(own.sigma + x))

    def log_p(own, x):
        return dist.DirichletMultinomial(own.sigma, 6).log_prob(x)


@row
class UnknownVariance(Exact):
    def p(own, x):
        with plate(x):
            variance = pyro.sample("variance", dist.InverseGamma(2.0, own.sigma[0]))
            pyro.sample("x", dist.Normal(0.0, variance.sqrt()[..., None].expand(*variance.shape, D)).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            pyro.sample("variance", dist.InverseGamma(2 + D / 2, own.sigma[0] + x.square().sum(-1) / 2))

    def log_p(own, x):
        scale = torch.eye(D, dtype=x.dtype) * (own.sigma[0] / 2).sqrt()
        return dist.MultivariateStudentT(torch.tensor(4.0).to(x), torch.zeros(D).to(x), scale).log_prob(x)


@row
class Responsibilities(Exact):
    elbo = TraceEnum_ELBO(max_plate_nesting=1)

    def p(own, x):
        with plate(x):
            z = pyro.sample("z", dist.Categorical(logits=own.b[:2]))
            pyro.sample("x", dist.Normal(own.w[z], 1.0).to_event(1), obs=x)

    def joint(own, x):
        return own.b[:2].log_softmax(0) + dist.Normal(own.w, 1.0).to_event(1).log_prob(x[:, None])

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.Categorical(logits=Responsibilities.joint(own, x)), infer=PARALLEL)

    def log_p(own, x):
        return Responsibilities.joint(own, x).logsumexp(-1)


@row
class LatentPixels(Exact):
    """A plate to the left of that over data, with latents in it: z_d ~ Normal(b, 1), x_d ~ Normal(z_d, 1)."""

    def p(own, x):
        with plate(x), pyro.plate("pixels", D, dim=-2):
            z = pyro.sample("z", dist.Normal(own.b[:, None], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def q(own, x):
        with plate(x), pyro.plate("pixels", D, dim=-2):
            pyro.sample("z", dist.Normal((x + own.b).T / 2, math.sqrt(0.5)))

    def log_p(own, x):
        return dist.Normal(own.b, math.sqrt(2)).to_event(1).log_prob(x)


# Plates in plates


@row
class PixelsInside(Row):
    """The plate over data to the left of that over pixels."""

    def p(own, x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            with pyro.plate("pixels", D, dim=-1):
                pyro.sample("x", dist.Normal(z * own.w[0] + own.b, own.sigma), obs=x)

    def q(own, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(own.net(x)[..., :1], 0.7))


@row
class UnnumberedPlates(Row):
    """Pyro numbers the plates, and the latents are one for each datum, and one for each pixel."""

    def p(own, x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=x.dtype), 0.5))
            with pyro.plate("pixels", D):
                z = pyro.sample("z", standard(2))
                pyro.sample("x", dist.Normal(z.sum(-1), scale), obs=x.T)

    def q(own, x):
        out = own.net(x)
        with pyro.plate("data", len(x)):
            pyro.sample("scale", dist.LogNormal(out[..., 0], 0.3))
            with pyro.plate("pixels", D):
                pyro.sample("z", dist.Normal(x.T[..., None] * own.b[:2], 0.7).to_event(1))


@row
class ThreePlates(Row):
    """The plate over data in the middle."""

    def p(own, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            with pyro.plate("looks", 2, dim=-3):
                v = pyro.sample("v", dist.Normal(u, own.sigma))
            pyro.sample("x", dist.Normal(u + v.sum(-3, keepdim=True), 1.0), obs=x)

    def q(own, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            u = pyro.sample("u", dist.Normal(x * own.b, 0.6))
            with pyro.plate("looks", 2, dim=-3):
                pyro.sample("v", dist.Normal(u + own.w[:, None], 0.6))


@row
class OneAfterTheOther(Row):
    """A sequential plate inside that over data, with coins."""

    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    captured = False

    def p(own, x):
        with plate(x):
            for d in pyro.plate("pixels", D):
                z = pyro.sample(f"z_{d}", dist.Bernoulli(torch.tensor(0.5, dtype=x.dtype)))
                pyro.sample(f"x_{d}", dist.Normal(z * own.w[0, d], own.sigma[d]), obs=x[..., d])

    def q(own, x):
        with plate(x):
            for d in pyro.plate("pixels", D):
                pyro.sample(f"z_{d}", dist.Bernoulli(logits=own.net(x)[..., d]), infer=PARALLEL)


@row
class PixelCoins(Row):
    """A coin for each pixel, summed over in both plates."""

    elbo = TraceEnum_ELBO(max_plate_nesting=2)

    def p(own, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=x.dtype)))
            pyro.sample("x", dist.Normal(z * own.b, own.sigma), obs=x)

    def q(own, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=x * own.b), infer=PARALLEL)


# Masks


@row
class MaskedData(Row):
    def p(own, x):
        with plate(x):
            z = pyro.sample("z", standard(2))
            with poutine.mask(mask=x[:, 0] > 0):
                gaussian(own, z, x)

    q = Nonlinear.q


@row
class MaskedPixels(Row):
    def p(own, x):
        with plate(x):
            z = pyro.sample("z", standard(2))
            pyro.sample("x", dist.Normal(z @ own.w, own.sigma).mask(x > -0.5).to_event(1), obs=x)

    q = Nonlinear.q


@row
class ObservedInPart(Row):
    """``obs_mask`` makes two sites, of which the guide draws the unobserved one."""

    def p(own, x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            with pyro.plate("pixels", D, dim=-1):
                pyro.sample("x", dist.Normal(z * own.w[0], own.sigma), obs=x, obs_mask=x > 0)

    def q(own, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(own.net(x)[..., :1], 0.7))
            with pyro.plate("pixels", D, dim=-1), poutine.mask(mask=x <= 0):
                pyro.sample("x_unobserved", dist.Normal(own.b, 1.2))


@row
class MaskedLatent(Row):
    """A datum without the second latent, in model and guide."""

    def p(own, x):
        with plate(x):
            z = pyro.sample("z", standard(2))
            with poutine.mask(mask=x[:, 0] > 0):
                u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            gaussian(own, z + u[..., None] * (x[:, :1] > 0), x)

    def q(own, x):
        with plate(x):
            pyro.sample("z", normal(own, x))
            with poutine.mask(mask=x[:, 0] > 0):
                pyro.sample("u", dist.Normal(own.net(x)[..., 0], 0.5))


# Scales, factors and what is no variable


@row
class PartOfAPopulation(Row):
    """The plate stands for 1,000 data, of which those given are a part."""

    size = 1000

    def p(own, x):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1):
            gaussian(own, pyro.sample("z", standard(2)), x)

    def q(own, x):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("z", normal(own, x))


@row
class DrawnIndices(PartOfAPopulation):
    """The same where Pyro draws indices, of which nobody makes use."""

    def p(own, x):
        with pyro.plate("data", 1000, subsample_size=len(x), dim=-1):
            gaussian(own, pyro.sample("z", standard(2)), x)

    def q(own, x):
        with pyro.plate("data", 1000, subsample_size=len(x), dim=-1):
            pyro.sample("z", normal(own, x))


@row
class HalfTheKL(Row):
    density = False

    def p(own, x):
        with plate(x):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", standard(2))
            gaussian(own, z, x)

    def q(own, x):
        with plate(x), poutine.scale(scale=0.5):
            pyro.sample("z", normal(own, x))


@row
class SomePixels(Row):
    """A plate inside that over data that scales two pixels up to three."""

    density = False

    def p(own, x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            with pyro.plate("pixels", D, subsample=torch.arange(2), dim=-2) as seen:
                pyro.sample("x", dist.Normal(own.b[seen, None] * z, 1.0), obs=x.T[seen])

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.Normal(own.net(x)[..., 0], 0.7))


@row
class Factor(Row):
    """A factor in the model, one in the guide, and a site that only follows from others."""

    def p(own, x):
        with plate(x):
            z = pyro.sample("z", standard(2))
            pyro.deterministic("length", z.norm(dim=-1), event_dim=0)
            pyro.factor("short", -z.square().sum(-1))
            gaussian(own, z, x)
        pyro.deterministic("weights", own.w)

    def q(own, x):
        with plate(x):
            z = pyro.sample("z", normal(own, x))
            pyro.factor("long", 0.1 * z.sum(-1), has_rsample=True)


# Several sites


@row
class TwoLayers(Row):
    """z2 → z1 → x, and q(z1|x) q(z2|z1)."""

    def p(own, x):
        with plate(x):
            z2 = pyro.sample("z2", standard(D))
            z1 = pyro.sample("z1", dist.Normal(own.net(z2)[..., :2], 0.8).to_event(1))
            pyro.sample("y", dist.Normal(z1 @ own.w, own.sigma).to_event(1), obs=x)

    def q(own, x):
        with plate(x):
            z1 = pyro.sample("z1", normal(own, x))
            pyro.sample("z2", dist.Normal(z1 @ own.w, own.sigma).to_event(1))


@row
class Chain(Row):
    """A Markov chain of numbers, each with an observation."""

    def p(own, x):
        z = torch.zeros((), dtype=x.dtype)
        with plate(x):
            for t in pyro.markov(range(D)):
                z = pyro.sample(f"z_{t}", dist.Normal(0.9 * z, own.sigma[t]))
                pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[..., t])

    def q(own, x):
        z = torch.zeros((), dtype=x.dtype)
        with plate(x):
            for t in range(D):
                z = pyro.sample(f"z_{t}", dist.Normal(own.net(x)[..., t] + own.b[t] * z, 0.6))


# Parameters of pyro.param


@row
class NothingElse(Row):
    """Not one parameter of a module: factors and a positive scale, which model and guide share."""

    def __init__(self):
        LatentVariableModel.__init__(self)
        self.model, self.guide = Bare(type(self).p), Bare(type(self).q)

    def p(own, x):
        w = pyro.param("w", torch.ones(2, D, dtype=torch.float64))
        scale = pyro.param("noise.scale", torch.tensor(0.5, dtype=torch.float64), constraint=constraints.positive)
        with plate(x):
            z = pyro.sample("z", standard(2))
            pyro.sample("x", dist.Normal(z @ w, scale).to_event(1), obs=x)

    def q(own, x):
        w = pyro.param("w", torch.ones(2, D, dtype=torch.float64))
        spread = pyro.param("spread", lambda: torch.full((2,), 0.8).double(), constraint=constraints.interval(0.1, 1.0))
        with plate(x):
            pyro.sample("z", dist.Normal(x @ w.T / 3, spread).to_event(1))


class Bare(Program):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x=None, *, num_data=1):
        return self.body(self, x)


@row
class ParametersInTheGuide(Row):
    p = LinearGaussian.p

    def q(own, x):
        mix = pyro.param("mix", torch.tensor([0.2, 0.8]).double(), constraint=constraints.simplex)
        with plate(x):
            pyro.sample("z", dist.Normal(own.net(x)[..., :2] * mix, 0.7).to_event(1))


@row
class ParametersByPixel(Row):
    """A parameter inside a plate, with an event dimension."""

    def p(own, x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            with pyro.plate("pixels", D, dim=-1):
                w = pyro.param("w", torch.ones(D, 2, dtype=x.dtype), event_dim=1)
                pyro.sample("x", dist.Normal(z * w[..., 0] + w[..., 1], own.sigma), obs=x)

    q = PixelsInside.q


# Flows, and mixtures as priors


@row
class FlowGuide(Row):
    captured = False  # a spline selects by values

    p = LinearGaussian.p

    def q(own, x):
        base = dist.Normal(own.net(x)[..., :2], 0.7).to_event(1)
        with plate(x):
            pyro.sample("z", dist.TransformedDistribution(base, [own.spline, transforms.AffineTransform(0.1, 1.3)]))


@row
class FlowPrior(Row):
    def p(own, x):
        with plate(x):
            prior = dist.TransformedDistribution(standard(2), [transforms.SigmoidTransform()])
            z = pyro.sample("z", prior)
            gaussian(own, z, x)

    def q(own, x):
        with plate(x):
            pyro.sample("z", dist.Beta(own.net(x)[..., :2].exp(), 2.0).to_event(1))


@row
class FlowLikelihood(Row):
    def data():
        return torch.randn(N, D, dtype=torch.float64).exp()

    def p(own, x):
        with plate(x):
            z = pyro.sample("z", standard(2))
            base = dist.Normal(z @ own.w, own.sigma).to_event(1)
            pyro.sample("x", dist.TransformedDistribution(base, [transforms.ExpTransform()]), obs=x)

    q = Nonlinear.q


@row
class MixturePrior(Row):
    def p(own, x):
        with plate(x):
            which = dist.Categorical(logits=own.b[:2])
            z = pyro.sample("z", dist.MixtureSameFamily(which, dist.Normal(own.w[:, :2], 0.5).to_event(1)))
            gaussian(own, z, x)

    q = Nonlinear.q


@row
class DiagonalMixturePrior(Row):
    def p(own, x):
        with plate(x):
            scales = torch.full((2, 2), 0.6, dtype=x.dtype)
            gaussian(own, pyro.sample("z", dist.MixtureOfDiagNormals(own.w[:, :2], scales, own.b[:2])), x)

    q = Nonlinear.q


@row
class MixtureOfShares(Row):
    def p(own, x):
        with plate(x):
            which = dist.Categorical(logits=own.b[:2].expand(2, 2))
            each = dist.Beta(torch.tensor([2.0, 5.0], dtype=x.dtype).expand(2, 2), 3.0)
            gaussian(own, pyro.sample("z", dist.MixtureSameFamily(which, each).to_event(1)), x)

    q = FlowPrior.q


def stock_log_weights(model, z, x):
    """log p(x, z) − log q(z|x) by Pyro's traces, one draw and one datum at a time, (S, N)."""

    def one(s, n):
        datum = x[n : n + 1]
        nodes = poutine.trace(model.guide).get_trace(datum).nodes  # which has the shapes for one datum
        given = {name: each[s, n].reshape(nodes[name]["value"].shape) for name, each in z.items()}
        q, p = (poutine.trace(poutine.condition(each, given)).get_trace(datum) for each in (model.guide, model.model))
        return (p.log_prob_sum() - q.log_prob_sum()) * (1 if model.size == N else 1 / model.size)

    with torch.no_grad():
        return torch.stack([torch.stack([one(s, n) for n in range(N)]) for s in range(S)])


def ours_and_stock(model, x):
    (block,) = weigh(Evaluation(model, x), S)
    return block.log_w, stock_log_weights(model, block.z, x)


def stock_training(model, x):
    """Losses of every epoch by stock SVI, nats per datum, with the draws that fit.svi takes."""
    optimizer = pyro.optim.SGD({"lr": LR / model.size})
    svi, losses = SVI(model.model, model.guide, optimizer, model.elbo), []
    torch.manual_seed(0)
    for _ in range(EPOCHS):
        torch.randperm(N)  # which fit.svi draws, too
        batch = x
        losses.append(svi.step(batch) / model.size)
        svi.evaluate_loss(batch)  # fit.svi looks at the last batch of an epoch once more
    return -torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("cls", ROWS, ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_scores_and_training_are_those_of_pyro(cls, stock_pyro):
    model, x = cls(), cls.data()
    before, expected = ours_and_stock(model, x)
    torch.testing.assert_close(before, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(evaluate.elbo(model, x, S), expected.mean(0), rtol=0, atol=1e-9)
    options = {"num_epochs": EPOCHS, "batch_size": N, "lr": LR, "schedule": "constant", "warm_start": True}
    options["optimizer"] = torch.optim.SGD
    for compile in (False, "graph"):
        refused = compile and not cls.captured
        with pytest.warns(fit.FitWarning, match="cannot be captured") if refused else nullcontext():
            result = fit.svi(model, x, execution=Execution(compile=compile), progress=False, **options)
        with pyro.get_param_store().scope():
            losses = stock_training(model.copy(), x)
        torch.testing.assert_close(result.trace, losses, rtol=0, atol=1e-6)
        after, expected = ours_and_stock(result.model, x)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", [cls for cls in ROWS if issubclass(cls, Exact)], ids=lambda cls: cls.__name__)
def test_weights_by_the_exact_posterior_are_the_likelihood(cls):
    model, x = cls(), cls.data()
    log_weights = evaluate.log_weights(model, x, 10)
    with torch.no_grad():
        expected = cls.log_p(model.model, x).expand(10, N)
    torch.testing.assert_close(log_weights, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cls", [cls for cls in ROWS if not cls.density], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("likelihood", [evaluate.log_likelihood, evaluate.ais])
def test_a_scaled_program_has_no_likelihood(cls, likelihood):
    with pytest.raises(ValueError, match="`model` must have no scaled site for log p"):
        likelihood(cls(), cls.data())
