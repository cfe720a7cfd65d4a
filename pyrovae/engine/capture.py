"""A static function of tensors as one graph of tensor operations, run once in Python and replayed without it.

:func:`capture` runs a function once, writes down every operation on tensors, and gives them back as a graph; Python,
and Pyro's handlers in it, are then done with.  That is right only for a function that is *static*: one that does the
same operations whatever the values.  Where it is not, :class:`NotStatic` is raised, and names the line.

Pyro's ELBOs are static but for a few readings of values of their own, which :class:`Watch` answers for them.
"""

import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

Replay = Callable[..., Sequence[Any]]

NUMBERS = (Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.__complex__)
READINGS: dict[Any, str] = {
    Tensor.__bool__: "branches on the value of a tensor",
    **dict.fromkeys(NUMBERS, "makes a Python number of a tensor"),
    Tensor.tolist: "makes a Python list of a tensor",
    **dict.fromkeys((Tensor.numpy, Tensor.__array__), "takes a tensor to NumPy"),
}
# Where Pyro itself reads values, and the answer.  It asks whether a loss is NaN, which is watched elsewhere; and if all
# probabilities are above zero, else it leaves some out of a sum, which ``_without_impossible`` does in any case.
ANSWERS = {("pyro.util", "warn_if_nan"): False, ("pyro.infer.util", "compute_expectation"): True}
WATCHED = {*READINGS, Tensor.register_hook, torch.tensordot, torch.nn.functional.one_hot}

# Operations that give their input where its shape and type stay, and those that do so with the number here.
aten = torch.ops.aten
VIEWS = {aten.alias.default, aten.detach.default, aten.view.default, aten.expand.default}
NEUTRAL = {
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor), 0),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.pow.Tensor_Scalar), 1),
}


class NotStatic(TypeError):  # Pyro would append the shapes of its sites to the message of a ValueError
    """A function is of a kind that cannot be captured as a graph; the message says why."""


class Watch(TorchFunctionMode):
    """Watches Python code as it runs on tensors: refuses what makes the code depend on values.

    ``item()`` gives the tensor itself, detached, so that a number that is only calculated with stays a value of the
    graph.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func not in WATCHED:
            return func(*args, **kwargs or {})
        frame = _caller()
        match func, _name(frame):
            case Tensor.__bool__, place if place in ANSWERS:
                return ANSWERS[place]
            case Tensor.register_hook, ("pyro.util", "warn_if_nan"):
                return None
            case torch.tensordot, ("pyro.infer.util", "_fulldot"):
                return _without_impossible(*args[:2])
            case torch.nn.functional.one_hot, _:  # torch's own looks at the labels first
                return _one_hot(_place(frame), *args, **kwargs or {})
        if func in READINGS:
            raise NotStatic(f"it {READINGS[func]} at {_place(frame)}")
        return func(*args, **kwargs or {})


class Graph:
    """Operations on tensors, written down: ``graph(*inputs)`` does them, under ``torch.no_grad``.

    It draws from torch's random state, as the function did that it comes from.

    Args:
        module: The operations.
        constants: The last of their inputs: tensors that the function read, by reference.
        run: What does them: the module itself, or what a compiler made of it.
    """

    def __init__(self, module: GraphModule, constants: list[Tensor], run: Replay | None = None) -> None:
        self.module, self.constants, self.run = module, constants, run or module.forward

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Sequence[Any]:
        return self.run(*inputs, *self.constants)

    @torch.no_grad()
    def compiled(self, inputs: Sequence[Tensor]) -> "Graph":
        """The same by Inductor, for inputs of the kind of these; draws are still those of torch's own functions."""
        from torch import _inductor

        run = _inductor.compile(self.module, [*inputs, *self.constants], options={"fallback_random": True})
        return Graph(self.module, self.constants, run)


