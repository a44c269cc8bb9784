"""Moving latents by a motion field, to give training-free clips their motion (Text2Video-Zero)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

GRID = 512
"""Pixels of the square in which Text2Video-Zero measures motion (text_to_video_pipeline.py, `create_motion_field`)."""


def translations(num_frames: int, step: tuple[float, float], device: torch.device | None = None) -> Tensor:
    """Return a steady global motion: frame k is moved by `k * step`.

    Args:
        num_frames: Frames per clip.
        step: Pixels to the right and down per frame, in a square of 512.
        device: Where to put the result.

    Returns:
        `(num_frames, 2)`, right and down.
    """
    return torch.arange(num_frames, device=device)[:, None] * torch.tensor(step, device=device)


def warp(frames: Tensor, motion: Tensor) -> Tensor:
    """Look up each place of a frame where the motion says it came from (arXiv:2303.13439, eq. 10).

    Nearest neighbour, mirrored at the borders, as in the authors' code.

    Args:
        frames: `(batch, frames, channels, height, width)`.
        motion: Pixels of a 512-square, right and down: `(frames, 2)` or per place `(frames, 2, GRID, GRID)`.

    Returns:
        The warped frames.
    """
    height, width = frames.shape[-2:]
    if motion.ndim == 2:
        motion = motion[:, :, None, None].expand(-1, -1, GRID, GRID)
    line = torch.arange(GRID, device=frames.device, dtype=frames.dtype)
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    looked_at = (places + motion.to(frames)) / GRID * 2 - 1
    grid = F.interpolate(looked_at, size=(height, width), mode="bilinear", align_corners=False)
    grid = rearrange(grid, "f c h w -> f h w c").repeat(len(frames), 1, 1, 1)
    folded = rearrange(frames, "b f c h w -> (b f) c h w")
    moved = F.grid_sample(folded, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return rearrange(moved, "(b f) c h w -> b f c h w", b=len(frames))
