"""An image-to-video model in one piece, and the one way its network's inputs are prepared.

Stable Video Diffusion, Blattmann et al. 2023, arXiv:2311.15127, appendix D. What the network knows of the picture: its
CLIP embedding as context, its slightly noised latent beside every noisy frame, and three numbers added to the timestep
embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from kineograph.diffusion.denoiser import Denoiser
from kineograph.diffusion.noise import ClipGenerators
from kineograph.diffusion.objective import normal
from kineograph.diffusion.scheduler_config import read
from kineograph.diffusion.scheduler_fields import EDM_V
from kineograph.errors import InputError
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.models.image_encoder import ImageEncoder
from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.position import scalar_waves

AUGMENTATION_STREAM = 2  # of a clip's seed: 0 is the first noise, 1 that of the steps
NUMBERS = 3  # that the network is told: frames per second, motion bucket, deviation of the picture's noise
Given = Literal["text", "picture", "frames"]


@dataclass(frozen=True, kw_only=True)
class ImageToVideoSettings:
    """How a model wants to be used."""

    name: str = "image-to-video"
    """What the model is called in messages and in the metadata of its clips."""
    height: int = 576
    """Height it was trained at, in pixels."""
    width: int = 1024
    """Width it was trained at, in pixels."""
    num_frames: int = 14
    """Frames it was trained at."""
    fps: int = 7
    """Frames per second asked of the network and written into the clip; trained from 6 to 30."""
    motion_bucket_id: int = 127
    """Amount of motion, 0 to 255."""
    noise_aug_strength: float = 0.02
    """Deviation of the noise added to the picture, in pixels of [-1, 1]."""
    num_inference_steps: int = 25
    """Default steps."""
    min_guidance_scale: float = 1.0
    """Guidance at the first frame."""
    max_guidance_scale: float = 3.0
    """Guidance at the last frame."""
    decode_chunk_size: int = 14
    """Frames decoded at once, which see each other (scripts/sampling/simple_video_sample.py, `decoding_t`)."""
    wave_channels: int = 256
    """Width of the code of each of the three numbers."""
    given: Given = "picture"
    """What the clip is made from: a picture, or the frames that others are made between."""
    licence: str = ""
    """Licence of the weights, shown when they are loaded."""
    scheduler: dict[str, Any] = field(default_factory=lambda: dict(EDM_V))
    """The process, as a diffusers scheduler configuration."""


@dataclass(frozen=True)
class ImageCondition:
    """What the network is told beside the noisy latents.

    Attributes:
        context: CLIP embeddings of the pictures `(batch, 1, channels)`; for text-to-video the tokens of the text.
        latents: What stands beside the noisy latents, `(batch, frames, c, h, w)`: the raw latents of the noised
            pictures, the same for every frame; for interpolation `masked_frames`; None for text-to-video.
        codes: `(batch, 3)`: frames per second - 1, motion bucket, deviation of the picture's noise.
    """

    context: Tensor
    latents: Tensor | None
    codes: Tensor

    def unconditional(self) -> ImageCondition:
        """Return the same without the picture: zeros for embedding and latents, the numbers stay."""
        latents = None if self.latents is None else torch.zeros_like(self.latents)
        return replace(self, context=torch.zeros_like(self.context), latents=latents)

    @classmethod
    def of_text(cls, tokens: Tensor, fps: Sequence[float], motion_bucket_id: Sequence[float]) -> ImageCondition:
        """Return what a text-to-video network is told: tokens `(batch, length, channels)`, and no picture's noise."""
        return cls(tokens, None, told_numbers(fps, motion_bucket_id, [0.0] * len(tokens)).to(tokens.device))

    def dropped(self, clips: Tensor) -> ImageCondition:
        """Return the condition without the pictures of the clips where `(batch,)` is True (training)."""
        nothing = self.unconditional()
        context = torch.where(rearrange(clips, "b -> b 1 1"), nothing.context, self.context)
        if self.latents is None or nothing.latents is None:
            return replace(self, context=context)
        return replace(
            self,
            context=context,
            latents=torch.where(rearrange(clips, "b -> b 1 1 1 1"), nothing.latents, self.latents),
        )


