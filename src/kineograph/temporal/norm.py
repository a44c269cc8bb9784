"""Group normalisation over one frame or over a whole clip.

The choice is invisible in the papers and differs per system: ModelScopeT2V normalises its temporal layers over the
clip, AnimateDiff's motion module per frame in the original code and over the clip in diffusers. It is therefore
always explicit.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from kineograph.temporal.frames import current_clip

NormOver = Literal["frame", "clip"]


def divisor(channels: int, wanted: int) -> int:
    """Return the largest number up to `wanted` that divides `channels`.

    The sizes in the papers (32 groups, heads of 64) divide the published widths; others get the next that fits.
    """
    return next(number for number in range(min(wanted, channels), 0, -1) if channels % number == 0)


class FrameGroupNorm(nn.GroupNorm):
    """`GroupNorm` on folded frames, with statistics of one frame or of the clip.

    Args:
        channels: Number of channels.
        groups: Number of groups wanted; lowered to a divisor of `channels` where it is none.
        eps: Added to the variance.
        over: `"frame"`: each frame has its own mean and variance; `"clip"`: all frames of a clip share them.
    """

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-5, over: NormOver = "clip"):
        super().__init__(divisor(channels, groups), channels, eps)
        self.over = over

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalise `(batch * frames, channels, positions)`; returns `(batch, channels, frames, positions)`."""
        if self.over == "clip":
            return super().forward(rearrange(x, "(b f) c n -> b c f n", f=num_frames))
        return rearrange(super().forward(x), "(b f) c n -> b c f n", f=num_frames)


class SpatialClipNorm(nn.GroupNorm):
    """A group norm of the image network whose statistics span the frames of the current clip.

    An `nn.GroupNorm` becomes one by a change of class, so its weights keep their place. With time off, and for trailing
    independent images, every frame keeps its own statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise folded frames `(batch * frames, channels, height, width)`."""
        clip = current_clip()
        if not clip.temporal or clip.num_frames == 1:
            return super().forward(input)
        clips = rearrange(input, "(b f) c h w -> b c f h w", f=clip.num_frames)
        video, images = clips.tensor_split([clip.num_frames - clip.num_images], 2)
        parts = [super().forward(video), *(super(SpatialClipNorm, self).forward(i) for i in images.split(1, 2))]
        return rearrange(torch.cat(parts if clip.num_images else parts[:1], 2), "b c f h w -> (b f) c h w")


def span_clips(norm: nn.GroupNorm) -> None:
    """Let a group norm's statistics span the frames of a clip, in place."""
    norm.__class__ = SpatialClipNorm


def span_frames(norm: nn.GroupNorm) -> None:
    """Undo `span_clips`."""
    norm.__class__ = nn.GroupNorm
