"""VideoCrafter 1 and 2: a temporal transformer after every spatial one, in version 2 also temporal convolutions.

VideoCrafter1: Open Diffusion Models for High-Quality Video Generation, Chen et al. 2023, arXiv:2310.19512.
VideoCrafter2: Overcoming Data Limitations for High-Quality Video Diffusion Models, Chen et al. 2024, arXiv:2401.09047.
Read beside the authors' code at commit 11bcd76f, `lvdm/modules/networks/openaimodel3d.py` and
`lvdm/modules/attention.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kineograph.systems.card import Card, Process, Sampling, System
from kineograph.systems.image_networks import stable_diffusion_2, tiny_stable_diffusion_2
from kineograph.systems.keys import CONVOLUTION_KEYS, TRANSFORMER_KEYS, KeyMap, nest
from kineograph.systems.ldm_keys import ldm_places
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="VideoCrafter1: Open Diffusion Models for High-Quality Video Generation",
    authors="Haoxin Chen, Menghan Xia, Yingqing He et al.",
    year=2023,
    arxiv="2310.19512",
    code="https://github.com/AILab-CVC/VideoCrafter",
    code_license="Apache-2.0 with a Tencent header",
    weights_license="research only, see the authors' licence",
    adds=(
        "After every spatial transformer one over the frames of each position, and one after the first convolution.",
        "Version 1 tells frames apart by learned codes of their distance, added to keys and values.",
        "Its image-to-video model also attends to 16 tokens of a picture, with keys and values of their own.",
        "Version 2 has no such codes but ModelScopeT2V's temporal convolutions and the frame rate as a condition.",
    ),
    evidence="compared",
)

IMAGE = stable_diffusion_2(sample_size=(40, 64))  # configs/inference_t2v_512_v1.0.yaml
IMAGE_1024 = stable_diffusion_2(sample_size=(72, 128), class_embed_type="timestep")  # inference_t2v_1024_v1.0.yaml


@dataclass(frozen=True)
class VideoCrafterConfig:
    """Sizes of VideoCrafter.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given. With
            `class_embed_type="timestep"` the class label is the frame rate (version 2: `fps_cond`).
        head_dim: Width of a temporal attention head (`num_head_channels` 64).
        input_heads: Heads of the transformer after the first convolution (openaimodel3d.py: 8); 0 omits it.
        relative: Distances between frames up to this have learned codes (version 1: `temporal_length` 16); None: none.
        convolutions: Also a temporal convolution after every ResNet block (version 2).
        conv_dropout: Dropout inside it (0.1).
        picture_tokens: The last so many tokens of the context are a picture's (image-to-video: 16).
        fps: Frame rate that the authors' scripts tell it (28; image-to-video: 8, scripts/run_image2video.sh).
        single_frame: `"run"`: temporal layers also see clips of one frame; `"skip"`: one frame is an image.
    """

    image: Mapping[str, Any] = field(default_factory=lambda: IMAGE)
    head_dim: int = 64
    input_heads: int = 8
    relative: int | None = None
    convolutions: bool = True
    conv_dropout: float = 0.1
    picture_tokens: int = 0
    fps: int = 28
    single_frame: Literal["run", "skip"] = "run"


def plan(config: VideoCrafterConfig, image: Mapping[str, Any]) -> Plan:
    """Return where the temporal layers go in an image network of the given configuration."""
    norm_groups = image["norm_num_groups"] or 32
    picture = {"context_channels": image.get("cross_attention_dim"), "tokens": config.picture_tokens}
    transformer = {"norm_groups": norm_groups, "head_dim": config.head_dim, "relative": config.relative}
    first = Placement("conv_in", "temporal_transformer", {**transformer, "num_heads": config.input_heads})
    convolution = {"norm_groups": norm_groups, "dropout": config.conv_dropout}
    placements = (
        *([first] if config.input_heads else []),
        *([Placement("resnet", "temporal_convolution", convolution)] if config.convolutions else []),
        Placement("attention", "temporal_transformer", transformer),
        *([Placement("cross_attention", "picture_attention", picture)] if config.picture_tokens else []),
    )
    return Plan(placements, single_frame=config.single_frame)


def build(config: VideoCrafterConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net, of any width, is inflated in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config, unet.config))


def process(told_fps: bool, convolutions: bool) -> Process:
    """Return the process of a published network.

    The networks that are told the frame rate were trained on data made weaker in noise (`use_scale`): version 2 and
    the image-to-video network to 0.7 (`configs/inference_t2v_512_v2.0.yaml`), version 1 at 1024 pixels to the code's
    default of 0.3; over 400 timesteps all (`ddpm3d.py`, `mid_step`).
    """
    return Process(data_scale=(0.7 if convolutions else 0.3, 400) if told_fps else None)


PRESETS = {
    "v2": VideoCrafterConfig(image=IMAGE | {"class_embed_type": "timestep"}),
    "v1": VideoCrafterConfig(relative=16, convolutions=False),
    "v1-1024": VideoCrafterConfig(image=IMAGE_1024, relative=16, convolutions=False),
    "i2v": VideoCrafterConfig(image=IMAGE | {"class_embed_type": "timestep"}, picture_tokens=16, fps=8),
    "tiny": VideoCrafterConfig(
        image=tiny_stable_diffusion_2(norm_num_groups=8),
        head_dim=8,
        input_heads=2,
        relative=4,
    ),
}

RELATIVE_KEYS = nest(
    [("transformer_blocks.{n}.", "blocks.{n}.")],
    [
        (f"attn{n}.relative_position_{theirs}.embeddings_table", f"attend{n}.relative.{ours}")
        for n in (1, 2)
        for theirs, ours in (("k", "keys"), ("v", "values"))
    ],
)

PICTURE_KEYS = nest(
    [("transformer_blocks.{n}.attn2.", "transformer_blocks.{n}.attn2.temporal.")],
    [("to_k_ip.", "key."), ("to_v_ip.", "value.")],
)


def original_keys(image: Mapping[str, Any]) -> KeyMap:
    """Return the map between the authors' files (`model.diffusion_model.` removed) and ours."""
    places = ldm_places(image)
    temporals = [("init_attn.0.", "conv_in.temporal."), *places.temporals]
    convolutions = [(f"{theirs}temopral_conv.", f"{ours}temporal.") for theirs, ours in places.resnets]
    return KeyMap(
        pairs=(
            *nest(temporals, [*RELATIVE_KEYS, *TRANSFORMER_KEYS]),
            *nest(convolutions, CONVOLUTION_KEYS),
            *nest(places.attentions, PICTURE_KEYS),
            ("fps_embedding.0.", "class_embedding.linear_1."),
            ("fps_embedding.2.", "class_embedding.linear_2."),
            *places.spatial(),
        ),
        pointwise=("init_attn.0.proj_in.", "init_attn.0.proj_out."),
        rest="error",
        what="VideoCrafter",
    )


