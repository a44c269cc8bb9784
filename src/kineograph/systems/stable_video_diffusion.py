"""Stable Video Diffusion: a temporal block blended in after every ResNet block and every transformer block.

Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets, Blattmann et al. 2023,
arXiv:2311.15127. Read beside the authors' code at commit 0ad7de9a, `sgm/modules/diffusionmodules/video_model.py`, and
diffusers' `UNetSpatioTemporalConditionModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kineograph.diffusion.scheduler_fields import EDM_V
from kineograph.systems.card import Card, Process, Sampling, System
from kineograph.systems.image_networks import stable_diffusion_2, tiny_stable_diffusion_2
from kineograph.systems.svd_keys import diffusers_keys, original_keys
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets",
    authors="Andreas Blattmann, Tim Dockhorn, Sumith Kulal et al.",
    year=2023,
    arxiv="2311.15127",
    code="https://github.com/Stability-AI/generative-models",
    code_license="MIT",
    weights_license="Stability AI Community License",
    adds=(
        "After every ResNet block one over the frames, normalised over the clip, blended in by a learned scalar.",
        "After every transformer block one over the frames of each token, which also sees the first frame's context.",
        "The first frame enters twice: its CLIP embedding as context, its latent beside every noisy frame; frame rate, "
        "amount of motion and noise augmentation are added to the timestep embedding.",
    ),
    differs=(
        "All temporal outputs start at zero, so that a fresh network is the image network; in the authors' code some "
        "start at random.",
        "The epsilon of all norms of ResNet blocks is 1e-5 as in the authors' code; diffusers has 1e-6 in 72 of them.",
    ),
)


ENTRY = {
    "in_channels": 8,  # noisy latent and the first frame's
    "out_channels": 4,
    "class_embed_type": "projection",  # the codes of frame rate, motion bucket and noise augmentation
    "projection_class_embeddings_input_dim": 768,
}
"""What differs from Stable Diffusion 2.1's network; it attends to the CLIP ViT-H embedding of the picture."""


def _image_network(**changes: Any) -> dict[str, Any]:
    """Return the image network's arguments: Stable Diffusion 2.1's U-Net with twice the input channels."""
    return stable_diffusion_2(**({"sample_size": 96} | ENTRY | changes))


@dataclass(frozen=True)
class SVDConfig:
    """Sizes of Stable Video Diffusion.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        head_dim: Width of a temporal attention head (`num_head_channels` 64).
        num_frames: Frames it was trained at; no layer depends on it.
        mix: First value of every mix factor, whose sigmoid is the share of the image network (`merge_factor` 0.5).
        window: Frames attend to frames at most so far away; None: to all, as in SVD.
        single_frame: `"run"`: temporal blocks also see clips of one frame; `"skip"`: one frame is an image.
    """

    image: Mapping[str, Any] = field(default_factory=_image_network)
    head_dim: int = 64
    num_frames: int = 14
    mix: float = 0.5
    window: int | None = None
    single_frame: Literal["run", "skip"] = "run"


def plan(config: SVDConfig, image: Mapping[str, Any]) -> Plan:
    """Return where the temporal blocks go in an image network of the given configuration."""
    context = image.get("cross_attention_dim")
    temb = 4 * image["block_out_channels"][0] if "block_out_channels" in image else None  # a transformer shows none
    res_block = {"temb_channels": temb, "norm_groups": image["norm_num_groups"] or 32}
    video_block = {"context_channels": context, "head_dim": config.head_dim, "window": config.window}
    placements = (
        Placement("resnet", "temporal_res_block", {**res_block, "mix": config.mix}),
        Placement("transformer_block", "temporal_video_block", {**video_block, "mix": config.mix}),
    )
    return Plan(placements, single_frame=config.single_frame)


def build(config: SVDConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net, of any width, is inflated in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config, unet.config))


PRESETS = {
    "published": SVDConfig(),  # img2vid
    "xt": SVDConfig(num_frames=25),  # img2vid-xt
    "text": SVDConfig(image=_image_network(in_channels=4)),  # text-to-video, before it is finetuned on pictures
    "interpolation": SVDConfig(image=_image_network(in_channels=9), num_frames=5),  # two frames given, and a mask
    "tiny": SVDConfig(
        image=tiny_stable_diffusion_2(**(ENTRY | {"projection_class_embeddings_input_dim": 24})),
        head_dim=8,
    ),
}


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        frames: Frames per clip.
        height: Pixels.
        width: Pixels.
        iterations: Steps; None where only the order of the stages is known here.
        batch: Clips per step; None likewise.
        sigma_mean: Mean of log sigma (P_mean).
        sigma_std: Deviation of log sigma (P_std).
        given: What the network is given beside noise; it decides the channels of its input, 4, 8 or 9.
    """

    frames: int
    height: int
    width: int
    iterations: int | None
    batch: int | None
    sigma_mean: float
    sigma_std: float
    given: Literal["text", "picture", "frames"]


STAGES = {
    "pretraining-low": Stage(14, 256, 384, 150_000, 1536, 0.7, 1.6, "text"),
    "pretraining": Stage(14, 320, 576, 100_000, 768, 0.7, 1.6, "text"),
    "finetuning-picture": Stage(14, 576, 1024, None, None, 0.7, 1.6, "picture"),
    "finetuning-picture-xt": Stage(25, 576, 1024, None, None, 1.0, 1.6, "picture"),
    "interpolation": Stage(5, 576, 1024, 10_000, None, 0.7, 1.6, "frames"),
}
"""The stages as reviews of the paper (section 4, appendix D) quote them; the noise of the text stages is that of the
finetuning. No training code was released to check them against."""

STAGE_OF = {
    "published": "finetuning-picture",
    "xt": "finetuning-picture-xt",
    "text": "pretraining",
    "interpolation": "interpolation",
    "tiny": "finetuning-picture",
}
"""The stage that a preset's network is trained in."""


SOLVER = {name: value for name, value in EDM_V.items() if name not in Process(prediction="svd").fields()}
SVD = Sampling(  # scripts/sampling/configs/svd.yaml, simple_video_sample.py: `fps_id` 6 is 7 frames per second
    sampler="euler",
    steps=25,
    guidance=2.5,
    first_guidance=1.0,
    frames=14,
    fps=7,
    height=576,
    width=1024,
    solver=SOLVER,
)
SVD_XT = replace(SVD, steps=30, guidance=3.0, first_guidance=1.5, frames=25)  # svd_xt.yaml, svd_xt_1_1.yaml

SYSTEM = System(
    name="stable_video_diffusion",
    card=CARD,
    config=SVDConfig,
    presets=PRESETS,
    builder=build,
    key_maps={"diffusers": diffusers_keys, "original": original_keys},
    process=Process(prediction="svd"),  # continuous: EDM v-scaling, sigma 0.002 to 700
    sampling=SVD,
    variants={"xt": (Process(prediction="svd"), SVD_XT)},
)
