"""A video network steered frame by frame by an image ControlNet, without training.

Zhang et al. 2023, arXiv:2302.05543; on clips as in Text2Video-Zero (Khachatryan et al. 2023, arXiv:2303.13439, section
4.2): every frame has a map of its own, depth, edges or poses, and what relates the frames is the network's.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor, nn

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.frames import Clip, clip_of


class Controlled(nn.Module):
    """A video network and a ControlNet of its image network.

    Args:
        network: The video network.
        control: diffusers' `ControlNetModel`, made for the same image network; it may have been given time by
            `inflate`, such as Text2Video-Zero's attention to the first frame.
        maps: What the frames are to follow, `(batch or 1, frames, channels, height, width)` in pixels, from 0 to 1.
        strength: Factor of what the ControlNet adds; 0 is none.
    """

    def __init__(self, network: VideoUNet, control: Any, maps: Tensor, strength: float = 1.0) -> None:
        super().__init__()
        self.network, self.control = network, control
        self.maps, self.strength = maps, strength

    def forward(self, x: Tensor, timestep: Tensor | float, context: Tensor) -> Tensor:
        """Predict for noisy latents `(batch, frames, c, h, w)`; a clip of one frame follows the first map.

        Args:
            x: Noisy latents; no more frames than maps.
            timestep: One number, or one per clip `(batch,)`.
            context: Text tokens `(batch, tokens, channels)`.

        Raises:
            InputError: There are more frames than maps.
        """
        batch, frames = x.shape[:2]
        if frames > self.maps.shape[1]:
            raise InputError(f"A clip of {frames} frames follows {frames} maps; given {self.maps.shape[1]}.")
        maps = self.maps[:, :frames].expand(batch, -1, -1, -1, -1)
        levels = timestep.repeat_interleave(frames) if isinstance(timestep, Tensor) and timestep.ndim else timestep
        with clip_of(Clip(frames)):
            downs, mid = self.control(
                rearrange(x, "b f c h w -> (b f) c h w"),
                levels,
                context.repeat_interleave(frames, 0),
                rearrange(maps, "b f c h w -> (b f) c h w").to(x),
                conditioning_scale=self.strength,
                return_dict=False,
            )
        unfold = lambda residual: rearrange(residual, "(b f) c h w -> b f c h w", b=batch)
        return self.network(
            x, timestep, context, down_residuals=[unfold(down) for down in downs], mid_residual=unfold(mid)
        )
