"""Noise for clips: one generator per clip, so that a seed is a clip whatever the batch size.

The priors say how the noise of neighbouring frames is related. In each of them every single value is standard normal,
so an image model finds every frame as it knows it; only the frames know of each other. The base and residual noise of
VideoFusion, which comes with two networks, is in `decomposed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from kineograph.errors import InputError, unknown

FrameShape = tuple[int, int, int, int]
MASK64 = (1 << 64) - 1


def mix_seed(seed: int, stream: int) -> int:
    """Return the seed of an independent stream of the same clip; stream 0 is the seed itself.

    Source: the finaliser of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
    """
    if stream == 0:
        return seed
    z = (seed + stream * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


class ClipGenerators:
    """One random generator per clip, drawing on the CPU so that every device gives the same clip.

    Samplers take an instance as their source of fresh noise. Its stream differs from that of the first noise, or the
    noise of the first step would repeat it.

    Args:
        seeds: One seed per clip of the batch.
        stream: Which of a clip's independent streams to draw: 0 is the first noise, 1 that of the steps.
    """

    def __init__(self, seeds: Sequence[int], stream: int = 1) -> None:
        self.generators = [torch.Generator("cpu").manual_seed(mix_seed(seed, stream)) for seed in seeds]

    def randn(
        self,
        shape: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return standard normal noise (batch, *shape), continuing each clip's stream."""
        draws = [torch.randn(tuple(shape), generator=generator, dtype=dtype) for generator in self.generators]
        return torch.stack(draws).to(device, non_blocking=True)

    def __call__(self, like: Tensor) -> Tensor:
        """Return fresh noise of the shape, device and dtype of a batch of clips."""
        assert len(like) == len(self.generators), f"{len(like)} clips but {len(self.generators)} generators"
        return self.randn(like.shape[1:], like.device, like.dtype)


