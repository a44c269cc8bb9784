"""Pixel errors of aligned clips: mean squared error, mean absolute error, PSNR."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from kineograph.errors import InputError, unknown
from kineograph.metrics.arrays import ArrayLike, as_tensor, finite

DataRange = float | tuple[float, float]


def psnr(
    a: ArrayLike,
    b: ArrayLike,
    data_range: DataRange,
    *,
    pool: Literal["frames", "all"] = "frames",
    cap: float | None = None,
) -> float:
    """Peak signal-to-noise ratio in decibels.

    Args:
        a: Images or clips, shape (height, width), (channels, height, width) or (..., channels, height, width); the
            last three axes in any order are one frame.
        b: Same shape.
        data_range: Width of the allowed range of values (255 for uint8, 1, 2 for [-1, 1]), or its two ends.
        pool: `"frames"` takes the decibels of each frame, then the mean (common_metrics, EvalCrafter, most papers);
            `"all"` pools the squared error first (torchmetrics). Frames of 20, 30, 40, 50 dB give 35.0 or 25.6.
        cap: Value for identical frames, such as 100 (common_metrics); None leaves infinity.

    Returns:
        Decibels.

    Raises:
        InputError: Shapes differ, or values span more than `data_range`.
    """
    values = frame_psnr(a, b, data_range) if pool == "frames" else _decibels(frame_mse(a, b).mean(), width(data_range))
    if pool not in ("frames", "all"):
        raise unknown("pool", pool, ("frames", "all"))
    return float(values.mean() if cap is None else values.clamp_max(cap).mean())


def frame_psnr(a: ArrayLike, b: ArrayLike, data_range: DataRange) -> Tensor:
    """PSNR of every frame in decibels, float64, shape of the leading axes; arguments as `psnr`."""
    first, second = as_image_pair(a, b)
    for name, x in (("a", first), ("b", second)):
        _check_span(x, data_range, name)
    return _decibels(_over_frame((first.double() - second.double()).square()), width(data_range))


def frame_mse(a: ArrayLike, b: ArrayLike) -> Tensor:
    """Mean squared error of every frame, float64."""
    first, second = as_image_pair(a, b)
    return _over_frame((first.double() - second.double()).square())


def frame_mae(a: ArrayLike, b: ArrayLike) -> Tensor:
    """Mean absolute error of every frame, float64."""
    first, second = as_image_pair(a, b)
    return _over_frame((first.double() - second.double()).abs())


def as_image_pair(a: ArrayLike, b: ArrayLike) -> tuple[Tensor, Tensor]:
    """Check two aligned images or clips.

    Returns:
        Two tensors of one shape and at least two axes, in their own types.

    Raises:
        InputError: Shapes differ, or values are not finite.
    """
    first, second = (finite(as_tensor(getattr(x, "frames", x), name), name) for x, name in ((a, "a"), (b, "b")))
    if first.shape != second.shape:
        raise InputError(
            f"a has shape {tuple(first.shape)} and b {tuple(second.shape)}: aligned metrics need equal shapes."
        )
    if first.ndim < 2 or 0 in first.shape:
        raise InputError(f"Images need at least (height, width), given shape {tuple(first.shape)}.")
    return first, second.to(first.device)


def width(data_range: DataRange) -> float:
    """Width of a data range given as a number or as its two ends.

    Raises:
        InputError: Not positive.
    """
    value = float(data_range[1] - data_range[0]) if isinstance(data_range, tuple) else float(data_range)
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"data_range must be positive, such as 255, 1.0 or (-1, 1); given {data_range}.")
    return value


def _check_span(x: Tensor, data_range: DataRange, name: str) -> None:
    low, high = (float(v) for v in x.aminmax())
    if high - low > width(data_range) * 1.001:
        raise InputError(f"{name} holds values from {low:.4g} to {high:.4g}, more than data_range={data_range} allows.")


def _over_frame(x: Tensor) -> Tensor:
    return x.flatten(-min(x.ndim, 3)).mean(-1)


def _decibels(mse: Tensor, peak: float) -> Tensor:
    return 20 * math.log10(peak) - 10 * torch.log10(mse)