def capture(function: Callable[[], Sequence[Any]], inputs: Sequence[Tensor]) -> tuple[Graph, Sequence[Any]]:
    """Run a function of no arguments once, and write down what it does to tensors.

    Args:
        function: Returns a sequence of tensors or None.  It may calculate gradients by ``torch.autograd.grad``.
        inputs: The tensors that it reads and that differ from replay to replay, no tensor twice.  They are found by
            identity, so they must be the very ones that the function uses, parameters among them.  Any other tensor
            enters by reference, any Python number as it is now.

    Returns:
        The graph, a function of the inputs, and what the function returned.

    Raises:
        NotStatic: If the function depends on values of tensors in a way that a graph cannot hold.

    Example:
        >>> x = torch.arange(3.0)
        >>> graph, first = capture(lambda: [x.square().sum()], [x])
        >>> first[0].item(), graph(torch.ones(3))[0].item()
        (5.0, 3.0)
        >>> capture(lambda: [x if x.sum() > 0 else -x], [x])
        Traceback (most recent call last):
        pyrovae.engine.capture.NotStatic: it branches on the value of a tensor at ...
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # not with the package: it takes its time

    outputs: Sequence[Any] = ()

    def run(*_: Tensor) -> Sequence[Any]:
        nonlocal outputs
        with Watch():
            outputs = function()
        return outputs

    try:
        with pyro.validation_enabled(False), torch.autograd.set_multithreading_enabled(False):
            module = make_fx(run)(*inputs)
    except RuntimeError as error:
        if "_local_scalar_dense" not in str(error):
            raise
        raise NotStatic(f"it reads the value of a tensor at {_place_of(error)}") from error
    for node in module.graph.nodes:
        _check_shape(node)
    _leave_out_idle(module)
    return Graph(module, _lift_constants(module)), outputs


def compiler_found() -> bool:
    """Whether there is a C++ compiler, which Inductor needs on a CPU."""
    from torch._inductor import config

    names = config.cpp.cxx if isinstance(config.cpp.cxx, tuple | list) else (config.cpp.cxx,)
    return any(shutil.which(name) for name in names if name)


def _leave_out_idle(module: GraphModule) -> None:
    """Leave out what gives its input as it is, since every operation takes microseconds, and what nobody uses."""
    changed = [getattr(node.args[0], "target", None) for node in module.graph.nodes if _changes(node.target)]
    may_share = all(target is aten.empty.memory_format for target in changed)  # else x + 0 must not become x
    for node in module.graph.nodes:
        if (same := _same_value(node, may_share)) is not None:
            node.replace_all_uses_with(same)
    module.graph.eliminate_dead_code(lambda node: node.op != "call_function" or _has_effect(node.target))


def _same_value(node: Any, may_share: bool) -> Any:
    """The node whose value this one shows as it is or, where it may share its memory, calculates again, as x + 0."""
    if not node.args or not isinstance(node.args[0], Node):
        return None
    given = node.args[0]
    if node.target is given.target is aten.t.default:
        return given.args[0]
    neutral = may_share and node.target in NEUTRAL and node.args[1:] == (NEUTRAL[node.target],)
    return given if _kind(node) == _kind(given) and (neutral or node.target in VIEWS) else None


def _kind(node: Any) -> Any:
    meta = node.meta.get("tensor_meta")
    return node if meta is None else (meta.shape, meta.dtype)


def _changes(target: Any) -> bool:
    """Whether an operation changes a tensor."""
    schema = getattr(target, "_schema", None)
    return schema is not None and schema.is_mutable


def _has_effect(target: Any) -> bool:
    """Whether an operation does more than to return a value: it changes a tensor, or draws."""
    return _changes(target) or torch.Tag.nondeterministic_seeded in getattr(target, "tags", (torch.Tag.core,))


def _lift_constants(module: GraphModule) -> list[Tensor]:
    """Make inputs of a graph's own tensors, which a compiler would take to be constant."""
    nodes = module.graph.nodes
    last = [node for node in nodes if node.op == "placeholder"][-1]
    constants: dict[str, Any] = {}
    for node in [node for node in nodes if node.op == "get_attr"]:
        if node.target not in constants:
            with module.graph.inserting_after(last):
                last = module.graph.placeholder(f"constant_{len(constants)}")
            last.meta = node.meta
            constants[node.target] = (last, getattr(module, node.target))
        node.replace_all_uses_with(constants[node.target][0])
        module.graph.erase_node(node)
    module.recompile()
    return [tensor for _, tensor in constants.values()]


def _check_shape(node: Any) -> None:
    """Refuse an operation whose output has a shape that depends on values."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return
    name = str(node.target).removeprefix("aten.").split(".")[0]
    if name == "index":
        indices = [each.meta["val"].dtype for each in node.args[1] if each is not None and "val" in each.meta]
        if not {torch.bool, torch.uint8} & set(indices):
            return
    raise NotStatic(f"it calls `{name}`, which gives a tensor whose shape depends on values")


def _without_impossible(probability: Tensor, cost: Tensor) -> Tensor:
    """Σ p · cost, where a cost that has no probability, infinite perhaps, does not count."""
    return (probability * cost.where(probability > 0, 0.0)).sum()


def _one_hot(place: str, labels: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        raise NotStatic(f"it calls `one_hot` without a number of classes at {place}")
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).long()


def _caller() -> Any:
    """The frame of Python that called torch, and is no mode that only passed it on."""
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and (_is_torch(frame) or frame.f_code.co_name == "__torch_function__"):
        frame = frame.f_back
    return frame


def _name(frame: Any) -> tuple[str, str]:
    """Module and function of a frame."""
    return str(frame.f_globals.get("__name__")), frame.f_code.co_name


def _is_torch(frame: Any) -> bool:
    return _name(frame)[0].partition(".")[0] == "torch"


def _place(frame: Any, line: int | None = None) -> str:
    return f"{frame.f_code.co_filename}:{line or frame.f_lineno}, in {frame.f_code.co_name}"


def _place_of(error: BaseException) -> str:
    """The innermost frame of a traceback that is not torch's."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if not _is_torch(frame)]
    ours = Watch.__torch_function__.__code__
    return next((_place(*each) for each in reversed(frames) if each[0].f_code is not ours), "an unknown place")