class ConditionedNetwork(nn.Module):
    """A video network whose one condition is an `ImageCondition`; training and sampling both call it.

    Args:
        network: Takes noisy and picture latents, side by side in the channels.
        wave_channels: Width of the code of each number.
    """

    def __init__(self, network: VideoUNet, wave_channels: int = 256) -> None:
        super().__init__()
        self.network, self.wave_channels = network, wave_channels

    def forward(self, x: Tensor, told: Any, condition: ImageCondition) -> Tensor:
        """Predict v on scaled noisy latents `(batch, frames, c, h, w)`.

        Args:
            x: Already multiplied by c_in.
            told: log(sigma) / 4, one number or `(batch,)`.
            condition: What is known of the picture.
        """
        dtype = self.network.dtype
        both = (x if condition.latents is None else torch.cat([x, condition.latents.to(x)], dim=2)).to(dtype)
        codes = scalar_waves(condition.codes, self.wave_channels).to(dtype)
        return self.network(both, told, condition.context.to(dtype), class_labels=codes)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward instead of keeping them."""
        self.network.enable_gradient_checkpointing()


class ImageToVideoModel:
    """The parts of a latent model that makes clips from a picture, or the frames between given ones.

    Args:
        network: Predicts on latents of `input_channels`, noisy ones and beside them what is given.
        autoencoder: Between pixels and latents; Stable Video Diffusion's is a `TemporalAutoencoder`.
        image_encoder: From pictures to tokens.
        settings: How it wants to be used.
    """

    def __init__(
        self,
        network: VideoUNet,
        autoencoder: FrameAutoencoder,
        image_encoder: ImageEncoder,
        settings: ImageToVideoSettings,
    ) -> None:
        wanted = input_channels(settings.given, autoencoder.latent_channels)
        if network.config["in_channels"] != wanted:
            raise InputError(
                f"A network that is given {_GIVEN_WORDS[settings.given]} beside noisy latents takes {wanted} channels; "
                f"this one takes {network.config['in_channels']}. widen_input(network, {wanted}) turns a text-to-video "
                "network into one to be finetuned."
            )
        self.network, self.autoencoder, self.image_encoder = network, autoencoder, image_encoder
        self.settings = settings
        self.plan = read(settings.scheduler)
        self.conditioned = ConditionedNetwork(network, settings.wave_channels)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    def to(self, device: torch.device | str) -> ImageToVideoModel:
        """Move all parts."""
        for part in (self.network, self.autoencoder, self.image_encoder):
            part.to(device)
        return self

    def denoiser(self) -> Denoiser:
        """Return the network behind the one protocol of the samplers; its condition is an `ImageCondition`."""
        return self.plan.denoiser(self.conditioned)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (frames, channels, height, width) of the latents of a clip.

        Raises:
            InputError: The size does not fit the latent grid, or the number of frames is below 1.
        """
        return clip_shape(self.autoencoder, num_frames, height, width)

    def condition(
        self,
        images: Tensor,
        num_frames: int,
        *,
        noise: Tensor,
        fps: Sequence[float] | Tensor,
        motion_bucket_id: Sequence[float] | Tensor,
        noise_aug_strength: Sequence[float] | Tensor,
        pictures: Tensor | None = None,
    ) -> ImageCondition:
        """Encode pictures for the network.

        Args:
            images: First frames `(batch, 3, height, width)` in [-1, 1], in the size of the clip.
            num_frames: Frames of the clip.
            noise: Standard normal, of the shape of `images`.
            fps: Frames per second, one for each clip.
            motion_bucket_id: Amount of motion, 0 to 255.
            noise_aug_strength: Deviation of the picture's noise.
            pictures: What CLIP sees in place of `images`, `(batch, 3, any, any)`; a larger original keeps more.

        Raises:
            InputError: A number is out of range, or the size does not fit the latent grid.
        """
        codes = told_numbers(fps, motion_bucket_id, noise_aug_strength)
        strength = rearrange(codes[:, 2], "b -> b 1 1 1").to(images)
        latents = self.autoencoder.encode_mode((images + strength * noise).to(self.autoencoder.vae.dtype))
        return ImageCondition(
            self.image_encoder(images if pictures is None else pictures),
            repeat(latents, "b c h w -> b f c h w", f=num_frames),
            codes.to(images.device),
        )

    def between(
        self,
        latents: Tensor,
        pictures: Tensor,
        *,
        fps: Sequence[float] | Tensor,
        motion_bucket_id: Sequence[float] | Tensor,
    ) -> ImageCondition:
        """Tell the network two frames, between which it makes others.

        Args:
            latents: Scaled latents of clips `(batch, frames, c, h, w)`, of which the first and last frame are read.
            pictures: The first frames `(batch, 3, any, any)` in [-1, 1], for the image encoder.
            fps: Frames per second of the clips with the frames between, one for each clip.
            motion_bucket_id: Amount of motion, 0 to 255.

        Raises:
            InputError: A number is out of range.
        """
        codes = told_numbers(fps, motion_bucket_id, [0.0] * len(latents))
        known = ends(latents.shape[1], latents.device)
        return ImageCondition(self.image_encoder(pictures), masked_frames(latents, known), codes.to(latents.device))


