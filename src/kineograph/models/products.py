"""Products of bfloat16 numbers, in float32, on processors that have no arithmetic for bfloat16.

The product of two bfloat16 numbers is exact in float32, and hardware for bfloat16 sums in float32 and rounds once at
the end. To cast, multiply in float32 and round is therefore the same computation. On a processor without such hardware
it is several times faster than PyTorch's own way (oneDNN's reference kernels), and as frugal where large operands are
cast piece by piece: a network stored in bfloat16 takes half of float32's memory. Attention stays: fused, it is as fast
as in float32. Measured on a 2-core AVX512 CPU against PyTorch's way: convolutions 2.9 to 4.0 times, linear layers 2.1
to 3.1 times as fast (`benchmarks/products.py`), a whole step of ModelScopeT2V 2.4 and 2.6 times
(`benchmarks/whole_network_bfloat16.md`; float32 is faster still, in twice the memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kineograph.devices import has_bf16

PIECE = 2**22
"""Numbers of an operand that are cast at a time, 16 MiB in float32."""


def products_in_float32(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which networks on bfloat16 tensors like x multiply in float32, if that is the faster way.

    It is for inference on CPUs without arithmetic for bfloat16; elsewhere nothing changes.
    """
    wanted = x.dtype is torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled() and not has_bf16()
    return InFloat32() if wanted else nullcontext()


class InFloat32(TorchFunctionMode):
    """Inside, products of bfloat16 tensors are formed in float32 and rounded once."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call one of `PRODUCTS` in place of PyTorch's function, or that."""
        if func in PRODUCTS and args and isinstance(args[0], Tensor) and args[0].dtype is torch.bfloat16:
            func = PRODUCTS[func]
        return func(*args, **(kwargs or {}))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Do what `torch.nn.functional.linear` does."""
    rows = x.reshape(-1, x.shape[-1])
    out = rows.new_empty(len(rows), len(weight))
    for part in _pieces(weight):
        matrix, offset = weight[part].float(), None if bias is None else bias[part].float()
        for some in _pieces(rows):
            out[some, part] = F.linear(rows[some].float(), matrix, offset).to(x.dtype)
    return out.reshape(*x.shape[:-1], len(weight))


def _convolution(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a convolution in float32 with the signature of PyTorch's."""

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, *sizes: Any, **named: Any) -> Tensor:
        whole, batched = [slice(None)], x.ndim == weight.ndim
        groups = named.get("groups", sizes[3] if len(sizes) > 3 else 1)
        samples = list(_pieces(x)) if batched else whole

        def channels(kernel: Tensor, offset: Tensor | None) -> Tensor:
            made = [original(x[some].float(), kernel, offset, *sizes, **named).to(x.dtype) for some in samples]
            return _joined(made, 0)

        parts = _pieces(weight) if batched and groups == 1 else whole
        made = [channels(weight[part].float(), None if bias is None else bias[part].float()) for part in parts]
        return _joined(made, 1)

    return convolve


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _wide(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function whose tensors are cast to float32, and whose result is rounded."""

    def call(*args: Any, **named: Any) -> Tensor:
        wide = lambda value: value.float() if isinstance(value, Tensor) and value.dtype is torch.bfloat16 else value
        return original(*map(wide, args), **{name: wide(value) for name, value in named.items()}).to(torch.bfloat16)

    return call


def _pieces(tensor: Tensor) -> Iterator[slice]:
    """Yield parts of the first axis that have at most `PIECE` numbers, or one row."""
    rows = max(1, PIECE * len(tensor) // max(1, tensor.numel()))
    for start in range(0, max(1, len(tensor)), rows):
        yield slice(start, start + rows)


PRODUCTS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: linear,
    **{convolution: _convolution(convolution) for convolution in (F.conv1d, F.conv2d, F.conv3d)},
    **{
        product: _wide(product)
        for product in (
            torch.matmul,
            torch.bmm,
            torch.baddbmm,
            Tensor.matmul,
            Tensor.__matmul__,
        )
    },
}
