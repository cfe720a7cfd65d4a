"""Loss and gradients of a static model and guide, captured once as a graph and replayed without Pyro's interpreter.

Pyro runs a model through its handlers in Python at every step, which takes longer than the arithmetic of a small model.
A static one does the same at every step: :class:`CompiledELBO` writes it down once and replays it, with fresh draws, as
it is or compiled by Inductor.  It serves any Pyro model and guide; :func:`~pyrovae.fit.svi` uses what is here.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from pyrovae.engine.capture import NotStatic
from pyrovae.engine.checks import check_choice
from pyrovae.engine.replay import BACKENDS, Backend, Replayed
from pyrovae.engine.watch import Watched
from pyrovae.fit.loss import BatchLoss, WeightedELBO, check_elbo
from pyrovae.fit.result import FitWarning, warn
from pyrovae.fit.steps.interpreted import Step, set_gradients, with_gradients

Program = Callable[..., Any]


class Stale(Exception):
    """Steps were replayed from a graph that was out of date; the message says why."""


class Captured:
    """Steps from graphs, one for each size of batch; where the loss cannot be captured, Pyro interprets it.

    Args:
        interpreted: The step that takes over then.
        step_of: Makes the step for batches of a size.
        watched: The Python state that the loss can reach.
    """

    def __init__(self, interpreted: Step, step_of: Callable[[int], Any], watched: Watched) -> None:
        self.interpreted, self.step_of, self.watched = interpreted, step_of, watched
        self.steps: dict[int, Any] = {}
        self.last: dict[int, Tensor] = {}
        self.version, self.replays = watched.version, 0
        self.again = interpreted.again

    def __call__(self, index: Tensor) -> Sequence[Tensor]:
        """A step, as :class:`~pyrovae.fit.steps.interpreted.Step` takes it."""
        size = len(index)
        self.last[size] = index
        if size not in self.steps:
            self.steps[size] = self.step_of(size)
        try:
            return self.steps[size](index)
        except NotStatic as error:
            self._require_same_version()
            self.interpret()
            warn(
                f"the loss cannot be captured as a graph, so Pyro interprets the model at every step: {error}; "
                "`compile=False` does so unasked.",
                FitWarning,
            )
            return self.interpreted(index)

    def check(self, compare: bool) -> None:
        """After the steps of an epoch: see that no graph was out of date.

        Args:
            compare: Whether to compare the graphs with the interpreter, too, at the same draws, on the last batches.

        Raises:
            Stale: If one was.
        """
        if not self._graphs():
            return
        self.watched.settle()
        self._require_same_version()
        for size, graph in self._graphs().items() if compare else ():
            if graph.is_replayed(self.last[size]):
                try:
                    graph.compare(self.last[size])
                except NotStatic as error:
                    raise Stale(str(error)) from error

    def settle(self) -> None:
        """After all else of an epoch, such as a callback: graphs are captured again where Python state has changed."""
        if self._graphs():
            self.watched.settle()
        self.version, self.replays = self.watched.version, self._replays()

    def go_on(self, num_calls: int) -> None:
        """Be interpreted from here on, after so many calls, of the step and of ``again``."""
        self.interpret()

    def interpret(self) -> None:
        """Leave all to the interpreter."""
        self.step_of, self.steps = lambda size: self.interpreted, {}

    def _require_same_version(self) -> None:
        if self.version != self.watched.version and self.replays != self._replays():
            raise Stale(f"`{self.watched.reason}` has changed between two steps")

    def _replays(self) -> int:
        return sum(each.replays for each in self._graphs().values())

    def _graphs(self) -> dict[int, Replayed]:
        return {size: step.replayed for size, step in self.steps.items() if step.replayed is not None}


class CompiledLoss:
    """A loss and its gradients as a graph, one for every set of shapes.

    Every call gives what the function would: see :class:`~pyrovae.engine.replay.Replayed`.

    Args:
        function: Of the tensors of a call; returns a sequence of tensors, and the first, a scalar, is differentiated.
        parameters: The leaves of the gradients; every call sets their ``grad``.
        state: Other tensors that it changes, or that are changed between calls, such as the buffers of modules.
        mode: What else it depends on, such as whether modules are in training mode; each mode has a graph.
        watched: The Python state that it can reach.
        backend: ``"graph"``, or ``"inductor"``, which takes some ten seconds and a C++ compiler, and is faster then.

    Raises:
        NotStatic: From a call, if the function is not static; nothing has changed then, random state included.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        parameters: Iterable[Tensor],
        state: Iterable[Tensor] = (),
        *,
        mode: Callable[[], Hashable] = lambda: None,
        watched: Watched | None = None,
        backend: Backend = "graph",
    ) -> None:
        self.function, self.parameters = function, list(parameters)
        self.evaluate = Replayed(
            partial(with_gradients, function, self.parameters),
            self.parameters,
            state,
            mode=mode,
            watched=watched or Watched(function),
            backend=backend,
            num_gradients=len(self.parameters),
            warning=FitWarning,
        )

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """What the function returns, detached; ``grad`` of the parameters is the gradient of the first."""
        return set_gradients(self.parameters, self.evaluate(*inputs))