_GIVEN_WORDS = {"text": "nothing", "picture": "a picture", "frames": "two frames and a mask"}


def input_channels(given: Given, latent_channels: int) -> int:
    """Return the channels of a network's input: the noisy latents, and beside them what is given."""
    return {"text": latent_channels, "picture": 2 * latent_channels, "frames": 2 * latent_channels + 1}[given]


def clip_shape(autoencoder: FrameAutoencoder, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return (frames, channels, height, width) of the latents of a clip.

    Raises:
        InputError: The size does not fit the latent grid, or the number of frames is below 1.
    """
    if num_frames < 1:
        raise InputError(f"--num-frames must be at least 1, not {num_frames}.")
    autoencoder.check_size(height, width)
    return num_frames, autoencoder.latent_channels, height // autoencoder.factor, width // autoencoder.factor


def told_numbers(
    fps: Sequence[float] | Tensor,
    motion_bucket_id: Sequence[float] | Tensor,
    noise_aug_strength: Sequence[float] | Tensor,
) -> Tensor:
    """Return the three numbers as the network is told them, `(batch, 3)`.

    Raises:
        InputError: One is out of range.
    """
    given = (fps, motion_bucket_id, noise_aug_strength)
    codes = torch.stack([torch.as_tensor(values, dtype=torch.float32) for values in given], 1)
    _check_codes(codes)
    codes[:, 0] -= 1  # the network was told fps - 1 in training (diffusers' pipeline; sgm's `fps_id`)
    return codes


def _check_codes(codes: Tensor) -> None:
    """Refuse numbers that the network was never told."""
    for name, column, low, high in (
        ("--fps", 0, 1, 120),
        ("--motion-bucket-id", 1, 0, 255),
        ("--noise-aug-strength", 2, 0, 10),
    ):
        for value in codes[:, column].tolist():
            if not low <= value <= high:
                raise InputError(f"{name} must be from {low} to {high}, not {value:g}.")


def augmentation_noise(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the noise that is added to pictures, one stream of each clip's seed; the shape of `images`."""
    return ClipGenerators(seeds, AUGMENTATION_STREAM)(images)


def training_augmentation(u: Tensor, mean: float = -3.0, std: float = 0.5) -> Tensor:
    """Turn uniform numbers into deviations of the picture's noise for training.

    Source: Blattmann et al. 2023, arXiv:2311.15127, appendix D: log sigma ~ N(-3.0, 0.5**2).
    """
    return normal(u, mean, std).exp()


# --- Other forms of the network ------------------------------------------------------------------------------------


def widen_input(network: VideoUNet, in_channels: int) -> VideoUNet:
    """Give a network more input channels, in place, whose weights start at zero: it stays what it was.

    The step from text-to-video pretraining to finetuning on pictures (8 channels) or on interpolation (9).

    Args:
        network: A network of fewer channels.
        in_channels: How many it takes afterwards; the new ones come last.

    Raises:
        InputError: It already has as many or more.
    """
    conv = network.unet.conv_in
    if in_channels <= conv.in_channels:
        raise InputError(f"The network already takes {conv.in_channels} channels; more than that, not {in_channels}.")
    wider = nn.Conv2d(in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    wider = wider.to(conv.weight)
    with torch.no_grad():
        wider.weight.zero_()[:, : conv.in_channels] = conv.weight
        if wider.bias is not None and conv.bias is not None:
            wider.bias.copy_(conv.bias)
    network.unet.conv_in = wider
    network.unet.register_to_config(in_channels=in_channels)
    return network


def masked_frames(latents: Tensor, known: Tensor) -> Tensor:
    """Return the condition of prediction and interpolation: known frames and a mask, beside the noisy latents.

    Source: Blattmann et al. 2023 (Align your Latents), arXiv:2304.08818, section 3.2: `(m * z, m)`; Stable Video
    Diffusion, section 4.4, predicts three frames between two with it, so a clip is 5 frames, the first and last known.

    Args:
        latents: `(batch, frames, c, h, w)`, scaled; what is not known is not read.
        known: True where a frame is given, bool `(batch, frames)` or `(frames,)`.

    Returns:
        `(batch, frames, c + 1, h, w)`.
    """
    mask = rearrange(known.expand(latents.shape[:2]), "b f -> b f 1 1 1").to(latents)
    plane = mask.expand(-1, -1, -1, *latents.shape[-2:])
    return torch.cat([torch.where(mask.bool(), latents, torch.zeros_like(latents)), plane], dim=2)


def ends(num_frames: int, device: torch.device | None = None) -> Tensor:
    """Return the mask `(num_frames,)` of a clip whose first and last frame are known."""
    place = torch.arange(num_frames, device=device)
    return (place == 0) | (place == num_frames - 1)


def interpolate(
    sample: Callable[[Tensor, Tensor, int], Tensor], latents: Tensor, noise: Tensor, between: int = 3
) -> Tensor:
    """Make the frames between given ones with a network that was trained on `masked_frames`.

    Args:
        sample: `sample(noise, gap, left) -> latents` runs the sampler on one gap, a clip of `between + 2` frames whose
            first and last are given and the others zero; `left` is the place of its first frame among the given ones.
        latents: Given frames `(batch, frames, c, h, w)`, scaled.
        noise: Standard normal `(batch, between + 2, c, h, w)`; every gap starts from the same, so that neighbouring
            gaps move alike.
        between: Frames made inside each pair (SVD: 3, four times the rate).

    Returns:
        `(batch, (frames - 1) * (between + 1) + 1, c, h, w)`; the given frames are kept exactly.

    Raises:
        InputError: There is no gap, nothing to make, or the noise has another length.
    """
    if latents.shape[1] < 2 or between < 1 or noise.shape[1] != between + 2:
        raise InputError(
            f"Interpolation makes at least one frame between two, from noise of between + 2 frames; got "
            f"{latents.shape[1]} frames, between={between} and noise of {noise.shape[1]}."
        )
    parts = []
    for left in range(latents.shape[1] - 1):
        gap = torch.zeros_like(noise)
        gap[:, 0], gap[:, -1] = latents[:, left], latents[:, left + 1]
        made = sample(noise, gap, left)
        parts += [latents[:, left : left + 1], made[:, 1:-1]]
    return torch.cat([*parts, latents[:, -1:]], dim=1)
