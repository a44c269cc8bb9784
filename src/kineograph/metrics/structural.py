"""Structural similarity, single and multi-scale.

Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", eq. 13 (K1 0.01, K2 0.03,
Gaussian window of 11 pixels, sigma 1.5); Wang et al. 2003, "Multi-scale structural similarity for image quality
assessment", eq. 7.

The window is applied to the sum and the difference of the two images, s and d: the four means E[s], E[d], E[s^2] and
E[d^2] give every term of the formula, where the usual form filters five maps. A window of 11 taps is 22 shifted
additions over one frame, which stays in the cache; a grouped convolution over a clip does not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kineograph.errors import InputError, unknown
from kineograph.metrics.arrays import ArrayLike
from kineograph.metrics.pixel import DataRange, as_image_pair, width

K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, Wang et al. 2003, section 3.2."""
Border = Literal["valid", "reflect", "zero"]


class Window(NamedTuple):
    """The local window of SSIM.

    Attributes:
        weights: One-dimensional weights, summing to 1; the window is their outer product.
        border: `"valid"` keeps windows inside the image (Wang); `"reflect"` pads (torchmetrics); `"zero"` pads zeros.
        correction: Factor of variances: n/(n - 1) for a sample covariance (scikit-image's default), else 1.
    """

    weights: tuple[float, ...]
    border: Border = "valid"
    correction: float = 1.0


def gaussian_window(size: int = 11, sigma: float = 1.5, border: Border = "valid") -> Window:
    """The window of the paper, or a variant of it."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-axis.square() / (2 * sigma * sigma))
    return Window(tuple((weights / weights.sum()).tolist()), border)


def uniform_window(size: int = 7) -> Window:
    """The default of scikit-image: a flat window and sample covariances."""
    count = size * size
    return Window((1 / size,) * size, "valid", count / (count - 1))


def ssim(
    a: ArrayLike,
    b: ArrayLike,
    data_range: DataRange,
    *,
    window: Window | None = None,
    downsample: bool = False,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Structural similarity, per frame and channel, then the mean.

    Args:
        a: Images or clips of shape (height, width) or (..., channels, height, width); uint8 arrays of shape
            (..., height, width, 3) as decoded from files are recognised.
        b: Same shape.
        data_range: 1.0 for values in [0, 1], 255 for uint8, or the two ends, such as (-1, 1), which are mapped to
            [0, 2]: SSIM is not shift-invariant, and negative values without their lower end are refused.
        window: None is the paper's; `gaussian_window(border="reflect")` is torchmetrics', `uniform_window()`
            scikit-image's default.
        downsample: Average and subsample by round(min(height, width) / 256) first, as Wang's ssim.m does.
        dtype: Of the computation.

    Returns:
        The mean similarity, at most 1.

    Raises:
        InputError: Shapes differ, images are smaller than the window, or values leave `data_range`.
    """
    return float(frame_ssim(a, b, data_range, window=window, downsample=downsample, dtype=dtype).mean())


