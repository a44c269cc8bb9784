"""A control network for clips: it is told what a few frames show and steers all of them.

SparseCtrl: Adding Sparse Controls to Text-to-Video Diffusion Models, Guo et al. 2023, arXiv:2311.16933, on diffusers'
`ControlNetModel` (Zhang et al. 2023, arXiv:2302.05543), inflated like an image network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from kineograph.errors import InputError
from kineograph.temporal.frames import Clip, clip_of
from kineograph.temporal.inflate import inflate
from kineograph.temporal.layer import zero
from kineograph.temporal.plan import Plan


class SparseControl(nn.Module):
    """A control network that sees clips of which a few frames are given.

    The noisy latents do not enter (section 3.2 of the paper): frames without a condition would otherwise be told
    nothing but noise, and learn to ignore what the others are given.

    Args:
        control: diffusers' `ControlNetModel` whose conditions have one channel more than the pictures, for the mask.
            Inflated here, in place.
        plan: Where time enters.
        latents: The condition is a latent: one zero convolution takes the place of the network that embeds pictures.
    """

    def __init__(self, control: Any, plan: Plan, latents: bool = False) -> None:
        super().__init__()
        channels = control.config["conditioning_channels"]
        if latents:
            width = control.config["block_out_channels"][0]
            convolution = zero(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            control.controlnet_cond_embedding = convolution.to(control.conv_in.weight)
        self.control, self.plan, self.latents = inflate(control, plan), plan, latents

    @property
    def factor(self) -> int:
        """Edge of the conditions for each latent position: 1 for latents, 8 for pictures."""
        count = len(self.control.config["conditioning_embedding_out_channels"])
        return 1 if self.latents else 2 ** (count - 1)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor | float,
        context: Tensor,
        condition: Tensor,
        mask: Tensor,
        scale: float = 1.0,
    ) -> tuple[list[Tensor], Tensor]:
        """Return what `VideoUNet` takes as `down_residuals` and `mid_residual`.

        Args:
            x: Noisy latents `(batch, frames, c, h, w)`; only their shape is used.
            timestep: Index of the noise level: one number or `(batch,)`.
            context: Text tokens `(batch, tokens, channels)`.
            condition: `(batch, frames, channels, factor * h, factor * w)`, zero where nothing is given.
            mask: `(batch, frames)`, True where a frame is given.
            scale: Strength of the control.

        Raises:
            InputError: The condition does not fit the latents.
        """
        batch, frames = x.shape[:2]
        channels = self.control.config["conditioning_channels"] - 1
        wanted = (batch, frames, channels, x.shape[3] * self.factor, x.shape[4] * self.factor)
        if tuple(condition.shape) != wanted or tuple(mask.shape) != (batch, frames):
            raise InputError(
                f"For these latents a condition is {wanted} and its mask {(batch, frames)}; got "
                f"{tuple(condition.shape)} and {tuple(mask.shape)}."
            )
        plane = rearrange(mask, "b f -> b f 1 1 1").to(condition).expand(-1, -1, 1, *condition.shape[3:])
        told = torch.cat([condition, plane], dim=2).flatten(0, 1)
        with clip_of(Clip(frames)):
            down, middle = self.control(
                torch.zeros_like(x).flatten(0, 1),
                torch.as_tensor(timestep, device=x.device).expand(batch).repeat_interleave(frames),
                context.repeat_interleave(frames, 0),
                told,
                conditioning_scale=scale,
                return_dict=False,
            )
        return [part.unflatten(0, (batch, frames)) for part in down], middle.unflatten(0, (batch, frames))


def place_frames(pictures: Tensor, indices: Sequence[int], num_frames: int) -> tuple[Tensor, Tensor]:
    """Put given frames at their places in a clip of nothing.

    Args:
        pictures: `(batch, given, c, h, w)`, pixels in [-1, 1] or scaled latents.
        indices: Frame number of each, from 0; negative numbers count from the end.
        num_frames: Frames of the clip.

    Returns:
        Condition `(batch, frames, c, h, w)` and mask `(batch, frames)` for `SparseControl`.

    Raises:
        InputError: A number is missing, twice there or outside the clip.
    """
    places = [index + num_frames if index < 0 else index for index in indices]
    if len(places) != pictures.shape[1] or len(set(places)) != len(places):
        raise InputError(f"{pictures.shape[1]} given frames need as many different numbers, not {list(indices)}.")
    if any(not 0 <= place < num_frames for place in places):
        raise InputError(f"Frame numbers must be from {-num_frames} to {num_frames - 1}, not {list(indices)}.")
    condition = pictures.new_zeros(pictures.shape[0], num_frames, *pictures.shape[2:])
    mask = torch.zeros(pictures.shape[0], num_frames, dtype=torch.bool, device=pictures.device)
    condition[:, places], mask[:, places] = pictures, True
    return condition, mask
