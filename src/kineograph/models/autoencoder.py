"""The image autoencoder, applied frame by frame: diffusers' `AutoencoderKL` behind an optional pixel unshuffle.

Folding `patch` x `patch` pixels into channels first makes a small autoencoder several times faster on CPUs and leaves
`AutoencoderKL` as it is; `patch=1` is the plain Stable Diffusion autoencoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from kineograph.errors import InputError


class FrameAutoencoder(nn.Module):
    """Encodes and decodes videos frame by frame.

    Args:
        vae: diffusers' autoencoder; its config's `scaling_factor` and `shift_factor` normalise the latents.
        patch: Edge of the pixel blocks folded into channels; the autoencoder then has `3 * patch**2` input channels.
    """

    def __init__(self, vae: AutoencoderKL, patch: int = 1) -> None:
        super().__init__()
        channels = 3 * patch**2
        if vae.config.in_channels != channels:
            raise InputError(
                f"With patch {patch} the autoencoder must have {channels} input channels, not {vae.config.in_channels}."
            )
        self.vae, self.patch = vae, patch

    @property
    def factor(self) -> int:
        """Pixels per latent position along an edge."""
        return self.patch * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.latent_channels

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the raw latents of images `(n, 3, height, width)` in [-1, 1]."""
        moments = self.vae._encode(F.pixel_unshuffle(images, self.patch))
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Decode raw latents `(n, c, h, w)` into images `(n, 3, height, width)`; not clamped."""
        return F.pixel_shuffle(self.vae._decode(raw, return_dict=False)[0], self.patch)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction, mean and log-variance; `noise` has the latents' shape."""
        mean, log_variance = self.posterior(images)
        return self.reconstruct(mean + (0.5 * log_variance).exp() * noise), mean, log_variance

    @torch.no_grad()
    def encode(self, video: Tensor, frames_at_once: int = 32) -> Tensor:
        """Encode videos.

        Args:
            video: `(batch, frames, 3, height, width)` in [-1, 1]; height and width divisible by `factor`.
            frames_at_once: Frames per forward pass, which bounds the memory.

        Returns:
            Latents `(batch, frames, channels, height / factor, width / factor)` of mean 0 and deviation about 1.

        Raises:
            InputError: The size is not divisible.
        """
        self.check_size(video.shape[-2], video.shape[-1])
        images = rearrange(video, "b f c h w -> (b f) c h w")
        means = torch.cat([self.posterior(part)[0] for part in images.split(frames_at_once)])
        latents = (means - self.shift) * self.scale
        return rearrange(latents, "(b f) c h w -> b f c h w", b=len(video))

    @torch.no_grad()
    def decode(self, latents: Tensor, frames_at_once: int = 8) -> Tensor:
        """Decode latents `(batch, frames, c, h, w)` into videos in [-1, 1], a few frames at a time."""
        raw = rearrange(latents, "b f c h w -> (b f) c h w") / self.scale + self.shift
        images = torch.cat([self.reconstruct(part) for part in raw.split(frames_at_once)])
        return rearrange(images, "(b f) c h w -> b f c h w", b=len(latents)).clamp(-1, 1)

    @property
    def scale(self) -> float:
        """Factor of the latents: one over the measured deviation of the raw latents."""
        return self.vae.config.scaling_factor

    @property
    def shift(self) -> float:
        """Measured mean of the raw latents."""
        return self.vae.config.shift_factor or 0.0

    def calibrate(self, mean: float, deviation: float) -> None:
        """Store the measured statistics of the raw latents in the config, so that they travel with the weights."""
        self.vae.register_to_config(scaling_factor=1 / deviation, shift_factor=mean)

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError unless height and width fit the latent grid."""
        for name, value in (("height", height), ("width", width)):
            if value % self.factor or value <= 0:
                low = max(self.factor, value // self.factor * self.factor)
                raise InputError(
                    f"--{name} {value} is not divisible by {self.factor}; the nearest sizes are {low} and {low + self.factor}."
                )


def build_autoencoder(
    *, patch: int = 2, channels: tuple[int, ...] = (64, 128, 192), latent_channels: int = 8, layers: int = 1
) -> FrameAutoencoder:
    """Build a fresh autoencoder without attention (fully convolutional, any size).

    Args:
        patch: Edge of the pixel blocks folded into channels.
        channels: Width of each level; every further level halves the resolution.
        latent_channels: Channels of the latents.
        layers: Residual blocks per encoder level (the decoder has one more).
    """
    config: dict[str, Any] = {
        "in_channels": 3 * patch**2,
        "out_channels": 3 * patch**2,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "mid_block_add_attention": False,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }
    return FrameAutoencoder(AutoencoderKL(**config), patch)


def load_autoencoder(directory: str | Path, patch: int = 1) -> FrameAutoencoder:
    """Load an autoencoder from a diffusers folder (`config.json` and safetensors)."""
    from kineograph.models.weights import load_diffusers

    return FrameAutoencoder(load_diffusers(AutoencoderKL, directory), patch).eval()
