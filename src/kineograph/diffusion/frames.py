"""Masks over frames: pictures among videos, frames that are given, and conditions that are noised on purpose."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from kineograph.diffusion.parameterization import add_noise
from kineograph.diffusion.process import Process
from kineograph.errors import InputError


def joint_mask(num_frames: int, num_images: int, batch: int = 1) -> Tensor:
    """Return which entries along the frame axis are single pictures: bool (batch, num_frames + num_images).

    Source: Ho et al. 2022 (VDM), arXiv:2204.03458, sec. 3: random pictures are appended to the frames of each video.
    """
    images = torch.arange(num_frames + num_images) >= num_frames
    return images.expand(batch, -1)


def attention_mask(images: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return which frame may attend to which over time.

    Frames of the video see each other; a picture sees only itself, so joint training leaves it an image model's input.

    Args:
        images: True for single pictures, bool (batch, frames).
        valid: False for padding, bool (batch, frames); None is all True. Padding sees itself alone, and nobody sees it.

    Returns:
        True where the row may attend to the column, bool (batch, frames, frames); the diagonal is always True.
    """
    video = ~images if valid is None else ~images & valid
    together = video[:, :, None] & video[:, None, :]
    return together | torch.eye(images.shape[1], dtype=torch.bool, device=images.device)


def first_known(num_frames: int, count: int) -> Tensor:
    """Return the mask of prediction: the first `count` frames are given; bool (1, frames)."""
    if not 0 <= count <= num_frames:
        raise InputError(f"{count} of {num_frames} frames cannot be given.")
    return (torch.arange(num_frames) < count)[None]


def every_known(num_frames: int, stride: int) -> Tensor:
    """Return the mask of interpolation: every `stride`-th frame is given, from the first on; bool (1, frames)."""
    if stride < 1:
        raise InputError(f"stride must be at least 1, not {stride}.")
    return (torch.arange(num_frames) % stride == 0)[None]


def random_known(
    batch: int, num_frames: int, highest: int, generator: torch.Generator | None = None, unconditional: float = 0.1
) -> Tensor:
    """Return masks to train prediction with: up to `highest` first frames given, none with some probability.

    Source: Blattmann et al. 2023 (Align your Latents), arXiv:2304.08818, sec. 3.2, whose contexts are 0, 1 or 2 frames
    and are dropped for guidance.

    Args:
        batch: Number of clips.
        num_frames: Frames of a clip.
        highest: Most frames to give.
        generator: Source of chance.
        unconditional: Probability of none.
    """
    counts = torch.randint(1, highest + 1, (batch,), generator=generator)
    counts = counts * (torch.rand(batch, generator=generator) >= unconditional)
    return torch.arange(num_frames) < counts[:, None]


def with_known_channels(x: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    """Append the given frames and their mask as channels, the input of prediction and interpolation networks.

    Source: Blattmann et al. 2023, arXiv:2304.08818, sec. 3.2; Singer et al. 2022 (Make-A-Video), arXiv:2209.14792.

    Args:
        x: Noisy clip (batch, frames, channels, height, width).
        known: Clean clip of the same shape; frames that are not given are not read.
        mask: True where a frame is given, bool (batch, frames).

    Returns:
        (batch, frames, 2 * channels + 1, height, width).
    """
    where = rearrange(mask.expand(len(x), -1), "b f -> b f 1 1 1").to(x)
    plane = where.expand(-1, -1, 1, *x.shape[-2:])
    return torch.cat([x, torch.where(where > 0, known, torch.zeros_like(known)), plane], dim=2)


def keep_known(noisy: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Put clean frames into a noisy clip where the mask is True, for networks that take given frames in place."""
    return torch.where(rearrange(mask.expand(len(noisy), -1), "b f -> b f 1 1 1"), clean, noisy)


def frame_times(t: Tensor, mask: Tensor, known_t: float = 0.0) -> Tensor:
    """Return a time for each frame (batch, frames): `known_t` where a frame is given, the clip's t elsewhere."""
    return torch.where(mask.expand(len(t), -1), torch.full_like(t, known_t)[:, None], t[:, None])


def augmented(process: Process, condition: Tensor, t: Any, noise: Tensor) -> Tensor:
    """Noise a conditioning picture or clip, so that a cascade's next stage does not trust its errors.

    Train with random t, sample with a small fixed one, and tell the network t as a second time.
    Source: Ho et al. 2021, arXiv:2106.15282, sec. 4.2; Imagen Video; SVD's `cond_aug`, with alpha = 1 and t = sigma.

    Args:
        process: Gives alpha and sigma at t; `VarianceExploding` only adds.
        condition: Clean condition (batch, ...).
        t: Augmentation level in the time of the process, a float or (batch,).
        noise: Standard normal noise of the shape of the condition.
    """
    alpha, sigma = process.alpha_sigma(t)
    return add_noise(condition, noise, alpha, sigma)