def frame_ssim(
    a: ArrayLike,
    b: ArrayLike,
    data_range: DataRange,
    *,
    window: Window | None = None,
    downsample: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """SSIM of every frame (mean over channels and pixels), float64; arguments as `ssim`."""
    window = window or gaussian_window()
    planes, leading = _planes(a, b, data_range, dtype)
    _check_size(planes[0][0], window)
    values = [_compare(*_reduce(x, y, downsample), window)[0] for x, y in zip(*planes, strict=True)]
    return torch.stack(values).reshape(leading)


def ms_ssim(
    a: ArrayLike,
    b: ArrayLike,
    data_range: DataRange,
    *,
    weight_last: bool = True,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Multi-scale structural similarity, per frame, then the mean.

    Args:
        a: As in `ssim`, at least 176 pixels high and wide.
        b: Same shape.
        data_range: As in `ssim`.
        weight_last: Raise the similarity of the coarsest scale to its exponent, as the paper does; scikit-video does
            not.
        dtype: Of the computation.

    Returns:
        The mean similarity. Negative contrast terms count as zero.

    Raises:
        InputError: As `ssim`, or images smaller than 176 pixels.
    """
    window = gaussian_window()
    planes, leading = _planes(a, b, data_range, dtype)
    smallest = len(window.weights) * 2 ** (len(SCALES) - 1)
    if min(planes[0].shape[-2:]) < smallest:
        raise InputError(
            f"MS-SSIM needs at least {smallest} pixels a side for its five scales, given {_size(planes[0][0])}."
        )
    values = [_multi_scale(x, y, window, weight_last) for x, y in zip(*planes, strict=True)]
    return float(torch.stack(values).reshape(leading).mean())


def _multi_scale(x: Tensor, y: Tensor, window: Window, weight_last: bool) -> Tensor:
    product = torch.ones((), dtype=torch.float64)
    for scale, weight in enumerate(SCALES):
        similarity, contrast = _compare(x, y, window, per_plane=True)
        if scale == len(SCALES) - 1:
            return (product * similarity.clamp_min(0) ** (weight if weight_last else 1)).mean()
        product = product * contrast.clamp_min(0) ** weight
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
    raise AssertionError("unreachable")


def _planes(a: ArrayLike, b: ArrayLike, data_range: DataRange, dtype: torch.dtype) -> tuple[list[Tensor], torch.Size]:
    """Two tensors of shape (frames, channels, height, width) scaled to [0, 1], and the shape of the leading axes."""
    first, second = (_channels_first(x) for x in as_image_pair(a, b))
    while first.ndim < 3:
        first, second = first[None], second[None]
    return [
        _unit(x, data_range, dtype).flatten(0, -4) if x.ndim > 3 else _unit(x, data_range, dtype)[None]
        for x in (first, second)
    ], first.shape[:-3]


def _channels_first(x: Tensor) -> Tensor:
    decoded = x.dtype == torch.uint8 and x.ndim >= 3 and x.shape[-1] in (1, 3, 4)
    return x.movedim(-1, -3) if decoded else x


def _unit(x: Tensor, data_range: DataRange, dtype: torch.dtype) -> Tensor:
    start = data_range[0] if isinstance(data_range, tuple) else 0.0
    low, high = (float(v) for v in x.aminmax())
    slack = 1e-3 * width(data_range)
    if low < start - slack or high > start + width(data_range) + slack:
        raise InputError(
            f"Values from {low:.4g} to {high:.4g} leave data_range={data_range}. SSIM is not shift-invariant, so for "
            "pixels in [-1, 1] write data_range=(-1, 1); for uint8 write 255."
        )
    return (x.to(dtype) - start) / width(data_range)


def _size(x: Tensor) -> str:
    return f"{x.shape[-2]} x {x.shape[-1]}"


def _check_size(x: Tensor, window: Window) -> None:
    if min(x.shape[-2:]) < len(window.weights):
        raise InputError(f"Images of {_size(x)} pixels are smaller than the window of {len(window.weights)}.")


def _reduce(x: Tensor, y: Tensor, downsample: bool) -> tuple[Tensor, Tensor]:
    """Box-average and subsample by round(min / 256), as Wang's ssim.m ('symmetric' border)."""
    factor = max(1, int(min(x.shape[-2:]) / 256 + 0.5))
    if not downsample or factor == 1:
        return x, y
    left, right = factor // 2, factor - 1 - factor // 2
    box = lambda z: functional.avg_pool2d(
        functional.pad(z[None], (left, right, left, right), mode="replicate")[0], factor, stride=1
    )[..., ::factor, ::factor]
    return box(x), box(y)


def _filter(x: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Window mean over the last two axes, windows inside the image."""
    for axis in (-1, -2):
        size = x.shape[axis] - len(weights) + 1
        total = x.narrow(axis, 0, size) * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            total.add_(x.narrow(axis, shift, size), alpha=weight)
        x = total
    return x


def _pad(x: Tensor, window: Window) -> Tensor:
    reach = len(window.weights) // 2
    mode = {"reflect": "reflect", "zero": "constant"}[window.border]
    return functional.pad(x, (reach,) * 4, mode=mode)


def _compare(x: Tensor, y: Tensor, window: Window, per_plane: bool = False) -> tuple[Tensor, Tensor]:
    """Mean similarity and mean contrast term of one frame, shape (channels, height, width) in [0, 1], as float64."""
    if window.border != "valid":
        if window.border not in ("reflect", "zero"):
            raise unknown("SSIM border", window.border, ("valid", "reflect", "zero"))
        x, y = _pad(x, window), _pad(y, window)
    s, d = x + y, x - y
    centre = s.mean((-2, -1), keepdim=True) if window.border != "zero" else torch.zeros((), dtype=s.dtype)
    s = s - centre
    mean_s, mean_d, square_s, square_d = _filter(torch.stack([s, d, s * s, d * d]), window.weights)
    variance_s = (square_s - mean_s.square()).mul_(window.correction / 2)
    variance_d = (square_d - mean_d.square()).mul_(window.correction / 2)
    contrast = (variance_s - variance_d + K2**2) / (variance_s + variance_d + K2**2)
    light_s, light_d = (mean_s + centre).square_().div_(2), mean_d.square_().div_(2)
    similarity = (light_s - light_d + K1**2).div_(light_s + light_d + K1**2).mul_(contrast)
    axes = (-2, -1) if per_plane else (-3, -2, -1)
    return similarity.mean(axes, dtype=torch.float64), contrast.mean(axes, dtype=torch.float64)
