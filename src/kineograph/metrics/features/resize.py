"""The resizing rules of published metrics, which differ by up to 45 grey levels on one picture.

All take and return float frames of shape (n, channels, height, width).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def to_bytes(pixels: Tensor) -> Tensor:
    """Map pixels in [-1, 1] to the whole numbers 0 to 255 of 8-bit files, as floats."""
    return pixels.clamp(-1, 1).add(1).mul(127.5).round()


def tensorflow1_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: no antialiasing, pixel corners aligned at the origin only."""
    return _lerp(_lerp(x, -2, height), -1, width)


def _lerp(x: Tensor, axis: int, size: int) -> Tensor:
    old = x.shape[axis]
    position = torch.arange(size, dtype=torch.float32, device=x.device) * (old / size)
    low = position.floor().long().clamp_max(old - 1)
    high = (low + 1).clamp_max(old - 1)
    weight = (position - low).to(x.dtype)
    weight = weight[:, None] if axis == -2 else weight
    below, above = x.index_select(axis, low), x.index_select(axis, high)
    return below + (above - below) * weight


def bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """PyTorch's bilinear rule: half-pixel centres, no antialiasing."""
    return functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def corner_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Chainer's `resize_images`: corners of input and output coincide."""
    return functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def antialiased_bicubic(x: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bicubic filter in floating point (clean-fid)."""
    return functional.interpolate(x, (height, width), mode="bicubic", align_corners=False, antialias=True)


def pillow_bicubic(x: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bicubic filter on bytes, rounded after each pass (CLIP's preparation); rounded once off the CPU."""
    if x.device.type != "cpu":
        return antialiased_bicubic(x, height, width).clamp(0, 255).round()
    return antialiased_bicubic(x.to(torch.uint8), height, width).to(x.dtype)


def antialiased_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bilinear filter in floating point (torchmetrics from 1.8.0 on)."""
    return functional.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True)


def shorter_side(height: int, width: int, size: int, ceil: bool = False) -> tuple[int, int]:
    """Height and width with the shorter side at `size`; the longer one rounded down, or up (VideoGPT)."""
    if height <= width:
        long = -(-size * width // height) if ceil else size * width // height
        return size, long
    long = -(-size * height // width) if ceil else size * height // width
    return long, size


def centre_crop(x: Tensor, size: int) -> Tensor:
    """The middle square."""
    top, left = (x.shape[-2] - size) // 2, (x.shape[-1] - size) // 2
    return x[..., top : top + size, left : left + size]
