"""What torch.func maps over lanes badly: batch norm and cutting a vector in many operations, convolutions without autocast."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _Folded(torch.autograd.Function):
    """`functional.batch_norm`, which `torch.func.vmap` computes with the lanes among the channels: none sees another's."""

    @staticmethod
    def forward(
        inputs: Tensor, mean: Any, var: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
    ) -> Tensor:
        return functional.batch_norm(inputs, mean, var, weight, bias, training, momentum, eps)

    @staticmethod
    def setup_context(context: Any, inputs: Sequence[Any], output: Tensor) -> None:
        raise RuntimeError("batch norm was to be mapped over lanes, and is called without them")

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], inputs: Tensor, *given: Any) -> tuple[Tensor, int]:
        lanes = info.batch_size
        inputs = inputs.expand(lanes, *inputs.shape) if in_dims[0] is None else inputs.movedim(in_dims[0], 0)
        folded = inputs.transpose(0, 1).flatten(1, 2)
        of_channels: list[Any] = [
            value if value is None else (value.expand(lanes, -1) if dim is None else value.movedim(dim, 0)).reshape(-1)
            for value, dim in zip(given[:4], in_dims[1:5], strict=True)
        ]
        result = functional.batch_norm(folded, *of_channels, *given[4:])
        return result.unflatten(1, (lanes, -1)), 1


class LaneOperations(TorchFunctionMode):
    """While it is entered, batch norm takes its lanes for channels, a vector's parts are copied to where each is whole (all in
    one operation, in place of one for each weight that a convolution reads), and convolutions heed autocast."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if function is Tensor.split and args[0].dim() == 1 and not isinstance(args[1], int):
            return torch.split_with_sizes_copy(args[0], list(args[1]))
        if function is torch.conv2d and torch.is_autocast_enabled(args[0].device.type):
            kind = torch.get_autocast_dtype(args[0].device.type)
            args = [value.to(kind) if isinstance(value, Tensor) else value for value in args]
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Compute `functional.batch_norm`, with its arguments."""
    return _Folded.apply(input, running_mean, running_var, weight, bias, training, momentum, eps)
