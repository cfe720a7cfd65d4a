"""The optimizer of a fit by gradient steps, the schedule of its learning rate, and its upkeep."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from pyrovae.engine.checks import check_choice
from pyrovae.models.base import LatentVariableModel

UPKEEP = 100  # steps from one upkeep to the next: 0.9^100 · NEGLIGIBLE is still above 1, in units of the least number
NEGLIGIBLE = 1e8  # times the least normal number: 10⁻³⁰ in float32, by which no parameter moves
LEAST_EPS = 1e-12  # of Adam, beside which the root of a negligible mean square is nothing

Schedule = Callable[[Optimizer, int], LRScheduler]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, num_steps: ConstantLR(optimizer, 1.0),  # a rate that a callback sets stays
    "cosine": lambda optimizer, num_steps: CosineAnnealingLR(optimizer, num_steps),
    "one_cycle": lambda optimizer, num_steps: OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], num_steps
    ),
}


def adam(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """Adam in one launch for all parameters."""
    return Adam(parameters, lr=lr, fused=True)


def schedule_of(schedule: str | Schedule) -> Schedule:
    """The schedule of that name, or the caller's own.

    Raises:
        ValueError: If there is none of that name.
    """
    if callable(schedule):
        return schedule
    check_choice("schedule", schedule, SCHEDULES, other="a function")
    return SCHEDULES[schedule]


def check_optimizer(optimizer: object) -> None:
    """Refuse what makes no optimizer.

    Raises:
        TypeError: If it is no function of parameters and ``lr``; an optimizer that is made already is none.
    """
    if isinstance(optimizer, Optimizer | PyroOptim):
        _refuse_optimizer(f"one of the class {type(optimizer).__name__}")
    try:
        takes = callable(optimizer) and bool(inspect.signature(optimizer).bind((), lr=1.0))
    except TypeError:
        takes = False
    except ValueError:  # written in C, it does not say what it takes
        takes = True
    if not takes:
        _refuse_optimizer(getattr(optimizer, "__name__", repr(optimizer)))


def make_optimizer(
    optimizer: Callable[..., Optimizer] | None, parameters: Sequence[nn.Parameter], lr: float
) -> Optimizer:
    """The optimizer of a fit, Adam unless the caller says otherwise.

    Raises:
        TypeError: If what is made is no torch optimizer, or needs a closure for its steps.
        ValueError: If the optimizer is of other parameters.
    """
    made = (optimizer or adam)(parameters, lr=lr)
    if not isinstance(made, Optimizer) or not _steps_by_itself(made):
        _refuse_optimizer(f"one that makes {type(made).__name__}")
    own = {id(each) for each in parameters}
    if not all(id(each) in own for group in made.param_groups for each in group["params"]):
        raise ValueError(
            "`optimizer` must be of the parameters that it is called with, those of a copy of the model, got one of "
            "other parameters; pass a class or a function of (parameters, lr)."
        )
    return made


def in_units(optimizer: Optimizer, model: LatentVariableModel, unit: float) -> None:
    """Let parameters of an exact model that are in units of the data take their steps in these units.

    Their learning rates are so many times as large; Adam's ε, which stands beside gradients, is so many times smaller.
    """
    names = getattr(model, "in_units", ())
    chosen = {id(each) for name, each in model.model.named_parameters() if name in names}
    groups = []
    for group in optimizer.param_groups:
        inside = [each for each in group["params"] if id(each) in chosen]
        others = [each for each in group["params"] if id(each) not in chosen]
        scaled = {"lr": group["lr"] * unit, **({"eps": group["eps"] / unit} if "eps" in group else {})}
        groups += [{**group, "params": others}] if others else []
        groups += [{**group, **scaled, "params": inside}] if inside else []
    optimizer.param_groups[:] = groups


def make_scheduler(schedule: str | Schedule, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The schedule of a fit.

    Raises:
        TypeError: If the caller's function makes no scheduler, or one whose steps need a value.
        ValueError: If it makes that of another optimizer.
    """
    made = schedule_of(schedule)(optimizer, num_steps)
    if not _steps_by_itself(made):
        raise TypeError(
            "`schedule` must make a torch scheduler that is stepped after every batch without a value, got "
            f"{type(made).__name__}; lower the rate by a LambdaLR, or stop by `patience`."
        )
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise ValueError("`schedule` must be of the optimizer that it is called with, got that of another.")
    return made


def _steps_by_itself(made: Any) -> bool:
    """Whether it has a ``step()`` that asks for nothing."""
    try:
        return bool(inspect.signature(type(made).step).bind(made))
    except (AttributeError, TypeError):
        return False


def _refuse_optimizer(given: str) -> None:
    raise TypeError(
        "`optimizer` must be called as optimizer(parameters, lr=lr) and make a torch optimizer that steps without a "
        f"closure, got {given}; pass a class, such as torch.optim.AdamW, or a functools.partial of one."
    )


@torch.no_grad()
def forget_negligible(optimizer: Optimizer) -> None:
    """Set to zero what is next to nothing in Adam's running means, on a CPU.

    Where a gradient is zero for long, as of a pixel that is seldom on, they fade into subnormal numbers, with which a
    processor takes ten times as long and which never quite reach zero.
    """
    if not isinstance(optimizer, Adam | AdamW):
        return
    for group in optimizer.param_groups:
        names = ("exp_avg", "exp_avg_sq") if group["eps"] >= LEAST_EPS else ("exp_avg",)
        for mean in (optimizer.state[each].get(name) for each in group["params"] for name in names):
            if mean is not None and mean.device.type == "cpu":
                mean.masked_fill_(mean.abs() < NEGLIGIBLE * torch.finfo(mean.dtype).tiny, 0.0)
