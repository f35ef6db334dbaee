"""A GPU that is not there: CUDA tensors with shapes, layouts and a device, and no values (torch's FakeTensor).

What is on the processor stays real. A step that mixes devices fails as it does on a GPU; what is read from the device has a
value of no meaning, so that code around it goes on.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

GPU = torch.device("cuda", 0)

#: What torch.cuda says of it.
ANSWERS = {
    "get_device_name": "a GPU that is not there", "is_bf16_supported": True, "synchronize": None, "memory_allocated": 0,
    "max_memory_allocated": 0, "reset_peak_memory_stats": None,
}  # fmt: skip


class Stream(torch.Generator):
    """One that says that it is on the GPU; where it is used there, nothing is drawn."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self.made_for = torch.device(device).type


def read(tensor: Tensor) -> Tensor:
    """Values for what is read: halves, and false."""
    with no_dispatch():
        return torch.full(tensor.shape, 0.5 if tensor.is_floating_point() else 0, dtype=tensor.dtype)


def on_gpu(value) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def fused_step(*given, **more) -> None:
    """A fused optimiser's kernel, which knows no fake tensors: it wants all on one device."""
    devices = {value.device for values in given if isinstance(values, list | tuple) for value in values}
    if len(devices) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {devices}")


def concerns_gpu(value) -> bool:
    """Whether an argument is on the GPU, or names it."""
    if isinstance(value, list | tuple):
        return any(map(concerns_gpu, value))
    return on_gpu(value) or (isinstance(value, str | torch.device) and str(value).startswith("cuda"))


def backward(loss: Tensor) -> None:
    """Do what `Tensor.backward` does, node by node: torch's engine asks for the device's streams, and there is no device."""
    for leaf, grad in gradients(loss).items():
        leaf.grad = grad if leaf.grad is None else leaf.grad + grad


def gradients(loss: Tensor) -> dict[Tensor, Tensor]:
    """The gradient of every leaf that the loss depends on."""
    given, found = {loss.grad_fn: [torch.ones_like(loss)]}, {}
    with torch.no_grad():
        for node in _from_loss_to_leaves(loss.grad_fn):
            grads = given.pop(node, None)
            if grads is None:
                continue
            if hasattr(node, "variable"):
                found[node.variable] = grads[0]
                continue
            for (following, place), grad in zip(node.next_functions, _through(node, grads), strict=False):
                if following is not None and grad is not None:
                    expected = following._input_metadata
                    grad = grad.sum_to_size(expected[place].shape).to(expected[place].dtype)
                    slots = given.setdefault(following, [None] * len(expected))
                    slots[place] = grad if slots[place] is None else slots[place] + grad
    return found


def _through(node, grads) -> tuple:
    """The gradients of a node's inputs; one more for a last argument that is no tensor."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # ours: what nothing uses has zeros
        grads = [zeros(like) if grad is None else grad for grad, like in zip(grads, node._input_metadata, strict=True)]
        found = node.apply(*grads)
    else:
        found = node(*grads)
    return found if isinstance(found, tuple) else (found,)


def grad(outputs, inputs, **given) -> tuple:
    """Do what `torch.autograd.grad` does with one output, which it takes alone or as a tuple."""
    (loss,) = outputs if isinstance(outputs, tuple) else (outputs,)
    found = gradients(loss)
    return tuple(found.get(leaf) for leaf in inputs)


def zeros(like) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def _from_loss_to_leaves(root) -> list:
    """The nodes in an order in which each comes after all that lead to it."""
    done, order, stack = {root}, [], [(root, iter(root.next_functions))]
    while stack:
        _, following = stack[-1]
        fresh = next((node for node, _ in following if node is not None and node not in done), None)
        if fresh is None:
            order.append(stack.pop()[0])
        else:
            done.add(fresh)
            stack.append((fresh, iter(fresh.next_functions)))
    return order[::-1]


def move(tensor: Tensor, *args, **kwargs) -> Tensor:
    return read(tensor) if "cpu" in map(str, (*args, *kwargs.values())) else tensor.to(*args, **kwargs)


def index(tensor: Tensor, key) -> Tensor:
    """How many a mask chooses is not known: half."""
    masked = isinstance(key, Tensor) and key.dtype == torch.bool
    return (tensor + key.view(-1, *[1] * (tensor.dim() - 1)))[: len(tensor) // 2] if masked else tensor[key]


#: Of a tensor on the GPU: what reads it.
READS = {
    Tensor.item: lambda tensor: read(tensor).item(),
    Tensor.tolist: lambda tensor: read(tensor).tolist(),
    Tensor.__float__: lambda tensor: 0.5,
    Tensor.__int__: lambda tensor: 0,
    Tensor.__bool__: lambda tensor: True,  # all is finite
    Tensor.cpu: read,
}
#: What is done in the place of what cannot be done with one.
INSTEAD = {
    Tensor.to: move,
    Tensor.__getitem__: index,
    Tensor.backward: lambda loss, **given: backward(loss),
    torch.autograd.grad: grad,
    torch._fused_sgd_: fused_step,
    torch._fused_adamw_: fused_step,
}


class FakeGpu(TorchFunctionMode):
    """While it is entered, what is made on CUDA, or moved there, is fake."""

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if isinstance(stream := kwargs.get("generator"), Stream):
            device = torch.device(kwargs.get("device") or "cpu").type
            if stream.made_for != device:
                raise RuntimeError(f"Expected a '{device}' device type for generator but found '{stream.made_for}'")
            if device == "cuda":
                kwargs.pop("generator")
        if not any(map(concerns_gpu, (*args, *kwargs.values()))):
            return args[0] if function is Tensor.pin_memory else function(*args, **kwargs)
        if not concerns_gpu(args[0]):
            with self.fake:
                return function(*args, **kwargs)
        if function in READS:
            return READS[function](args[0])
        with self.fake:
            return INSTEAD.get(function, function)(*args, **kwargs)


@contextlib.contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """Have a GPU meanwhile, as far as tensors go; its device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", Stream)
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        for name, answer in ANSWERS.items():
            patch.setattr(f"torch.cuda.{name}", lambda *given, answer=answer: answer)
        patch.setattr("torch.backends.cudnn.version", lambda: 92000)
        for name in ("benchmark", "allow_tf32"):  # what is set stays no longer than this
            patch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
        dump, load = torch.save, torch.load
        patch.setattr(torch, "save", lambda state, file: dump(tree_map_only(FakeTensor, read, state), file))
        patch.setattr(
            torch, "load",
            lambda file, map_location, **more: tree_map_only(Tensor, lambda value: value.to(map_location), load(file, **more)),
        )  # fmt: skip
        patch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
        with FakeGpu():
            yield GPU
