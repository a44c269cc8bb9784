"""AnimateDiff: a motion module after every (ResNet, attention) pair of any Stable Diffusion checkpoint.

AnimateDiff: Animate Your Personalized Text-to-Image Diffusion Models without Specific Tuning, Guo et al. 2023,
arXiv:2307.04725. Read beside the authors' code at commit e92bd567, `animatediff/models/motion_module.py`, and
diffusers' `UNetMotionModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kineograph.systems.card import STABLE_DIFFUSION_DDIM, Card, Process, Sampling, System
from kineograph.systems.image_networks import STABLE_DIFFUSION_XL, stable_diffusion_1, tiny_stable_diffusion_1
from kineograph.systems.keys import ATTENTION_KEYS, TRANSFORMER_KEYS, KeyMap, PositionTable, motion_module_places, nest
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="AnimateDiff: Animate Your Personalized Text-to-Image Diffusion Models without Specific Tuning",
    authors="Yuwei Guo, Ceyuan Yang, Anyi Rao et al.",
    year=2023,
    arxiv="2307.04725",
    code="https://github.com/guoyww/AnimateDiff",
    code_license="Apache-2.0",
    weights_license="Apache-2.0",
    adds=(
        "After every pair of ResNet block and attention a motion module: two self-attentions over the frames of each "
        "position with a sinusoidal code, and a feed-forward network; its output projection is zero at first.",
        "Only the motion modules are trained, on video; they then move any checkpoint of the same image model.",
        "Version 2 also has one in the middle block; version 1 takes the image network's group norms over the clip.",
    ),
    differs=(
        "The motion module's entry norm is per frame, as in the authors' code; diffusers takes it over the clip, which "
        'here is `motion_norm="clip"`.',
    ),
)


@dataclass(frozen=True)
class AnimateDiffConfig:
    """Sizes and versions of AnimateDiff.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        max_frames: Frames the position code tells apart (v1: 24; later: 32).
        num_heads: Heads of a motion module (configs/inference/inference-v1.yaml: 8).
        depth: Transformer blocks of a motion module (1).
        norm_groups: Groups of a motion module's entry norm (32, whatever the image network has).
        middle: Also one motion module in the middle block (v2).
        motion_norm: Entry norm of a motion module: `"frame"` as in the authors' code, `"clip"` as in diffusers.
        spatial_norm: Group norms of the image network: `"clip"` in v1 (`use_inflated_groupnorm: false`), later
            `"frame"`.
        single_frame: `"run"`: motion modules also see clips of one frame; `"skip"`: one frame is an image.
    """

    image: Mapping[str, Any] = field(default_factory=stable_diffusion_1)
    max_frames: int = 32
    num_heads: int = 8
    depth: int = 1
    norm_groups: int = 32
    middle: bool = False
    motion_norm: Literal["frame", "clip"] = "frame"
    spatial_norm: Literal["frame", "clip"] = "frame"
    single_frame: Literal["run", "skip"] = "run"


def plan(config: AnimateDiffConfig) -> Plan:
    """Return where the motion modules go."""
    options = {
        "num_heads": config.num_heads,
        "head_dim": None,
        "depth": config.depth,
        "norm_groups": config.norm_groups,
        "norm_over": config.motion_norm,
        "max_frames": config.max_frames,
    }
    parts = ("down", "mid", "up") if config.middle else ("down", "up")
    module = Placement("pair", "temporal_transformer", options, parts)
    return Plan((module,), single_frame=config.single_frame, spatial_norm=config.spatial_norm)


def build(config: AnimateDiffConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net, of any width, gets motion modules in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config))


PRESETS = {
    "v3": AnimateDiffConfig(),
    "v2": AnimateDiffConfig(middle=True),
    "v1": AnimateDiffConfig(max_frames=24, spatial_norm="clip"),
    "sdxl": AnimateDiffConfig(image=STABLE_DIFFUSION_XL),
    "tiny": AnimateDiffConfig(
        image=tiny_stable_diffusion_1(),
        num_heads=4,
        middle=True,
    ),
}


def diffusers_keys(image: Mapping[str, Any], max_frames: int = 32) -> KeyMap:
    """Return the map between diffusers' `MotionAdapter` or `UNetMotionModel` and ours."""
    return KeyMap(
        pairs=nest(motion_module_places(image), TRANSFORMER_KEYS),
        tables=(PositionTable("norm1.weight", "pos_embed.pe", max_frames, inside="motion_modules."),),
        what="UNetMotionModel",
    )


ORIGINAL_NAMES = (
    *nest([("transformer_blocks.{n}.norms.", "blocks.{n}.norm")], [("0.", "1."), ("1.", "2.")]),
    ("transformer_blocks.{n}.ff_norm.", "blocks.{n}.norm3."),
    *nest(
        [("transformer_blocks.{n}.attention_blocks.", "blocks.{n}.attend")],
        nest(
            [("0.", "1."), ("1.", "2.")],
            ATTENTION_KEYS,
        ),
    ),
    *TRANSFORMER_KEYS,
)
"""What motion_module.py calls the weights of a motion module."""


def original_keys(image: Mapping[str, Any], max_frames: int = 32) -> KeyMap:
    """Return the map between the authors' motion module files, which ComfyUI's nodes also read, and ours."""
    places = [(theirs + "temporal_transformer.", ours) for theirs, ours in motion_module_places(image)]
    return KeyMap(
        pairs=nest([*places, *((f"module.{theirs}", ours) for theirs, ours in places)], ORIGINAL_NAMES),
        tables=(PositionTable("to_q.weight", "pos_encoder.pe", max_frames),),
        what="AnimateDiff motion module",
    )


DDIM = {**STABLE_DIFFUSION_DDIM, "set_alpha_to_one": True}
"""scripts/animate.py with configs/inference/inference-v1.yaml, -v2 and -v3, whatever the image model's sampler is."""
EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}
"""scripts/animate.py of the branch `sdxl` (8d191074)."""
XL_PROCESS = Process(schedule="scaled_linear", beta_end=0.020)  # configs/inference/inference.yaml of that branch
XL_SAMPLING = Sampling(  # configs/prompts/1-original_sdxl.yaml
    sampler="euler", steps=100, guidance=8.5, height=1024, width=1024, solver=EULER
)

SYSTEM = System(
    name="animatediff",
    card=CARD,
    config=AnimateDiffConfig,
    presets=PRESETS,
    builder=build,
    key_maps={"diffusers": diffusers_keys, "original": original_keys},
    process=Process(schedule="linear"),  # configs/training/v1/training.yaml: linear, 0.00085 to 0.012
    sampling=Sampling(steps=25, guidance=8.0, height=512, width=512, solver=DDIM),  # configs/prompts/1_animate
    variants={"sdxl": (XL_PROCESS, XL_SAMPLING)},
)