def scale_table(data_scale: tuple[float, int], convolutions: bool) -> Any:
    """Return the table of factors in the authors' files, float32.

    With version 2's configuration it is longer than the process (`fix_scale_bug` false); their code wants it so.
    """
    import torch

    end, fall = data_scale
    rest = torch.full((1000 if convolutions else 1000 - fall,), end)
    return torch.cat([torch.linspace(1, end, fall, dtype=torch.float64).float(), rest])


def version_of(told_fps: bool, convolutions: bool, picture_tokens: int) -> str:
    """Return the preset of a published network from what its layers are."""
    if picture_tokens:
        return "i2v"
    return "v2" if convolutions else "v1-1024" if told_fps else "v1"


SCRIPT = Sampling(guidance=12.0, fps=28, height=320, width=512, eta=1.0)  # scripts/run_text2video.sh

SYSTEM = System(
    name="videocrafter",
    card=CARD,
    config=VideoCrafterConfig,
    presets=PRESETS,
    builder=build,
    key_maps={"original": original_keys},
    process=process(told_fps=True, convolutions=True),
    sampling=SCRIPT,
    variants={
        "v1": (process(told_fps=False, convolutions=False), SCRIPT),
        "v1-1024": (process(told_fps=True, convolutions=False), replace(SCRIPT, height=576, width=1024)),
        "i2v": (process(told_fps=True, convolutions=True), replace(SCRIPT, fps=8)),  # scripts/run_image2video.sh
    },
)
