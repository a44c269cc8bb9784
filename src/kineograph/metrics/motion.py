"""Motion of one clip without a network: flicker, smoothness, optical flow, dynamic degree.

The rules are those of VBench (Huang et al. 2024, arXiv:2311.17982, section 3.2). VBench interpolates frames with AMT
and estimates flow with RAFT; here the neighbours' mean and a pyramidal Lucas-Kanade flow stand in, and the names say
so.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kineograph.errors import InputError
from kineograph.metrics.features.resize import to_bytes

REACH = 7
"""Half side of the Lucas-Kanade window, in pixels."""


def flicker(frames: Tensor) -> float:
    """VBench's temporal flickering: (255 - mean |f_i - f_(i+1)|) / 255; meaningful on static scenes only.

    Args:
        frames: Shape (frames, channels, height, width) in [-1, 1], at least two.

    Returns:
        A number in [0, 1]; 1 is a frozen clip.
    """
    x = to_bytes(_several(frames, 2))
    return float(1 - (x[1:] - x[:-1]).abs().mean() / 255)


def smoothness(frames: Tensor) -> float:
    """Share of each odd frame that the mean of its neighbours predicts: (255 - mean error) / 255.

    Differs from the paper: VBench interpolates with the network AMT-S, this with the mean of the two neighbours.

    Args:
        frames: Shape (frames, channels, height, width) in [-1, 1], at least three.

    Returns:
        A number in [0, 1].
    """
    x = to_bytes(_several(frames, 3))
    middle = x[1:-1:2]
    return float(1 - (middle - (x[:-2:2] + x[2::2]) / 2).abs().mean() / 255)


def lucas_kanade(first: Tensor, second: Tensor, levels: int = 4, iterations: int = 3) -> Tensor:
    """Dense optical flow, coarse to fine (Lucas and Kanade 1981; Bouguet 2001).

    Args:
        first: Grey frames of shape (n, height, width).
        second: The frames that follow.
        levels: Levels of the pyramid, fewer on small frames.
        iterations: Refinements per level.

    Returns:
        Displacements in pixels of shape (n, 2, height, width), x before y.
    """
    pyramid = [(first[:, None].float(), second[:, None].float())]
    while len(pyramid) < levels and min(pyramid[-1][0].shape[-2:]) >= 32:
        a, b = pyramid[-1]
        pyramid.append((functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)))
    flow = torch.zeros(len(first), 2, *pyramid[-1][0].shape[-2:])
    for a, b in reversed(pyramid):
        if flow.shape[-2:] != a.shape[-2:]:
            flow = 2 * functional.interpolate(flow, a.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(iterations):
            flow = flow + _increment(a, _warp(b, flow))
    return flow


def mean_flow(frames: Tensor) -> float:
    """Mean length of the flow between neighbouring frames, in pixels."""
    return float(_flows(frames).norm(dim=1).mean())


def dynamic_degree(frames: Tensor, fps: float) -> float:
    """VBench's rule whether a clip moves: 1 or 0.

    Frames at about 8 a second; a pair moves when the mean of its 5 % longest displacements exceeds 6 min(h, w) / 256; a
    clip moves when round(4 T / 16) pairs do, T being the number of frames. Differs from the paper: Lucas-Kanade flow.

    Args:
        frames: Shape (frames, channels, height, width) in [-1, 1].
        fps: Frames per second.
    """
    step = max(1, round(fps / 8))
    kept = _several(frames[::step], 2)
    lengths = _flows(kept).norm(dim=1).flatten(1)
    top = lengths.topk(max(1, lengths.shape[1] // 20), dim=1).values.mean(1)
    moving = int((top > 6 * min(kept.shape[-2:]) / 256).sum())
    return float(moving >= max(1, round(4 * len(kept) / 16)))


def warping_error(frames: Tensor) -> float:
    """Mean squared difference between each frame and the next one warped back, in [0, 1] units squared."""
    x = (_several(frames, 2) + 1) / 2
    warped = _warp(x[1:], _flows(frames))
    return float((x[:-1] - warped).square().mean())


def _several(frames: Tensor, least: int) -> Tensor:
    if frames.ndim != 4 or len(frames) < least:
        raise InputError(f"Needs at least {least} frames of shape (frames, c, h, w), given {tuple(frames.shape)}.")
    return frames


def _flows(frames: Tensor) -> Tensor:
    grey = to_bytes(_several(frames, 2)).mean(1)
    return lucas_kanade(grey[:-1], grey[1:])


def _warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample x at each pixel's destination."""
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid_x = 2 * (columns + flow[:, 0]) / max(width - 1, 1) - 1
    grid_y = 2 * (rows + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack([grid_x, grid_y], -1)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _increment(a: Tensor, b: Tensor) -> Tensor:
    """Least-squares displacement in a window around every pixel, with a ridge against flat windows."""
    padded = functional.pad((a + b) / 2, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    dt = b - a
    size = 2 * REACH + 1
    pool = lambda z: functional.avg_pool2d(z, size, 1, REACH, count_include_pad=False)
    xx, yy, xy, xt, yt = (pool(z) for z in (dx * dx, dy * dy, dx * dy, dx * dt, dy * dt))
    xx, yy = xx + 1.0, yy + 1.0
    det = xx * yy - xy * xy
    step = torch.cat([(xy * yt - yy * xt) / det, (xy * xt - xx * yt) / det], 1)
    return step.clamp(-2, 2)
