"""How diffusers and the authors' files name the weights of Stable Video Diffusion's network and autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kineograph.systems.keys import RES_BLOCK_KEYS, VIDEO_BLOCK_KEYS, KeyMap, nest
from kineograph.systems.ldm_keys import RESNET, ldm_places

BLOCKS = ("down_blocks.{b}.", "up_blocks.{b}.", "mid_block.")
IN_RESNET = (
    *nest([("temporal_res_block.", "temporal.")], RES_BLOCK_KEYS),
    ("time_mixer.", "temporal.blend."),
    ("spatial_res_block.", ""),
)
"""diffusers' `SpatioTemporalResBlock`."""


def diffusers_keys(image: Mapping[str, Any]) -> KeyMap:
    """Return the map between diffusers' `UNetSpatioTemporalConditionModel` and ours, for one block per attention."""
    resnets = [(f"{block}resnets.{{j}}.", f"{block}resnets.{{j}}.") for block in BLOCKS]
    attentions = [(f"{block}attentions.{{j}}.", f"{block}attentions.{{j}}.") for block in BLOCKS]
    in_attention = [
        *nest([("temporal_transformer_blocks.0.", "transformer_blocks.0.temporal.")], VIDEO_BLOCK_KEYS),
        ("time_pos_embed.linear_1.", "transformer_blocks.0.temporal.index.0."),
        ("time_pos_embed.linear_2.", "transformer_blocks.0.temporal.index.2."),
        ("time_mixer.", "transformer_blocks.0.temporal.blend."),
    ]
    return KeyMap(
        pairs=(
            *nest(resnets, IN_RESNET),
            *nest(attentions, in_attention),
            ("add_embedding.", "class_embedding."),
        ),
        what="UNetSpatioTemporalConditionModel",
    )


def original_keys(image: Mapping[str, Any]) -> KeyMap:
    """Return the map between the authors' files (`model.diffusion_model.` removed) and ours."""
    places = ldm_places(image, temporal_modules=False)
    in_resnet = [
        *nest([("time_stack.", "temporal.")], [(theirs, _OURS[ours]) for theirs, ours in RESNET if ours in _OURS]),
        ("time_mixer.", "temporal.blend."),
    ]
    in_attention = [
        *nest([("time_stack.0.", "transformer_blocks.0.temporal.")], VIDEO_BLOCK_KEYS),
        ("time_pos_embed.", "transformer_blocks.0.temporal.index."),
        ("time_mixer.", "transformer_blocks.0.temporal.blend."),
    ]
    return KeyMap(
        pairs=(
            *nest(places.resnets, in_resnet),
            *nest(places.attentions, in_attention),
            ("label_emb.0.0.", "class_embedding.linear_1."),
            ("label_emb.0.2.", "class_embedding.linear_2."),
            *places.spatial(),
        ),
        rest="error",
        what="Stable Video Diffusion",
    )


_OURS = dict(RES_BLOCK_KEYS) | {"norm1.": "norm1.", "norm2.": "norm2."}
"""What a temporal ResNet block calls what a spatial one calls `conv1.` and so on."""


def decoder_keys() -> KeyMap:
    """Return the map between diffusers' `AutoencoderKLTemporalDecoder` and our `TemporalAutoencoder`'s network."""
    blocks = ("decoder.up_blocks.{b}.", "decoder.mid_block.")
    resnets = [(f"{block}resnets.{{j}}.", f"{block}resnets.{{j}}.") for block in blocks]
    return KeyMap(
        pairs=(*nest(resnets, IN_RESNET), ("decoder.time_conv_out.", "decoder.conv_out.temporal.conv.")),
        what="AutoencoderKLTemporalDecoder",
    )


def original_decoder_keys(levels: int = 4) -> KeyMap:
    """Return the map between the authors' autoencoder (`first_stage_model.` removed) and ours.

    Args:
        levels: Resolutions of the autoencoder.
    """
    block = [
        *nest([("time_stack.", "temporal.")], [(theirs, _OURS[ours]) for theirs, ours in RESNET if ours in _OURS]),
        ("mix_factor", "temporal.blend.mix_factor"),
        ("nin_shortcut.", "conv_shortcut."),
        ("", ""),
    ]
    middle = [("block_1.", "resnets.0."), ("block_2.", "resnets.1.")]
    resnets = [
        *nest([("encoder.mid.", "encoder.mid_block."), ("decoder.mid.", "decoder.mid_block.")], middle),
        ("encoder.down.{b}.block.{j}.", "encoder.down_blocks.{b}.resnets.{j}."),
        *(
            (f"decoder.up.{levels - 1 - b}.block.{{j}}.", f"decoder.up_blocks.{b}.resnets.{{j}}.")
            for b in range(levels)
        ),
    ]
    attention = [
        ("norm.", "group_norm."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
        ("proj_out.", "to_out.0."),
    ]
    places = [(f"{part}.mid.attn_1.", f"{part}.mid_block.attentions.0.") for part in ("encoder", "decoder")]
    return KeyMap(
        pairs=(
            *nest(resnets, block),
            *nest(places, attention),
            ("encoder.down.{b}.downsample.", "encoder.down_blocks.{b}.downsamplers.0."),
            *(
                (f"decoder.up.{levels - 1 - b}.upsample.", f"decoder.up_blocks.{b}.upsamplers.0.")
                for b in range(levels - 1)
            ),
            *nest([("encoder.", "encoder."), ("decoder.", "decoder.")], [("norm_out.", "conv_norm_out.")]),
            ("decoder.conv_out.time_mix_conv.", "decoder.conv_out.temporal.conv."),
            ("", ""),
        ),
        pointwise=[place + theirs for place, _ in places for theirs, _ in attention[1:]],
        pointwise_axes=2,
        what="Stable Video Diffusion's autoencoder",
    )
