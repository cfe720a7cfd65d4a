"""A tractable model of one's own: a hidden Markov model of sequences of one length, fitted by EM.

Here is what :class:`~pyrovae.models.TractableModel` asks for and nothing else: the program, the exact log p(x) and
p(z|x), and the two steps of EM.  All of the rest then takes this model as it takes the package's own: ``fit.em`` with
its restarts and chunks, ``fit.svi``, ``compare``, BIC, sampling, copies and files.

    python docs/examples/hidden_markov.py
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import GaussianMixture, compare, exact_guide, fit
from pyrovae.models import Program, TractableModel

TINY = torch.finfo(torch.float64).tiny


class MarkovChain(dist.TorchDistribution):
    """z_1 ~ Categorical(initial);  z_t ~ Categorical(transitions[t − 1, z_{t−1}]): T states, event shape (T,).

    Args:
        initial: Log-probabilities, shape (..., K).
        transitions: Log-probabilities from state to state, shape (..., T − 1, K, K).
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, initial: Tensor, transitions: Tensor) -> None:
        self.initial, self.transitions = initial, transitions
        super().__init__(initial.shape[:-1], (transitions.shape[-3] + 1,), validate_args=False)

    @property
    def support(self) -> dist.constraints.Constraint:
        return dist.constraints.independent(dist.constraints.integer_interval(0, self.initial.shape[-1] - 1), 1)

    def expand(self, batch_shape: torch.Size) -> "MarkovChain":
        return MarkovChain(
            self.initial.expand(*batch_shape, -1), self.transitions.expand(*batch_shape, *self.transitions.shape[-3:])
        )

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        chain = self.expand(sample_shape + self.batch_shape)
        z = [dist.Categorical(logits=chain.initial).sample()]
        for step in chain.transitions.unbind(-3):
            row = step.gather(-2, z[-1][..., None, None].expand(*z[-1].shape, 1, step.shape[-1]))
            z.append(dist.Categorical(logits=row.squeeze(-2)).sample())
        return torch.stack(z, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        chain = self.expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))
        value = value.expand(*chain.batch_shape, -1)
        pairs = value[..., :-1] * chain.initial.shape[-1] + value[..., 1:]
        moves = chain.transitions.flatten(-2).gather(-1, pairs[..., None]).squeeze(-1)
        return chain.initial.gather(-1, value[..., :1]).squeeze(-1) + moves.sum(-1)

    def marginals(self) -> tuple[Tensor, Tensor]:
        """P(z_t = i), shape (..., T, K), and P(z_t = i, z_{t+1} = j), shape (..., T − 1, K, K)."""
        states = [self.initial.exp()]
        for step in self.transitions.exp().unbind(-3):
            states.append((states[-1][..., None, :] @ step).squeeze(-2))
        states = torch.stack(states, dim=-2)
        return states, states[..., :-1, :, None] * self.transitions.exp()


class HiddenMarkovProgram(Program):
    """z ~ MarkovChain(π, A);  x_t ~ Normal(μ_{z_t}, σ²_{z_t}), with σ² = s² + ε."""

    def __init__(self, num_states: int, length: int, floor: float) -> None:
        super().__init__()
        self.length, self.floor = length, floor
        self.initial = nn.Parameter(torch.zeros(num_states, dtype=torch.float64))
        self.transition = nn.Parameter(torch.zeros(num_states, num_states, dtype=torch.float64))
        self.mean = nn.Parameter(torch.zeros(num_states, dtype=torch.float64))
        self.noise_factor = nn.Parameter(torch.ones(num_states, dtype=torch.float64))

    def chain(self) -> MarkovChain:
        return MarkovChain(
            self.initial.log_softmax(-1), self.transition.log_softmax(-1).expand(self.length - 1, -1, -1)
        )

    def emission(self, z: Tensor | slice) -> dist.Normal:
        return dist.Normal(self.mean[z], (self.noise_factor[z].square() + self.floor).sqrt())

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.chain())
            return pyro.sample("x", self.emission(z).to_event(1), obs=x)


