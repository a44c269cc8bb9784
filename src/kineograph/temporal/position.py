"""Telling frames apart: position codes for attention over frames."""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from kineograph.errors import InputError


def sinusoidal_positions(num_frames: int, channels: int, like: Tensor) -> Tensor:
    """Return the sinusoidal code of each frame (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).

    Args:
        num_frames: Number of frames.
        channels: Width of the code, even: sines at even places, cosines at odd places.
        like: Tensor whose device and type the code takes.

    Returns:
        `(num_frames, channels)`.
    """
    rates = torch.exp(torch.arange(0, channels, 2, device=like.device) * (-math.log(10000.0) / channels))
    angles = torch.arange(num_frames, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)


def scalar_waves(values: Tensor, channels: int = 256) -> Tensor:
    """Return sinusoidal codes of scalar conditions side by side, as SVD and SDXL give them to the network.

    Args:
        values: `(batch, n)`; for Stable Video Diffusion frames per second - 1, motion bucket and noise augmentation.
        channels: Width of one code.

    Returns:
        `(batch, n * channels)`, cosines before sines in each code.
    """
    waves = get_timestep_embedding(values.flatten(), channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    return waves.reshape(len(values), -1)


def check_length(num_frames: int, max_frames: int | None) -> None:
    """Refuse a clip longer than the positions a layer was trained with.

    Raises:
        InputError: `num_frames` exceeds `max_frames`.
    """
    if max_frames is not None and num_frames > max_frames:
        raise InputError(
            f"These temporal layers know {max_frames} frame positions, the clip has {num_frames} frames. Use at most "
            f"{max_frames} frames at a time, for example in overlapping windows."
        )