def iid(
    shape: FrameShape,
    seeds: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return noise that is independent in every frame.

    Args:
        shape: (frames, channels, height, width) of one clip.
        seeds: One seed per clip.
        device: Where the noise goes; it is always drawn on the CPU.
        dtype: Of the draw and of the result.

    Returns:
        Standard normal noise (batch, frames, channels, height, width).
    """
    return ClipGenerators(seeds, stream=0).randn(shape, device, dtype)


# --- Noise shared between frames (PYoCo) ----------------------------------------------------------------------------


def mixed(
    shape: FrameShape,
    seeds: Sequence[int],
    alpha: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return noise of which every frame shares a part with all others.

    Source: Ge et al. 2023 (PYoCo), arXiv:2305.10474, sec. 4 ("mixed noise model").

    Args:
        shape: (frames, channels, height, width) of one clip.
        seeds: One seed per clip.
        alpha: Strength of the shared part: 0 is `iid`, infinity the same noise in all frames.
        device: Where the noise goes.
        dtype: Of the draw and of the result.

    Returns:
        Noise (batch, frames, channels, height, width), each value standard normal, correlated as `mixed_covariance`.
    """
    draws = ClipGenerators(seeds, stream=0).randn((shape[0] + 1, *shape[1:]), device, dtype)
    shared, own = shared_parts(alpha)
    return shared * draws[:, :1] + own * draws[:, 1:]


def mixed_covariance(num_frames: int, alpha: float = 1.0) -> Tensor:
    """Return the covariance between frames of `mixed`, alpha^2 / (1 + alpha^2) off the diagonal; float64."""
    shared = shared_parts(alpha)[0] ** 2
    return torch.full((num_frames, num_frames), shared, dtype=torch.float64).fill_diagonal_(1.0)


def progressive(
    shape: FrameShape,
    seeds: Sequence[int],
    alpha: float = 2.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return noise of which every frame keeps a part of the one before.

    Source: Ge et al. 2023 (PYoCo), arXiv:2305.10474, sec. 4 ("progressive noise model").

    Args:
        shape: (frames, channels, height, width) of one clip.
        seeds: One seed per clip.
        alpha: Strength of what is kept: 0 is `iid`, infinity the same noise in all frames.
        device: Where the noise goes.
        dtype: Of the draw and of the result.

    Returns:
        Noise (batch, frames, channels, height, width), each value standard normal, correlated as
        `progressive_covariance`.
    """
    draws = ClipGenerators(seeds, stream=0).randn(shape, device, dtype)
    kept, own = shared_parts(alpha)
    frames = [draws[:, 0]]
    for i in range(1, shape[0]):
        frames.append(kept * frames[-1] + own * draws[:, i])
    return torch.stack(frames, dim=1)


def progressive_covariance(num_frames: int, alpha: float = 2.0) -> Tensor:
    """Return the covariance between frames of `progressive`, (alpha / sqrt(1 + alpha^2))^|i - j|; float64."""
    index = torch.arange(num_frames, dtype=torch.float64)
    return shared_parts(alpha)[0] ** (index[:, None] - index[None, :]).abs()


def correlated(noise: Callable[[Tensor], Tensor], covariance: Tensor) -> Callable[[Tensor], Tensor]:
    """Give the fresh noise of a stochastic sampler the same covariance between frames as the first noise.

    Args:
        noise: Independent noise for a state, such as a `ClipGenerators`.
        covariance: Positive definite (frames, frames), such as `progressive_covariance(16)`.

    Returns:
        A source of noise (batch, frames, ...) with that covariance.
    """
    factor = torch.linalg.cholesky(covariance)

    def draw(like: Tensor) -> Tensor:
        nonlocal factor
        factor = factor.to(like)
        return torch.einsum("f g, b g ... -> b f ...", factor, noise(like))

    return draw


def shared_parts(alpha: float) -> tuple[float, float]:
    """Return the standard deviations of the shared and the own part, whose squares add up to 1."""
    if alpha < 0:
        raise InputError(f"alpha, the strength of the shared noise, must be at least 0, not {alpha}.")
    return (1.0, 0.0) if math.isinf(alpha) else (alpha / math.sqrt(1 + alpha**2), 1 / math.sqrt(1 + alpha**2))


# --- Noise moved with the picture (Text2Video-Zero) -----------------------------------------------------------------


def motion_warp(x: Tensor, num_frames: int, delta: tuple[float, float]) -> Tensor:
    """Repeat a latent in all frames, each moved by a few cells more, mirrored at the border.

    Source: Khachatryan et al. 2023, arXiv:2303.13439, sec. 3.3.1, and its released code, whose nearest-neighbour grid
    amounts to whole cells, half ones rounded down. There delta is 12 pixels of a 512 pixel picture: 1.5 of 64 cells.

    Args:
        x: One latent for each clip (batch, channels, height, width).
        num_frames: Frames to make; frame k reads k * delta away, rounded, and frame 0 stays.
        delta: Horizontal and vertical offset of what is read, in cells of x: the content moves the other way.

    Returns:
        (batch, frames, channels, height, width).
    """
    frames = []
    for k in range(num_frames):
        columns = _reflected(x.shape[-1], math.ceil(k * delta[0] - 0.5), x.device)
        rows = _reflected(x.shape[-2], math.ceil(k * delta[1] - 0.5), x.device)
        frames.append(x[..., rows[:, None], columns])
    return torch.stack(frames, dim=1)


def _reflected(size: int, offset: int, device: torch.device) -> Tensor:
    """Return the indices offset .. offset + size - 1, mirrored at the outer edges of the first and last cell."""
    index = (torch.arange(size, device=device) + offset) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def noise_up(x: Tensor, level: tuple[float, float], level_to: tuple[float, float], noise: Tensor) -> Tensor:
    """Take x from a cleaner to a noisier level: the forward process between two levels.

    Args:
        x: State at `level`.
        level: Its alpha and sigma.
        level_to: alpha and sigma to go to.
        noise: Standard normal noise of the shape of x.
    """
    ratio = level_to[0] / level[0]
    added = level_to[1] ** 2 - (ratio * level[1]) ** 2
    if added < 0:
        raise InputError(f"Level {level_to} is not noisier than {level}: noise can only be added.")
    return ratio * x + math.sqrt(added) * noise


# --- Noise for long videos (FreeNoise) and for a second try (FreeInit) ----------------------------------------------


def shuffled(
    shape: FrameShape,
    seeds: Sequence[int],
    window: int = 16,
    stride: int = 4,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return noise for a long clip: after the first window, each group of frames is an earlier one in another order.

    Source: Qiu et al. 2023 (FreeNoise), arXiv:2310.15169, sec. 3.2; window 16 and stride 4 there.

    Args:
        shape: (frames, channels, height, width) of one clip.
        seeds: One seed per clip.
        window: Frames that the model was trained on; the noise repeats, shuffled, after as many.
        stride: Frames that are shuffled together.
        device: Where the noise goes.
        dtype: Of the draw and of the result.

    Returns:
        Noise (batch, frames, channels, height, width); within any window every frame's noise is a different one.
    """
    if not 1 <= stride <= window:
        raise InputError(f"stride must be from 1 to window={window}, not {stride}.")
    draws = ClipGenerators(seeds, stream=0).randn((min(window, shape[0]), *shape[1:]), device, dtype)
    orders = [_shuffled_order(shape[0], window, stride, mix_seed(seed, 2)) for seed in seeds]
    return torch.stack([draw[order] for draw, order in zip(draws, orders, strict=True)])


def _shuffled_order(num_frames: int, window: int, stride: int, seed: int) -> list[int]:
    generator = torch.Generator("cpu").manual_seed(seed)
    order = list(range(min(window, num_frames)))
    while len(order) < num_frames:
        group = order[len(order) - window : len(order) - window + stride]
        order += [group[k] for k in torch.randperm(len(group), generator=generator).tolist()]
    return order[:num_frames]


def low_pass(
    frames: int,
    height: int,
    width: int,
    kind: str = "butterworth",
    spatial_stop: float = 0.25,
    temporal_stop: float = 0.25,
    order: int = 4,
) -> Tensor:
    """Return a filter over the frequencies of a clip, zero frequency in the middle.

    Source: Wu et al. 2023 (FreeInit), arXiv:2312.07537, sec. 4.2, and its released code.

    Args:
        frames: Size of the first axis.
        height: Size of the second axis.
        width: Size of the third axis.
        kind: `"butterworth"`, `"gaussian"`, `"ideal"` (a ball) or `"box"`.
        spatial_stop: Where it falls off in space, as a share of the highest frequency.
        temporal_stop: Where it falls off over frames.
        order: Steepness of `"butterworth"`.

    Returns:
        Values in [0, 1], float32 (frames, height, width).

    Raises:
        InputError: The kind is unknown.
    """
    axes = [2 * torch.arange(size, dtype=torch.float64) / size - 1 for size in (frames, height, width)]
    over_frames, over_rows, over_columns = torch.meshgrid(*axes, indexing="ij")
    squared = (spatial_stop / temporal_stop * over_frames) ** 2 + over_rows**2 + over_columns**2
    if kind == "butterworth":
        response = 1 / (1 + (squared / spatial_stop**2) ** order)
    elif kind == "gaussian":
        response = torch.exp(-squared / (2 * spatial_stop**2))
    elif kind == "ideal":
        response = squared <= spatial_stop * 2
    elif kind == "box":
        response = (over_frames.abs() <= temporal_stop) & (
            torch.maximum(over_rows.abs(), over_columns.abs()) <= spatial_stop
        )
    else:
        raise unknown("filter", kind, ("butterworth", "gaussian", "ideal", "box"))
    return response.float()


def mix_frequencies(low: Tensor, high: Tensor, response: Tensor) -> Tensor:
    """Take the low frequencies of one clip's noise and the high ones of another's.

    FreeInit: `low` is the sampled clip, noised to the first level again; `high` is fresh noise. Sampling from the
    result gives steadier motion (Wu et al. 2023, arXiv:2312.07537, eqs. 4 to 6).

    Args:
        low: (batch, frames, channels, height, width).
        high: Of the same shape.
        response: From `low_pass`, (frames, height, width).

    Returns:
        Of the same shape and dtype as `low`.
    """
    axes = (1, 3, 4)
    response = rearrange(response.to(low.device), "f h w -> 1 f 1 h w")
    spectra = [torch.fft.fftshift(torch.fft.fftn(part.float(), dim=axes), dim=axes) for part in (low, high)]
    mixture = spectra[0] * response + spectra[1] * (1 - response)
    return torch.fft.ifftn(torch.fft.ifftshift(mixture, dim=axes), dim=axes).real.to(low.dtype)
