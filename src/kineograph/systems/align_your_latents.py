"""Align your Latents: temporal blocks blended into a frozen latent diffusion model, for text to video.

Align your Latents: High-Resolution Video Synthesis with Latent Diffusion Models, Blattmann et al. 2023,
arXiv:2304.08818. No code was published. The layers are Stable Video Diffusion's, whose parameter counts are those the
paper prints (656 M on Stable Diffusion 2.1, 649 M on 1.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kineograph.systems.card import Card, Process, Sampling, System
from kineograph.systems.image_networks import stable_diffusion_2, tiny_stable_diffusion_2
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="Align your Latents: High-Resolution Video Synthesis with Latent Diffusion Models",
    authors="Andreas Blattmann, Robin Rombach, Huan Ling et al.",
    year=2023,
    arxiv="2304.08818",
    code="",
    code_license="none published",
    weights_license="",
    adds=(
        "After every ResNet block one over the frames, and after every transformer block one over the frames of each "
        "token, which also attends to the text.",
        "Each is blended in by one learned scalar; with all of it on the spatial side the image model comes back.",
        "Only the temporal layers are trained; frames further apart than 8 do not attend to each other.",
    ),
    differs=(
        "Frames are told apart by Stable Video Diffusion's sinusoidal code and network; the paper does not describe "
        "its relative sinusoidal code.",
        "The mixing scalar is a sigmoid, as in Stable Video Diffusion; outputs start at zero, so it starts anywhere.",
    ),
    evidence="paper",
)


@dataclass(frozen=True)
class AlignYourLatentsConfig:
    """Sizes of Align your Latents.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        head_dim: Width of a temporal attention head.
        window: Frames attend to frames at most so far away (appendix: 8); None: to all.
        mix: First value of every mix factor, whose sigmoid is the share of the image network.
        single_frame: `"skip"`: one frame is an image, as the paper has it; `"run"`: temporal blocks also see it.
    """

    image: Mapping[str, Any] = field(default_factory=stable_diffusion_2)
    head_dim: int = 64
    window: int | None = 8
    mix: float = 0.5
    single_frame: Literal["run", "skip"] = "skip"


def plan(config: AlignYourLatentsConfig, image: Mapping[str, Any]) -> Plan:
    """Return where the temporal blocks go in an image network of the given configuration."""
    res_block = {
        # a transformer shows no timestep embedding
        "temb_channels": 4 * image["block_out_channels"][0] if "block_out_channels" in image else None,
        "norm_groups": image["norm_num_groups"] or 32,
        "mix": config.mix,
    }
    video_block = {
        "context_channels": image.get("cross_attention_dim"),
        "head_dim": config.head_dim,
        "window": config.window,
        "mix": config.mix,
    }
    placements = (
        Placement("resnet", "temporal_res_block", res_block),
        Placement("transformer_block", "temporal_video_block", video_block),
    )
    return Plan(placements, single_frame=config.single_frame)


def build(config: AlignYourLatentsConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net, of any width, is inflated in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config, unet.config))


SYSTEM = System(
    name="align_your_latents",
    card=CARD,
    config=AlignYourLatentsConfig,
    presets={
        "published": AlignYourLatentsConfig(),
        "sd1": AlignYourLatentsConfig(image={"cross_attention_dim": 768, "attention_head_dim": 8}),
        "tiny": AlignYourLatentsConfig(
            image=tiny_stable_diffusion_2(),
            head_dim=8,
        ),
    },
    builder=build,
    process=Process(schedule="linear"),  # appendix, table of hyperparameters: linear, 1000 steps
    sampling=Sampling(frames=8, height=320, width=512),
)
