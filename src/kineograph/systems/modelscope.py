"""ModelScopeT2V: a temporal convolution after every ResNet block, a temporal transformer after every attention.

ModelScope Text-to-Video Technical Report, Wang et al. 2023, arXiv:2308.06571. Read beside the authors' code,
`modelscope/models/multi_modal/video_synthesis/unet_sd.py` at commit 2905da12, and diffusers' `UNet3DConditionModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kineograph.systems.card import Card, Sampling, System
from kineograph.systems.image_networks import stable_diffusion_2, tiny_stable_diffusion_2
from kineograph.systems.keys import CONVOLUTION_KEYS, TRANSFORMER_KEYS, KeyMap, nest
from kineograph.systems.ldm_keys import ldm_places
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="ModelScope Text-to-Video Technical Report",
    authors="Jiuniu Wang, Hangjie Yuan, Dayou Chen et al.",
    year=2023,
    arxiv="2308.06571",
    code="https://github.com/modelscope/modelscope",
    code_license="Apache-2.0",
    weights_license="CC-BY-NC-4.0",
    adds=(
        "After every ResNet block four (3, 1, 1) convolutions, normalised over the whole clip, the last zero at first.",
        "After every spatial attention a transformer over the frames of each position, without position code.",
        "One more such transformer, 8 heads of 64, right after the first convolution.",
    ),
    differs=("The image switches of the authors' training code are one setting here, `single_frame`.",),
)

IMAGE = stable_diffusion_2(sample_size=32)  # 256 pixels, eight to a latent


@dataclass(frozen=True)
class ModelScopeConfig:
    """Sizes of ModelScopeT2V.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        head_dim: Width of a temporal attention head (unet_sd.py: `num_head_channels` 64).
        width: Inner width of the temporal transformers as a share of the channels (1 in the paper).
        input_heads: Heads, each `head_dim` wide, of the transformer after the first convolution (unet_sd.py: 8); 0
            omits it.
        conv_depth: Stages of a temporal convolution (unet_sd.py `TemporalConvBlock_v2`: 4).
        conv_dropout: Dropout between those stages (unet_sd.py: 0.1).
        single_frame: `"run"`: temporal layers also see clips of one frame, as in the released model; `"skip"`: one
            frame is an image and passes them by.
    """

    image: Mapping[str, Any] = field(default_factory=lambda: IMAGE)
    head_dim: int = 64
    width: float = 1.0
    input_heads: int = 8
    conv_depth: int = 4
    conv_dropout: float = 0.1
    single_frame: Literal["run", "skip"] = "run"


def plan(config: ModelScopeConfig, norm_groups: int) -> Plan:
    """Return where ModelScopeT2V's layers go."""
    convolution = {"norm_groups": norm_groups, "dropout": config.conv_dropout, "depth": config.conv_depth}
    transformer = {"norm_groups": norm_groups, "head_dim": config.head_dim, "width": config.width}
    entry = {"norm_groups": norm_groups, "head_dim": config.head_dim, "num_heads": config.input_heads}
    first = (Placement("conv_in", "temporal_transformer", entry),) if config.input_heads else ()
    return Plan(
        placements=(
            *first,
            Placement("resnet", "temporal_convolution", convolution),
            Placement("attention", "temporal_transformer", transformer),
        ),
        single_frame=config.single_frame,
    )


def build(config: ModelScopeConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net, of any width, is inflated in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config, norm_groups=unet.config["norm_num_groups"] or 32))


PRESETS = {
    "published": ModelScopeConfig(),
    "tiny": ModelScopeConfig(
        image=tiny_stable_diffusion_2(norm_num_groups=8),
        head_dim=8,
        input_heads=2,
    ),
}

_BLOCKS = ("down_blocks.{b}.", "up_blocks.{b}.", "mid_block.")


def diffusers_keys(image: Mapping[str, Any]) -> KeyMap:
    """Return the map between diffusers' `UNet3DConditionModel` and ours; spatial keys are the same in both."""
    convolutions = [(f"{block}temp_convs.{{j}}.", f"{block}resnets.{{j}}.temporal.") for block in _BLOCKS]
    transformers = [(f"{block}temp_attentions.{{j}}.", f"{block}attentions.{{j}}.temporal.") for block in _BLOCKS]
    return KeyMap(
        pairs=(
            *nest([("transformer_in.", "conv_in.temporal."), *transformers], TRANSFORMER_KEYS),
            *nest(convolutions, CONVOLUTION_KEYS),
        ),
        what="UNet3DConditionModel",
    )


def original_keys(image: Mapping[str, Any]) -> KeyMap:
    """Return the map between the authors' files (unet_sd.py, with its "temopral" misspelling) and ours."""
    places = ldm_places(image, bare_downsampler=True)
    temporals = [("input_blocks.0.1.", "conv_in.temporal."), *places.temporals]
    convolutions = [(f"{theirs}temopral_conv.", f"{ours}temporal.") for theirs, ours in places.resnets]
    return KeyMap(
        pairs=(*nest(temporals, TRANSFORMER_KEYS), *nest(convolutions, CONVOLUTION_KEYS), *places.spatial()),
        pointwise=[theirs + end for theirs, _ in temporals for end in ("proj_in.", "proj_out.")],
        rest="error",
        what="ModelScope",
    )


SYSTEM = System(
    name="modelscope",
    card=CARD,
    config=ModelScopeConfig,
    presets=PRESETS,
    builder=build,
    key_maps={"diffusers": diffusers_keys, "original": original_keys},
    sampling=Sampling(guidance=9.0),  # text_to_video_synthesis_model.py: DDIM 50, guide_scale 9.0, 16 frames of 256
)
