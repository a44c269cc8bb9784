"""Noise and networks in two parts: one for the frame that all share, one for what differs (VideoFusion).

`noise_i = sqrt(share_i) base + sqrt(1 - share_i) residual_i`. The base network, an image model, reads base from the
base frame alone; the residual network reads residual_i from every frame after the base noise has been taken out.
Source: Luo et al. 2023, arXiv:2303.08320, sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.denoiser import Network
from kineograph.diffusion.noise import ClipGenerators, FrameShape
from kineograph.diffusion.parameterization import expand
from kineograph.diffusion.process import Process
from kineograph.errors import InputError


def base_frame(num_frames: int) -> int:
    """Return the frame that is all base: the middle one."""
    return num_frames // 2


def frame_shares(num_frames: int, share: float = 0.5) -> Tensor:
    """Return the share of the base in each frame's variance, float32 (frames,): `share`, but 1 in the base frame."""
    if not 0 <= share <= 1:
        raise InputError(f"share is a share of the variance, from 0 to 1, not {share}.")
    shares = torch.full((num_frames,), share)
    shares[base_frame(num_frames)] = 1.0
    return shares


def combine(base: Tensor, residual: Tensor, shares: Tensor) -> Tensor:
    """Return `sqrt(share) base + sqrt(1 - share) residual` for each frame.

    Args:
        base: (batch, channels, height, width).
        residual: (batch, frames, channels, height, width); that of the base frame does not count.
        shares: (frames,).
    """
    shares = shares.to(residual)[None]
    return expand(shares.sqrt(), residual) * base[:, None] + expand((1 - shares).sqrt(), residual) * residual


def decomposed(
    shape: FrameShape,
    seeds: Sequence[int],
    share: float = 0.5,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise for a clip with its base and residual part.

    Args:
        shape: (frames, channels, height, width) of one clip.
        seeds: One seed per clip.
        share: Share of the base in the variance of all frames but the base frame.
        device: Where the noise goes.
        dtype: Of the draw and of the result.

    Returns:
        Noise (batch, frames, channels, height, width), every value standard normal, any two frames correlated by
        sqrt(share_i share_j); base (batch, channels, height, width); residual, of the shape of the noise.
    """
    draws = ClipGenerators(seeds, stream=0).randn((shape[0] + 1, *shape[1:]), device, dtype)
    base, residual = draws[:, 0], draws[:, 1:]
    return combine(base, residual, frame_shares(shape[0], share)), base, residual


@dataclass(frozen=True)
class TwoNetworks:
    """A network for epsilon made of two, `base(x, t, condition)` and `residual(x, t, condition)`.

    Attributes:
        base: Image model: noise of one picture (batch, 1, channels, height, width).
        residual: Video model: residual noise of all frames.
        process: Gives alpha and sigma at t.
        share: As in `decomposed`.
        stop_gradient: Keep the residual loss from training the base network, as in the paper.
    """

    base: Network
    residual: Network
    process: Process
    share: float = 0.5
    stop_gradient: bool = True

    def parts(self, x: Tensor, t: Any, condition: Any = None) -> tuple[Tensor, Tensor]:
        """Return the estimates of base (batch, channels, height, width) and residual noise."""
        middle = base_frame(x.shape[1])
        base = self.base(x[:, middle : middle + 1], t, condition)[:, 0]
        taken = base.detach() if self.stop_gradient else base
        _, sigma = self.process.alpha_sigma(t)
        shares = frame_shares(x.shape[1], self.share).to(x)[None]
        cleared = x - expand(sigma, x) * expand(shares.sqrt(), x) * taken[:, None]
        return base, self.residual(cleared, t, condition)

    def __call__(self, x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        """Return the estimate of the noise of every frame (batch, frames, channels, height, width)."""
        base, residual = self.parts(x, t, condition)
        shares = frame_shares(x.shape[1], self.share)
        taken = base.detach() if self.stop_gradient else base
        noise = combine(taken, residual, shares)
        middle = base_frame(x.shape[1])
        return torch.cat([noise[:, :middle], base[:, None], noise[:, middle + 1 :]], dim=1)
