"""An autoencoder whose decoder sees the neighbouring frames: Stable Video Diffusion's, by inflating the image decoder.

Blattmann et al. 2023, arXiv:2311.15127, and Align your Latents, arXiv:2304.08818, section 3.1.1: the encoder stays that
of the image model, the decoder gets a temporal block after every ResNet block and a convolution over the frames at its
end. Read beside `sgm/modules/autoencoding/temporal_ae.py` of Stability-AI/generative-models at commit 0ad7de9a; on disk
it is diffusers' `AutoencoderKLTemporalDecoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from kineograph.errors import InputError, WeightsError
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.temporal.frames import Clip, clip_of
from kineograph.temporal.inflate import inflate
from kineograph.temporal.plan import Placement, Plan

CLASS = "AutoencoderKLTemporalDecoder"
# temporal_ae.py: alpha weighs the temporal side and starts at sigmoid(0); both ways of a fresh block are the identity.
DECODER = Plan(
    (
        Placement("resnet", "temporal_res_block", {"temb_channels": None, "mix": 0.0, "weighs": "temporal"}),
        Placement("conv_out", "temporal_output"),
    )
)
FIELDS = ("in_channels", "out_channels", "down_block_types", "block_out_channels", "layers_per_block")
SHARED_FIELDS = (*FIELDS, "latent_channels", "sample_size", "scaling_factor", "force_upcast")


class TemporalAutoencoder(FrameAutoencoder):
    """Encodes frame by frame, decodes whole clips.

    Args:
        vae: An image autoencoder without `post_quant_conv`; its decoder gets time here, in place. Fresh temporal layers
            leave it what it is.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__(vae)
        if vae.config["use_post_quant_conv"]:
            raise InputError(
                "A temporal decoder follows the latents directly: build the image autoencoder with "
                "use_post_quant_conv=False, after multiplying that layer into decoder.conv_in."
            )
        inflate(vae.decoder, DECODER)

    def reconstruct_clips(self, raw: Tensor) -> Tensor:
        """Decode raw latents `(batch, frames, c, h, w)` into videos `(batch, frames, 3, height, width)`; not clamped.

        Gradients flow; `vae.enable_gradient_checkpointing()` bounds the memory of training.
        """
        with clip_of(Clip(raw.shape[1])):
            images = self.reconstruct(rearrange(raw, "b f c h w -> (b f) c h w"))
        return rearrange(images, "(b f) c h w -> b f c h w", b=len(raw))

    @torch.no_grad()
    def decode(self, latents: Tensor, frames_at_once: int = 14) -> Tensor:
        """Decode latents into videos in [-1, 1], a few neighbouring frames at a time.

        Frames see each other inside a chunk only, so a larger chunk is smoother and takes more memory; a value of all
        frames is exact. Chunks never span two clips.

        Args:
            latents: `(batch, frames, c, h, w)`, scaled.
            frames_at_once: Length of a chunk; the last may be shorter (diffusers' `decode_chunk_size`).

        Raises:
            InputError: `frames_at_once` is below 1.
        """
        if frames_at_once < 1:
            raise InputError(
                f"frames_at_once, the length of a decoded chunk, must be at least 1, not {frames_at_once}."
            )
        raw = latents / self.scale + self.shift
        clips = [
            torch.cat([self.reconstruct_clips(part) for part in clip.split(frames_at_once, 1)], 1)
            for clip in raw.split(1)
        ]
        return torch.cat(clips).clamp(-1, 1)


def temporal_autoencoder(config: Mapping[str, Any]) -> TemporalAutoencoder:
    """Build an autoencoder from the configuration of diffusers' `AutoencoderKLTemporalDecoder`.

    Raises:
        WeightsError: The configuration cannot be honoured.
    """
    if config.get("layers_per_block", 1) != 2:
        raise WeightsError(
            f"{CLASS} with layers_per_block={config.get('layers_per_block', 1)} is not built in: the middle of its "
            "decoder then has other layers than an image decoder. Published ones have 2."
        )
    if any(kind != "DownEncoderBlock2D" for kind in config.get("down_block_types", ())):
        raise WeightsError(f"{CLASS} is built of DownEncoderBlock2D only, not {config['down_block_types']}.")
    fields = {name: config[name] for name in SHARED_FIELDS if name in config}
    ups: Any = ("UpDecoderBlock2D",) * len(config["block_out_channels"])
    return TemporalAutoencoder(AutoencoderKL(**fields, up_block_types=ups, use_post_quant_conv=False))
