"""A step as a CUDA graph: its parts on the CPU, where a stand-in runs what a graph would launch; the whole on a GPU."""

import contextlib
import copy

import pytest
import torch

from pyrovae import VAE, Execution, fit
from pyrovae.fit import CompiledLoss, steps
from pyrovae.fit.steps.cuda_graph import CudaGraphStep, fits_in_graph, other_settings, rates_in_tensors


@pytest.fixture
def x():
    return torch.randn(60, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)


def optimizer_of(parameters, **options):
    return torch.optim.Adam(parameters, **{"lr": 0.1, "fused": True, **options})


def test_only_a_fused_adam_without_hooks_is_part_of_a_graph():
    weight = [torch.nn.Parameter(torch.ones(2))]
    assert fits_in_graph(optimizer_of(weight))
    assert fits_in_graph(torch.optim.AdamW(weight, fused=True))
    assert not fits_in_graph(optimizer_of(weight, fused=False))
    assert not fits_in_graph(torch.optim.SGD(weight, lr=0.1))
    hooked = optimizer_of(weight)
    hooked.register_step_post_hook(lambda *_: None)
    assert not fits_in_graph(hooked)


def test_rates_are_in_tensors_for_the_time_of_a_step_alone():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    by_number, by_tensor = (optimizer_of([weight]) for weight in weights)
    for weight in weights:
        weight.grad = torch.tensor([1.0, -2.0])
    with rates_in_tensors(by_tensor, [torch.tensor(0.1)]):
        by_tensor.step()
    by_number.step()
    assert weights[0].tolist() == weights[1].tolist()
    assert by_tensor.param_groups[0]["lr"] == 0.1
    assert not by_tensor.param_groups[0]["capturable"]


def test_settings_other_than_the_rate_are_seen_to_change():
    optimizer = optimizer_of([torch.nn.Parameter(torch.ones(2))])
    before = other_settings(optimizer)
    optimizer.param_groups[0]["lr"] = 0.2
    assert other_settings(optimizer) == before
    optimizer.param_groups[0]["betas"] = (0.8, 0.999)
    assert other_settings(optimizer) != before


class StandIn:
    """A graph on the CPU: what is recorded changes nothing, and a replay runs it on the tensors of the recording."""

    def __init__(self, step):
        self.step, self.replays = step, 0

    @contextlib.contextmanager
    def recording(self):
        parameters, optimizer = self.step.loss.parameters, self.step.optimizer
        before = [each.detach().clone() for each in parameters]
        is_ours = isinstance(optimizer, torch.optim.Optimizer)
        state, draws = copy.deepcopy(optimizer.state_dict()) if is_ours else None, torch.get_rng_state()
        yield
        with torch.no_grad():
            for each, value in zip(parameters, before, strict=True):
                each.copy_(value)
        if is_ours:
            optimizer.load_state_dict(state)
        torch.set_rng_state(draws)

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for static, value in zip(self.step.outputs, self.step._recorded(), strict=True):
                static.copy_(value)
        self.step.gradients = [each.grad for each in self.step.loss.parameters]


@pytest.fixture
def graphs(monkeypatch):
    """Every stand-in that is made, where a GPU would have made graphs."""
    made = []

    def step_on_the_cpu(loss, optimizer):
        step = CudaGraphStep(loss, optimizer)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.append(StandIn(step)) or made[-1])
        return step

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(steps, "CudaGraphStep", step_on_the_cpu)
    monkeypatch.setattr(steps, "choose", lambda execution, *_: "cuda_graph" if execution.compile == "auto" else False)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph.recording())
    return made


@pytest.mark.parametrize(
    ("options", "recordings"),
    [
        ({"schedule": "cosine"}, 1),
        (
            {"schedule": "one_cycle"},
            1,
        ),  # it changes a momentum as well, which takes Adam out of the graph from the start
        ({"optimizer": torch.optim.SGD}, 1),
        ({"elbo": fit.BetaELBO(fit.LinearWarmup(30, 2.0))}, 1),
    ],
    ids=["Adam in the graph", "a schedule of momentum", "another optimizer", "a weight that grows"],
)
def test_steps_by_graph_are_the_plain_steps(options, recordings, x, graphs):
    vae = VAE(2, 4, hidden=(8,)).double()
    options = {"num_epochs": 10, "batch_size": 20, "lr": 0.01, **options}
    plain, by_graph = (fit.svi(vae, x, **options, execution=Execution(compile=way)) for way in (False, "auto"))
    assert len(graphs) == recordings
    assert sum(graph.replays for graph in graphs) == 24  # of 30 steps, after 6 without
    torch.testing.assert_close(by_graph.trace, plain.trace, rtol=1e-7, atol=0)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(by_graph.model.state_dict()[name], value, rtol=1e-6, atol=1e-9)


def test_shards_take_their_steps_outside_of_the_graph(x, graphs):
    vae = VAE(2, 4, hidden=(8,)).double()
    options = {"num_epochs": 4, "batch_size": 20, "lr": 0.01}
    plain, by_graph = (
        fit.svi(vae, x, **options, execution=Execution(compile=way, num_shards=2)) for way in (False, "auto")
    )
    assert [graph.replays for graph in graphs] == [18]  # of 12 steps of two parts, after 6 parts without
    torch.testing.assert_close(by_graph.trace, plain.trace, rtol=1e-7, atol=0)


def test_a_momentum_that_changes_later_makes_a_new_recording(graphs, monkeypatch):
    weight = torch.nn.Parameter(torch.ones(2))
    step = steps.CudaGraphStep(CompiledLoss(lambda x: [(weight * x).square().sum()], [weight]), optimizer_of([weight]))
    x = torch.ones(2)
    for _ in range(8):
        step(x)
    step.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    for _ in range(3):
        step(x)
    assert [graph.replays for graph in graphs] == [2, 3]

    other = torch.nn.Parameter(torch.ones(2))
    optimizer = optimizer_of([other])
    for number in range(11):
        optimizer.param_groups[0]["betas"] = (0.9, 0.999) if number < 8 else (0.5, 0.9)
        other.grad = 2 * other.detach()
        optimizer.step()
    torch.testing.assert_close(weight, other)


def wild_from_step_9(optimizer, num_steps):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 9 else 1e38)


def test_a_loss_that_is_not_finite_is_found_after_the_epoch(x, graphs):
    with pytest.raises(fit.DivergenceError, match=r"the loss is not finite at step \d+: parameter '.*' is not"):
        fit.svi(VAE(2, 4, hidden=(8,)), x.float(), batch_size=5, lr=1.0, schedule=wild_from_step_9)


def test_a_graph_is_recorded_again_when_parameters_are_frozen(x, graphs):
    """A recording would go on stepping them."""
    vae, seen = VAE(2, 4, hidden=(8,)).double(), []

    def freeze(epoch, model):
        model.encoder.requires_grad_(epoch < 5)
        seen.append(torch.nn.utils.parameters_to_vector(model.encoder.parameters()))

    options = {"num_epochs": 10, "batch_size": 20, "lr": 0.01, "callback": freeze}
    plain, by_graph = (fit.svi(vae, x, **options, execution=Execution(compile=way)) for way in (False, "auto"))
    assert [graph.replays for graph in graphs] == [9, 9]  # of 15 steps each, after 6 without
    assert torch.equal(seen[14], seen[19])
    torch.testing.assert_close(by_graph.trace, plain.trace, rtol=1e-7, atol=0)
