"""Text2Video-Zero: an image model makes a clip without training; every frame looks at the first.

Text2Video-Zero: Text-to-Image Diffusion Models are Zero-Shot Video Generators, Khachatryan et al. 2023,
arXiv:2303.13439. Read beside the authors' code at commit fd76734e, `text_to_video_pipeline.py`, and diffusers'
`TextToVideoZeroPipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from kineograph.systems.card import Card, Sampling, System
from kineograph.systems.image_networks import stable_diffusion_1, tiny_stable_diffusion_1
from kineograph.temporal.plan import Plan, Source

if TYPE_CHECKING:
    from torch import Tensor

    from kineograph.diffusion.denoiser import Denoiser
    from kineograph.diffusion.levels import Levels
    from kineograph.diffusion.samplers import Step
    from kineograph.diffusion.schedule import Schedule
    from kineograph.models.video_unet import VideoUNet

PUBLISHED_STEPS = 50
CARD = Card(
    title="Text2Video-Zero: Text-to-Image Diffusion Models are Zero-Shot Video Generators",
    authors="Levon Khachatryan, Andranik Movsisyan, Vahram Tadevosyan et al.",
    year=2023,
    arxiv="2303.13439",
    code="https://github.com/Picsart-AI-Research/Text2Video-Zero",
    code_license="CreativeML Open RAIL-M",
    weights_license="that of the image model",
    adds=(
        "Self-attention takes its keys and values from the first frame.",
        "The frames start from one half-denoised latent, moved a little further for each frame and noised again.",
        "No weights and no training: any image model, also with ControlNet.",
    ),
    differs=(
        "Background smoothing takes masks from the caller: the authors' saliency model is not part of it.",
        "The authors' demonstration adds words to every prompt (`model.py`, `added_prompt`); here it is as typed.",
    ),
)


@dataclass(frozen=True)
class Text2VideoZeroConfig:
    """Settings of Text2Video-Zero.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        sources: Frames that self-attention looks at.
        motion: Pixels right and down per frame, in a square of 512 (text_to_video_pipeline.py: 12, 12).
        moved_at: Denoising steps left when the latent is moved (diffusers' t0, of 50 steps: 44).
        noised_to: Denoising steps left after it is noised again (diffusers' t1: 47).
        smoothing: Share of the moved first frame in the background (text_to_video_pipeline.py, `smooth_bg_strength`).
    """

    image: Mapping[str, Any] = field(default_factory=stable_diffusion_1)
    sources: tuple[Source, ...] = ("first",)
    motion: tuple[float, float] = (12.0, 12.0)
    moved_at: int = 44
    noised_to: int = 47
    smoothing: float = 0.4


def build(config: Text2VideoZeroConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network: the image network with other attention processors, in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, Plan((), self_attention=config.sources))


def moving_latents(
    latent: Tensor, num_frames: int, config: Text2VideoZeroConfig, remaining: float, noise: Tensor
) -> Tensor:
    """Make the latents of the other frames from the first's: move it for each, then noise them again (eq. 7 to 10).

    Args:
        latent: Latent at the cleaner level `moved_at`, `(batch, 1, channels, height, width)`.
        num_frames: Frames per clip.
        config: The motion.
        remaining: Share of variance kept from the cleaner to the noisier level: the quotient of their `alphas_cumprod`.
        noise: Standard normal `(batch, num_frames - 1, channels, height, width)`.

    Returns:
        Latents at the noisier level of frames 1 to `num_frames - 1`; the first frame keeps the latent it had there.
    """
    from kineograph.temporal.motion_field import translations, warp

    repeated = latent.expand(-1, num_frames - 1, -1, -1, -1)
    moved = warp(repeated, translations(num_frames, config.motion, latent.device)[1:])
    return remaining**0.5 * moved + (1 - remaining) ** 0.5 * noise


def smooth_background(x: Tensor, masks: Tensor, config: Text2VideoZeroConfig) -> Tensor:
    """Mix the moved first frame into what lies outside the masks (arXiv:2303.13439, eq. 12), at any noise level.

    Args:
        x: Latents `(batch, frames, channels, height, width)`.
        masks: 1 on what is to stay as it is, 0 on background, `(batch, frames, 1, height, width)`.
        config: The motion and the strength.
    """
    from kineograph.temporal.motion_field import translations, warp

    moved = warp(x[:, :1].expand_as(x), translations(x.shape[1], config.motion, x.device))
    return masks * x + (1 - masks) * (config.smoothing * moved + (1 - config.smoothing) * x)


def stages(steps: int, config: Text2VideoZeroConfig) -> tuple[int, int]:
    """Return after how many of the steps the frames part, and after how many, one more at least, the first is moved."""
    parted, moved = (round(steps * (1 - (left + 1) / PUBLISHED_STEPS)) for left in (config.noised_to, config.moved_at))
    return parted, max(moved, parted + 1)


def sample(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    noise: Tensor,
    config: Text2VideoZeroConfig | None = None,
    *,
    schedule: Schedule | None = None,
    masks: Tensor | None = None,
    still: Tensor | None = None,
    above: float = 0.0,
    callback: Callable[[Step], None] | None = None,
) -> Tensor:
    """Make a clip from the noise of its first frame (arXiv:2303.13439, algorithm 1), by DDIM.

    The first frame is denoised alone; a few steps on its latent is moved for each later frame and noised back; then all
    frames are denoised together, looking at the first. A draft of the first frame is moved as its latent is.

    Args:
        denoiser: The network of `build`, with guidance; a ControlNet enters here.
        x: Noise of the first frame, `(batch, 1, channels, height, width)`.
        levels: From noise to data; variance-preserving.
        noise: Standard normal for the later frames, `(batch, frames - 1, channels, height, width)`.
        config: Motion and stages; None takes the published ones.
        schedule: Process of the levels, to noise again as the authors do; None: by the quotient of the two levels.
        masks: Foreground, `(batch, frames, 1, height, width)`, for background smoothing; None leaves it out.
        still: Draft of the first frame, `(batch, 1, channels, height, width)`, that takes the noisiest steps; None:
            the denoiser takes all.
        above: Time from which the draft stands, itself included.
        callback: Called after each step.

    Returns:
        Latents `(batch, frames, channels, height, width)`.
    """
    import torch

    from kineograph.diffusion.samplers import ddim

    config = config or Text2VideoZeroConfig()
    parted, moved = stages(len(levels), config)
    told = counted(callback, moved + len(levels) - parted)
    alone, together = drafted(denoiser, still, above, noise.shape[1] + 1, config)
    first = ddim(alone, x, levels.part(0, parted), callback=told) if parted else x
    later = ddim(alone, first, levels.part(parted, moved), callback=told)
    remaining = (levels.alpha[parted] / levels.alpha[moved]) ** 2
    if schedule is not None:  # text_to_video_pipeline.py, `DDPM_forward`: the cleaner timestep's alpha counts
        remaining = schedule.product_of_alphas(int(levels.t[moved]), int(levels.t[parted]))
    clip = torch.cat([first, moving_latents(later, noise.shape[1] + 1, config, remaining, noise)], dim=1)
    if masks is None:
        return ddim(together, clip, levels.part(parted, len(levels)), callback=told)
    for i in range(parted, len(levels)):
        clip = smooth_background(ddim(together, clip, levels.part(i, i + 1), callback=told), masks, config)
    return clip


def drafted(
    denoiser: Denoiser, still: Tensor | None, above: float, num_frames: int, config: Text2VideoZeroConfig
) -> tuple[Denoiser, Denoiser]:
    """Return the denoisers of the first frame and of all, with a draft in their noisiest steps where there is one."""
    from kineograph.diffusion.denoiser import KnownWhenNoisy
    from kineograph.temporal.motion_field import translations, warp

    if still is None:
        return denoiser, denoiser
    seen = warp(still.expand(-1, num_frames, -1, -1, -1), translations(num_frames, config.motion, still.device))
    return KnownWhenNoisy(denoiser, still, above), KnownWhenNoisy(denoiser, seen, above)


def counted(callback: Callable[[Step], None] | None, total: int) -> Callable[[Step], None] | None:
    """Return a callback that counts the steps of all stages as those of one loop."""
    if callback is None:
        return None
    steps = count()
    return lambda step: callback(replace(step, i=next(steps), num_steps=total))


SYSTEM = System(
    name="text2video_zero",
    card=CARD,
    config=Text2VideoZeroConfig,
    presets={
        "published": Text2VideoZeroConfig(),
        "tiny": Text2VideoZeroConfig(image=tiny_stable_diffusion_1()),
    },
    builder=build,
    sampling=Sampling(steps=50, guidance=7.5, frames=8, fps=4, height=512, width=512),
    starts_as_image=False,
    sampler=sample,
)
