"""A stand-in for a GPU: tensors that hold values on the CPU and say that they live on another device.

Mixing the two devices raises an error as a GPU would, and whatever would make the program wait for a GPU is counted.
The device is called meta, since cuda is not accepted without a driver."""

import contextlib
import traceback
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

WAITING = {  # operations whose result the program needs before it can go on
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.is_nonzero.default",
    "aten.equal.default",
    "aten.masked_select.default",
    "aten.unique_dim.default",
    "aten._unique2.default",
}
INDEXING = {  # operations that take their indices from the CPU too
    "aten.index.Tensor",
    "aten.index_put_.default",
    "aten.index_put.default",
    "aten._index_put_impl_.default",
    "aten._unsafe_index.Tensor",
}


class Stand(torch.Tensor):
    "A tensor on the stand-in for a GPU."

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="meta",
        )

    def __init__(self, values):
        self.values_on_cpu = values

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


def on_cpu(value):
    return value.values_on_cpu if isinstance(value, Stand) else value


def place() -> str:
    "Return the line of the package that is being run."
    frames = [frame for frame in traceback.extract_stack() if "mil_workbench" in frame.filename]
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "elsewhere"


WAITS: Counter[str] = Counter()  # what would have waited for the GPU, and where


def run(operation, args, kwargs):
    name, asked = str(operation), kwargs.get("device")
    is_asked = asked is not None and torch.device(asked).type == "meta"
    if name == "aten._to_copy.default":
        return copy_to(operation, args, kwargs, is_asked=is_asked)
    if name == "aten.copy_.default":
        operation(on_cpu(args[0]), on_cpu(args[1]))
        if isinstance(args[1], Stand) and not isinstance(args[0], Stand):
            WAITS[f"copy to the CPU at {place()}"] += 1
        return args[0]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    stands = [tensor for tensor in tensors if isinstance(tensor, Stand)]
    if stands:
        require_one_device(name, tensors)
        if name in WAITING or (name == "aten.repeat_interleave.Tensor" and kwargs.get("output_size") is None):
            WAITS[f"{name} at {place()}"] += 1
    plain = tree_map(on_cpu, kwargs) | ({"device": "cpu"} if is_asked else {})
    result = operation(*tree_map(on_cpu, args), **plain)
    if name.split(".")[1].endswith("_") and isinstance(args[0], Stand):
        return args[0]
    if not (is_asked or (stands and asked is None)):
        return result
    return tree_map(lambda value: Stand(value) if isinstance(value, torch.Tensor) else value, result)


def copy_to(operation, args, kwargs, is_asked: bool):
    source = args[0]
    stays = isinstance(source, Stand) and kwargs.get("device") is None
    plain = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
    result = operation(on_cpu(source), **plain)
    if isinstance(source, Stand) and not (stays or is_asked):
        WAITS[f"copy to the CPU at {place()}"] += 1
    return Stand(result) if stays or is_asked else result


def require_one_device(name: str, tensors) -> None:
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Stand) and tensor.dim() > 0]
    if name in INDEXING:
        strangers = [tensor for tensor in strangers if tensor.dtype not in (torch.int64, torch.bool, torch.uint8)]
    if strangers:
        shapes = [tuple(tensor.shape) for tensor in strangers]
        raise RuntimeError(f"{name} at {place()} mixes devices: tensors of shape {shapes} are on the CPU")


class Watched(TorchDispatchMode):
    "While it is entered, operations that make new tensors are looked at too."

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


def move(model: torch.nn.Module) -> torch.nn.Module:
    "Move parameters and buffers of `model` to the stand-in."
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                values = Stand(parameter.detach().clone())
                module._parameters[name] = torch.nn.Parameter(values, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else Stand(buffer.clone())
    return model


@contextlib.contextmanager
def watched():
    "Watch every operation within, and return what waits; autocast is off on a device of this kind."
    is_enabled = torch.is_autocast_enabled
    WAITS.clear()
    with pytest.MonkeyPatch.context() as patched, Watched():
        patched.setattr(torch, "is_autocast_enabled", lambda kind=None: kind != "meta" and is_enabled(kind))
        yield WAITS