def graph_of(loss: BatchLoss, watched: Watched, backend: Backend) -> CompiledLoss:
    """The loss of batches and its gradients as a graph."""
    own, tensors = set(loss.parameters), [*loss.module.parameters(), *loss.module.buffers(), *loss.elbo.weight]
    state = [each for each in tensors if each not in own]
    return CompiledLoss(loss, loss.parameters, state, mode=mode_of(loss.module), watched=watched, backend=backend)


def mode_of(module: nn.Module) -> Callable[[], Hashable]:
    """Which of its modules are in training mode, and which of its parameters are not frozen, as a function."""
    modules, parameters = list(module.modules()), list(module.parameters())
    return lambda: (*[each.training for each in modules], *[each.requires_grad for each in parameters])


class CompiledELBO:
    """An ELBO of a static model and guide with its gradients, captured once and replayed.

    It takes the place of ``elbo(model, guide)(*args)`` and ``backward()``: a call returns the loss and sets the
    gradients.  Static means that model and guide do the same whatever the values of tensors are: no branch on them, no
    shape by them.  Python numbers, the scale of a plate say, are those of the first calls; tensors may change.

    Args:
        model: A Pyro program, a module or a function.
        guide: Its guide.
        elbo: Any ELBO with a ``differentiable_loss``; ``Trace_ELBO`` by default.
        backend: ``"graph"`` replays the operations one by one; ``"inductor"`` compiles them, which takes some ten
            seconds and a C++ compiler, and pays after some ten thousand steps.

    Raises:
        TypeError: If ``elbo`` is no ELBO; from a call, if an argument is no tensor.
        ValueError: If ``backend`` is not known.
        NotStatic: From the second or third call, if they are not static; the message says where.  Nothing has changed
            then.

    Example:
        >>> import pyro
        >>> from pyrovae import VAE
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> vae = VAE(latent_dim=1, data_shape=(3,), hidden=(8,))
        >>> compiled, losses = CompiledELBO(vae.model, vae.guide), []
        >>> with pyro.get_param_store().scope():  # Pyro enters the parameters of modules there
        ...     optimizer = torch.optim.Adam(compiled.parameters(x), lr=0.01)
        ...     for step in range(50):
        ...         losses.append(compiled(x).item())
        ...         optimizer.step()
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(self, model: Program, guide: Program, elbo: ELBO | None = None, *, backend: Backend = "graph") -> None:
        check_choice("backend", backend, BACKENDS)
        self.elbo: Any = Trace_ELBO() if elbo is None else elbo
        check_elbo(self.elbo)
        self.model, self.guide, self.backend = model, guide, backend
        self._modules = nn.ModuleList([each for each in (model, guide) if isinstance(each, nn.Module)])
        self._weighted = WeightedELBO(self.elbo, torch.ones(()))
        self._loss: CompiledLoss | None = None

    def parameters(self, *args: Tensor) -> list[Tensor]:
        """The parameters to be optimized, unconstrained, of the modules and those of ``pyro.param``.

        Args:
            *args: What model and guide are called with, so that those they make in a first run are made.
        """
        return self._prepared(args).parameters

    def __call__(self, *args: Tensor) -> Tensor:
        """The loss, nats, summed over data; ``grad`` of every parameter is its gradient."""
        loss = self._prepared(args)
        self._weighted.advance()
        loss.evaluate.watched.settle()
        return loss(*args)[0]

    def _prepared(self, args: tuple[Tensor, ...]) -> CompiledLoss:
        if self._loss is None:
            if other := [type(each).__name__ for each in args if not isinstance(each, Tensor)]:
                raise TypeError(
                    f"`args` must be tensors, got {other[0]}; bind what else there is by functools.partial."
                )
            parameters, state = tensors_of(self._modules, lambda: self._value(*args))
            self._weighted = WeightedELBO(self.elbo, parameters[0])
            self._loss = CompiledLoss(
                lambda *inputs: [self._value(*inputs)],
                parameters,
                [*state, *self._weighted.weight],
                mode=mode_of(self._modules),
                watched=Watched(self.model, self.guide, self._weighted.unweighted),
                backend=self.backend,
            )
        return self._loss

    def _value(self, *inputs: Any) -> Tensor:
        return self._weighted.loss(self.model, self.guide, *inputs)


def tensors_of(modules: nn.Module, run: Callable[[], object]) -> tuple[list[Tensor], list[Tensor]]:
    """The leaves that require gradients, of modules and of what ``run`` takes by ``pyro.param``; the other tensors.

    ``run`` is called once, and leaves only what it makes.
    """
    before = [(each, each.clone()) for each in modules.buffers()]
    with torch.random.fork_rng(), poutine.trace(param_only=True) as messenger:
        run()
    with torch.no_grad():
        for each, value in before:
            each.copy_(value)
    sites: list[Any] = list(messenger.trace.nodes.values())
    taken = [site["value"].unconstrained() for site in sites if site["type"] == "param"]
    everything = {id(each): each for each in [*modules.parameters(), *modules.buffers(), *taken]}
    leaves = [each for each in everything.values() if each.requires_grad]
    return leaves, [each for each in everything.values() if not each.requires_grad]