class HiddenMarkovModel(TractableModel):
    """Sequences (N, T) of numbers from K hidden states; ε bounds the variance of each state from below."""

    def __init__(self, num_states: int, length: int, floor: float = 1e-6) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"`length` must be at least 2, got {length}; of single numbers, fit a GaussianMixture.")
        self.data_shape, self.num_states = (length,), num_states
        self.floats_per_datum = 4 * length * num_states**2  # in one chunk of an E step
        self.model = HiddenMarkovProgram(num_states, length, floor)
        self.guide = exact_guide(self)

    @property
    def num_free_parameters(self) -> int:
        """K − 1 of π, K − 1 in each row of A, K means and K variances: probabilities sum to 1."""
        return (self.num_states - 1) * (1 + self.num_states) + 2 * self.num_states

    def _inferred(self, x: Tensor) -> tuple[MarkovChain, Tensor]:
        """p(z|x), a Markov chain as well, and log p(x), by messages from the end: log p(x_{t+1}, …, x_T | z_t)."""
        prior, density = self.model.chain(), self.model.emission(slice(None)).log_prob(x[..., None])  # (N, T, K)
        message, transitions = torch.zeros_like(density[:, 0]), []
        for step, ahead in zip(prior.transitions.flip(0), density.flip(1)[:, :-1].unbind(1), strict=True):
            joint = step + (ahead + message)[:, None]
            message = joint.logsumexp(-1)
            transitions.insert(0, joint - message[..., None])
        joint = prior.initial + density[:, 0] + message
        log_prob = joint.logsumexp(-1)
        return MarkovChain(joint - log_prob[:, None], torch.stack(transitions, 1)), log_prob

    def log_prob(self, x: Tensor) -> Tensor:
        return self._inferred(self.as_input(x))[1]

    def posterior(self, x: Tensor) -> MarkovChain:
        return self._inferred(self.as_input(x))[0]

    def posterior_kl(self, x: Tensor) -> Tensor:
        """Σ q(z_1) log q(z_1)/p(z_1) + Σ_t q(z_t, z_{t+1}) log q(z_{t+1}|z_t)/p(z_{t+1}|z_t)."""
        q, p = self.posterior(x), self.model.chain()
        states, pairs = q.marginals()
        first, moves = states[:, 0] * (q.initial - p.initial), pairs * (q.transitions - p.transitions)
        return first.nan_to_num(0.0).sum(-1) + moves.nan_to_num(0.0).sum((-1, -2, -3))  # 0 log 0 = 0

    # ------------------------------------------------------------------------------------------------- EM

    @torch.no_grad()
    def initialize(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Means at values drawn from the data, and their variance for every state."""
        values = x.flatten()
        self.model.mean.copy_(values[torch.randperm(len(values))[: self.num_states]])
        self.model.noise_factor.fill_((values.var() - self.model.floor).clamp_min(0).sqrt())

    @torch.no_grad()
    def expected_statistics(self, x: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """E step: how often each state comes first, follows another and is there, and the moments of x in it."""
        weight = torch.ones_like(x[:, 0]) if weight is None else weight
        posterior, log_prob = self._inferred(x)
        states, pairs = (each * weight.view(-1, *[1] * (each.ndim - 1)) for each in posterior.marginals())
        deviations = x[..., None] - self.model.mean
        return {
            "log_prob": log_prob @ weight,
            "count": weight.sum(),
            "first": states[:, 0].sum(0),
            "moves": pairs.sum((0, 1)),
            "mass": states.sum((0, 1)),
            "shift": (states * deviations).sum((0, 1)),
            "squares": (states * deviations.square()).sum((0, 1)),
        }

    @torch.no_grad()
    def maximize(self, statistics: dict[str, Tensor]) -> None:
        """M step: shares of the counts, means, and variances, which are not below ε."""
        mass = statistics["mass"].clamp_min(TINY)
        shift = statistics["shift"] / mass
        variance = statistics["squares"] / mass - shift.square()
        self.model.initial.copy_(statistics["first"].clamp_min(TINY).log())
        self.model.transition.copy_(statistics["moves"].clamp_min(TINY).log())
        self.model.mean.add_(shift)
        self.model.noise_factor.copy_((variance - self.model.floor).clamp_min(0).sqrt())


if __name__ == "__main__":
    torch.manual_seed(0)
    truth = HiddenMarkovModel(num_states=3, length=30)
    with torch.no_grad():
        truth.model.mean.copy_(torch.tensor([-2.0, 0.0, 2.0]))
        truth.model.transition.copy_(3 * torch.eye(3))
    train, test = truth.sample(400, seed=1)[0], truth.sample(400, seed=2)[0]
    fits = {f"{k} states": fit.em(HiddenMarkovModel(k, 30, floor=1e-3), train, num_restarts=2) for k in (2, 3)}
    fits["mixture"] = fit.em(GaussianMixture(3, (30,), "diag", floor=1e-3), train)
    print(compare(fits, test))
    print({name: round(result.model.bic(train)) for name, result in fits.items()}, "BIC, lower is better")
    print(f"the truth: {truth.score(test):.3f} nats per sequence")
