"""Show-1: ModelScopeT2V's temporal layers in a pixel diffusion cascade, then in a latent one.

Show-1: Marrying Pixel and Latent Diffusion Models for Text-to-Video Generation, Zhang et al. 2023, arXiv:2309.15818.
Read beside the authors' code at commit 35a71b6b, `showone/models`. The networks are here; the cascade is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kineograph.systems.card import Card, Process, Sampling, System
from kineograph.systems.modelscope import diffusers_keys
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="Show-1: Marrying Pixel and Latent Diffusion Models for Text-to-Video Generation",
    authors="David Junhao Zhang, Jay Zhangjie Wu, Jia-Wei Liu et al.",
    year=2023,
    arxiv="2309.15818",
    code="https://github.com/showlab/Show-1",
    code_license="CC BY-NC 4.0",
    weights_license="CC BY-NC 4.0",
    adds=(
        "DeepFloyd-IF's pixel networks get ModelScopeT2V's layers: a temporal convolution after every ResNet block and "
        "a temporal transformer after every attention.",
        "The last network works on latents and is ModelScopeT2V's. Only the networks are here: the authors' cascade, "
        "which makes key frames and then frames between them in pixels of 64 by 40, is not.",
    ),
    differs=(
        "All temporal outputs start at zero, so that a fresh network is the image network; in the authors' code, "
        "built on diffusers, the last projection of a temporal transformer starts at random.",
        "The configurations of the released weights were not at hand: the pixel presets have the sizes of "
        "DeepFloyd-IF-I-L (0.94 B), which with these layers make 1.73 B.",
    ),
    evidence="compared",
)


def deepfloyd(**changes: Any) -> dict[str, Any]:
    """Return the arguments of DeepFloyd-IF-I-L's U-Net, four times the base width of 320 at the lowest level."""
    published = {
        "sample_size": 64,
        "in_channels": 3,
        "out_channels": 6,  # noise and the learned share of the variance
        "block_out_channels": (320, 640, 960, 1280),
        "layers_per_block": 3,
        "attention_head_dim": 64,
        "cross_attention_dim": 1280,
        "encoder_hid_dim": 4096,  # T5-XXL
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 64,
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    }
    return published | changes


def latent(**changes: Any) -> dict[str, Any]:
    """Return the arguments of the latent stage's U-Net, that of Stable Diffusion 2.1."""
    heads = (5, 10, 20, 20)  # diffusers' name for the number of heads is attention_head_dim
    return {"attention_head_dim": heads, "cross_attention_dim": 1024, "use_linear_projection": True} | changes


@dataclass(frozen=True)
class Show1Config:
    """Sizes of a network of Show-1.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        num_heads: Heads of the temporal transformers, whatever the width. In the pixel networks it is what the image
            network calls its head *width*, 64 (`unet_3d_blocks.py` hands it over as the number). None: `head_dim`.
        head_dim: Width of a head where `num_heads` is None.
        input_heads: Heads of the transformer after the first convolution; 0 omits it, as the pixel networks do.
        conv_dropout: Dropout inside a temporal convolution (0.1).
        single_frame: `"run"`: temporal layers also see clips of one frame; `"skip"`: one frame is an image.
    """

    image: Mapping[str, Any] = field(default_factory=deepfloyd)
    num_heads: int | None = 64
    head_dim: int = 64
    input_heads: int = 0
    conv_dropout: float = 0.1
    single_frame: Literal["run", "skip"] = "run"


def plan(config: Show1Config, norm_groups: int) -> Plan:
    """Return where the temporal layers go."""
    heads = {"num_heads": config.num_heads, "head_dim": None if config.num_heads else config.head_dim}
    entry = {"norm_groups": norm_groups, "num_heads": config.input_heads, "head_dim": config.head_dim}
    first = (Placement("conv_in", "temporal_transformer", entry),) if config.input_heads else ()
    convolution = {"norm_groups": 32, "dropout": config.conv_dropout}  # diffusers' TemporalConvLayer has 32 always
    return Plan(
        placements=(
            *first,
            Placement("resnet", "temporal_convolution", convolution),
            Placement("attention", "temporal_transformer", {"norm_groups": norm_groups, **heads}),
        ),
        single_frame=config.single_frame,
    )


def build(config: Show1Config, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net, of any width, is inflated in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config, norm_groups=unet.config["norm_num_groups"] or 32))


PRESETS = {
    "base": Show1Config(),
    "interpolation": Show1Config(image=deepfloyd(in_channels=7)),  # noisy, interpolated ends, mask
    "latent": Show1Config(image=latent(), num_heads=None, input_heads=8),
    "tiny": Show1Config(
        image=deepfloyd(
            sample_size=8,
            in_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=32,
            encoder_hid_dim=32,
            addition_embed_type_num_heads=4,
            down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
            up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
        ),
        num_heads=8,
    ),
}

SYSTEM = System(
    name="show1",
    card=CARD,
    config=Show1Config,
    presets=PRESETS,
    builder=build,
    key_maps={"diffusers": diffusers_keys},  # the authors' folders have the names of UNet3DConditionModel
    process=Process(schedule="cosine", beta_start=0.0001, beta_end=0.02),  # IF: squaredcos_cap_v2, learned variance
    sampling=Sampling(sampler="ddpm", steps=75, guidance=9.0, frames=8, fps=2, height=40, width=64),  # run_inference.py
)
