"""LaVie: temporal attention inside every transformer block, trained on clips and images together.

LaVie: High-Quality Video Generation with Cascaded Latent Diffusion Models, Wang et al. 2023, arXiv:2309.15103. Read
beside the authors' code at commit 6ce851e9, `base/models/attention.py`. This is the base model of the cascade.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kineograph.systems.card import Card, Process, Sampling, System
from kineograph.systems.image_networks import stable_diffusion_1, tiny_stable_diffusion_1
from kineograph.systems.keys import ATTENTION_KEYS, KeyMap, RotaryTable, nest
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.video_unet import VideoUNet

CARD = Card(
    title="LaVie: High-Quality Video Generation with Cascaded Latent Diffusion Models",
    authors="Yaohui Wang, Xinyuan Chen, Xin Ma et al.",
    year=2023,
    arxiv="2309.15103",
    code="https://github.com/Vchitect/LaVie",
    code_license="Apache-2.0",
    weights_license="Apache-2.0",
    adds=(
        "Between cross-attention and feed-forward of every transformer block attention over the frames of each "
        "position, with rotary positions and a learned bias per distance.",
        "The image network's group norms take their statistics over the whole clip.",
        "All weights are trained, on clips and images together; images pass the temporal attention by.",
    ),
    differs=(
        "The bias of the temporal attention's output starts at zero too.",
        "Independent images of a batch keep their own group norm statistics; the authors' code mixes them with the "
        "clip's.",
    ),
    evidence="compared",
)


@dataclass(frozen=True)
class LaVieConfig:
    """Sizes of LaVie.

    Attributes:
        image: Arguments of diffusers' `UNet2DConditionModel`; used only where no image network is given.
        num_heads: Heads of the temporal attention (as the image network's: 8).
        rotary: Channels of each head that are rotated (unet.py: 32).
        rates: Angle per frame of each rotated pair; None: 10000 to the power of minus the pair's share of `rotary`.
        spatial_norm: Group norms of the image network: `"clip"` as released, `"frame"` to start as the image network.
        single_frame: `"run"`: temporal attention also sees clips of one frame; `"skip"`: one frame is an image.
    """

    image: Mapping[str, Any] = field(default_factory=stable_diffusion_1)
    num_heads: int = 8
    rotary: int = 32
    rates: tuple[float, ...] | None = None
    spatial_norm: Literal["frame", "clip"] = "clip"
    single_frame: Literal["run", "skip"] = "run"


def plan(config: LaVieConfig) -> Plan:
    """Return where the temporal attentions go."""
    options: dict[str, Any] = {"num_heads": config.num_heads, "rotary": config.rotary}
    options |= {} if config.rates is None else {"rates": list(config.rates)}
    attention = Placement("before_feed_forward", "temporal_rotary_attention", options)
    return Plan((attention,), single_frame=config.single_frame, spatial_norm=config.spatial_norm)


def build(config: LaVieConfig, image_unet: Any = None) -> VideoUNet:
    """Build the network; a given image U-Net with transformer blocks, of any width, is inflated in place."""
    from diffusers import UNet2DConditionModel

    from kineograph.models.video_unet import VideoUNet

    unet = image_unet or UNet2DConditionModel(**config.image)
    return VideoUNet(unet, plan(config))


FREQS = "attn_temp.rotary_emb.freqs"
"""Where the authors' files keep the rates, once for each attention."""


def original_keys(image: Mapping[str, Any], rates: tuple[float, ...] | None = None) -> KeyMap:
    """Return the map between the authors' files (their `ema` weights) and ours; spatial keys are diffusers'.

    Args:
        image: Configuration of the image network.
        rates: `LaVieConfig.rates`, which their files hold.
    """
    blocks = [
        f"{part}attentions.{{j}}.transformer_blocks.{{n}}."
        for part in ("down_blocks.{b}.", "up_blocks.{b}.", "mid_block.")
    ]
    names = (
        ("norm_temp.", "attn2.temporal.norm."),
        ("attn_temp.time_rel_pos_bias.relative_attention_bias.", "attn2.temporal.distance.table."),
        *nest([("attn_temp.", "attn2.temporal.")], ATTENTION_KEYS),
    )
    return KeyMap(
        pairs=nest([(block, block) for block in blocks], names),
        tables=(RotaryTable("attn_temp.to_q.weight", FREQS, 32, rates=rates),),
        what="LaVie",
    )


SOLVER = {"_class_name": "DDPMScheduler", "clip_sample": False, "variance_type": "fixed_small"}
"""base/pipelines/sample.py with diffusers 0.16.0, whose DDPM reads no `steps_offset`: 50 timesteps are 980 to 0."""

SYSTEM = System(
    name="lavie",
    card=CARD,
    config=LaVieConfig,
    presets={
        "published": LaVieConfig(),
        "tiny": LaVieConfig(
            image=tiny_stable_diffusion_1(),
            num_heads=4,
        ),
    },
    builder=build,
    key_maps={"original": original_keys},
    process=Process(schedule="linear", beta_start=1e-4, beta_end=0.02),  # base/configs/sample.yaml
    sampling=Sampling(sampler="ddpm", height=320, width=512, solver=SOLVER),  # base/configs/sample.yaml
    starts_as_image=False,  # its group norms span the clip
)
