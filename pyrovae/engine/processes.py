"""The processes of ``torch.distributed``, as ``torchrun`` starts them: which of them this is, and what they exchange.

Where work is not shared there is one process, and nothing is exchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ProcessGroup:
    """Those that share a piece of work.

    Attributes:
        rank: Which of them this is, from 0.
        number: How many there are.
        distributed: Whether they exchange anything.

    Example:
        >>> alone = ProcessGroup()
        >>> alone.gathered("what I found"), alone.sums([torch.ones(2)])
        (['what I found'], [tensor([1., 1.])])
    """

    rank: int = 0
    number: int = 1
    distributed: bool = False

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum over processes of each tensor, in one exchange; every process gets the same."""
        if not self.distributed:
            return list(tensors)
        flat = torch.cat([each.flatten() for each in tensors])
        torch.distributed.all_reduce(flat)
        parts = flat.split([each.numel() for each in tensors])
        return [part.view_as(each).to(each.dtype) for part, each in zip(parts, tensors, strict=True)]

    def copy_from_first(self, module: nn.Module) -> None:
        """Give a module the state that it has in the process of rank 0."""
        if self.distributed:
            device = next((each.device for each in module.parameters()), torch.device("cpu"))
            state = {name: each.to(device) for name, each in module.state_dict().items()}  # a floor is on the CPU
            for each in state.values():
                torch.distributed.broadcast(each, src=0)
            module.load_state_dict(state)  # what is no parameter or buffer, such as a floor, was copied

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks; every process gets them all."""
        values = [value] * self.number
        if self.distributed:
            torch.distributed.all_gather_object(values, value)
        return values

    def joined(self, own: Sequence[Sequence[Tensor]], device: torch.device) -> list[list[Tensor]]:
        """Everybody's items, each some tensors, in order, where item i was that of process i modulo their number."""
        if not self.distributed:
            return [list(each) for each in own]
        shares = self.gathered([[tensor.cpu() for tensor in each] for each in own])
        items = [shares[i % self.number][i // self.number] for i in range(sum(map(len, shares)))]
        return [[tensor.to(device) for tensor in each] for each in items]


ALONE = ProcessGroup()


def process_group(distributed: bool) -> ProcessGroup:
    """Those of the default process group, or this one alone.

    Raises:
        ValueError: If there is no process group.
    """
    if not distributed:
        return ALONE
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise ValueError(
            "`distributed` needs an initialised process group, got none; "
            'run under torchrun, and call torch.distributed.init_process_group("gloo") first.'
        )
    return ProcessGroup(torch.distributed.get_rank(), torch.distributed.get_world_size(), True)
