"""The optimizer of a fit by gradient steps, the schedule of its learning rate, and its upkeep."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

UPKEEP = 100  # steps from one upkeep to the next: 0.9^100 · NEGLIGIBLE is still above 1, in units of the least number
NEGLIGIBLE = 1e8  # times the least normal number: 10⁻³⁰ in float32, by which no parameter moves
LEAST_EPS = 1e-12  # of Adam, beside which the root of a negligible mean square is nothing

Schedule = Callable[[Optimizer, int], LRScheduler]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, num_steps: LambdaLR(optimizer, lambda step: 1.0),
    "cosine": lambda optimizer, num_steps: CosineAnnealingLR(optimizer, num_steps),
    "one_cycle": lambda optimizer, num_steps: OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], num_steps),
}


def adam(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """Adam in one launch for all parameters."""
    return Adam(parameters, lr=lr, fused=True)


def schedule_of(schedule: str | Schedule) -> Schedule:
    """The schedule of that name, or the caller's own.

    Raises:
        ValueError: If there is none of that name.
    """
    if not isinstance(schedule, str):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {tuple(SCHEDULES)} or a function, got {schedule!r}.")
    return SCHEDULES[schedule]


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
