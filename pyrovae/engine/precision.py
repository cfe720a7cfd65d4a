"""Mixed precision: layers in bfloat16, and everything else, log-densities above all, in float32.

A log-density is a sum of hundreds of numbers that has to be good to a hundredth of a nat, which eight bits are not.  So
only the linear and convolutional layers are computed in bfloat16, by torch.autocast, and what they give is float32
again before anything is made of it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pyrovae.engine.execution import Precision

LAYERS = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


class LayersInBfloat16(TorchFunctionMode):
    """Inside, layers multiply in bfloat16; their parameters, gradients and results are of the types they were.

    Example:
        >>> layer, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1 + 2**-12]])
        >>> _ = torch.nn.init.ones_(layer.weight)
        >>> with LayersInBfloat16():
        ...     y = layer(x)
        >>> y.item(), y.dtype, (x @ layer.weight).item()
        (1.0, torch.float32, 1.000244140625)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in LAYERS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        with torch.autocast(x.device.type, torch.bfloat16):
            return func(*args, **kwargs).to(x.dtype)


def layers_in(precision: Precision) -> AbstractContextManager[object]:
    """Where layers are computed so."""
    return LayersInBfloat16() if precision == "bf16" else nullcontext()
