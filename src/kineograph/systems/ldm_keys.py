"""How CompVis' latent diffusion code, and every video fork of it, names the weights of a U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kineograph.systems.keys import nest

Pairs = list[tuple[str, str]]

RESNET = (
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
)

ENDS = (
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
    ("input_blocks.0.0.", "conv_in."),
)


@dataclass(frozen=True)
class LDMPlaces:
    """Where a fork of the latent diffusion code keeps its blocks, and where diffusers does: `(theirs, ours)` prefixes.

    Attributes:
        resnets: ResNet blocks.
        attentions: Spatial transformers.
        temporals: The module after each spatial transformer, and its place here, `attentions.{j}.temporal.`.
        samplers: Down- and upsampling convolutions.
    """

    resnets: Pairs
    attentions: Pairs
    temporals: Pairs
    samplers: Pairs

    def spatial(self) -> Pairs:
        """Return the pairs of all weights of the image network; what is inside attentions has one name in both."""
        return [*nest(self.resnets, RESNET), *self.attentions, *self.samplers, *ENDS]


def ldm_places(image: Mapping[str, Any], bare_downsampler: bool = False, temporal_modules: bool = True) -> LDMPlaces:
    """Return where the blocks of a U-Net are.

    Args:
        image: Configuration of diffusers' `UNet2DConditionModel`.
        bare_downsampler: Downsampling is `input_blocks.N.op` as in ModelScope, not `input_blocks.N.0.op`.
        temporal_modules: A temporal module follows each spatial transformer and shifts what comes after.
    """
    places = LDMPlaces([], [], [], [])
    levels, layers = len(image["down_block_types"]), image["layers_per_block"]
    number = 1
    for level, kind in enumerate(image["down_block_types"]):
        for layer in range(layers):
            _add(places, f"input_blocks.{number}.", f"down_blocks.{level}.", layer, "Attn" in kind)
            number += 1
        if level < levels - 1:
            theirs = f"input_blocks.{number}." + ("op." if bare_downsampler else "0.op.")
            places.samplers.append((theirs, f"down_blocks.{level}.downsamplers.0.conv."))
            number += 1
    _add(places, "middle_block.", "mid_block.", 0, True)
    after = 3 if temporal_modules else 2
    places.resnets.append((f"middle_block.{after}.", "mid_block.resnets.1."))
    for level, kind in enumerate(image["up_block_types"]):
        for layer in range(layers + 1):
            number = level * (layers + 1) + layer
            _add(places, f"output_blocks.{number}.", f"up_blocks.{level}.", layer, "Attn" in kind)
        if level < levels - 1:
            place = after if "Attn" in kind else 1
            places.samplers.append((f"output_blocks.{number}.{place}.conv.", f"up_blocks.{level}.upsamplers.0.conv."))
    return places


def _add(places: LDMPlaces, theirs: str, ours: str, layer: int, attention: bool) -> None:
    """Note one ResNet block and the two modules that may follow it."""
    places.resnets.append((f"{theirs}0.", f"{ours}resnets.{layer}."))
    if attention:
        places.attentions.append((f"{theirs}1.", f"{ours}attentions.{layer}."))
        places.temporals.append((f"{theirs}2.", f"{ours}attentions.{layer}.temporal."))
