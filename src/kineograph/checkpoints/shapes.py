"""Configurations read off weights: files of the original repositories hold none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from kineograph.errors import WeightsError

HEAD_WIDTH = 64
"""Width of an attention head in Stable Diffusion 2 and XL and in all CLIP text encoders."""
HEADS = 8
"""Attention heads of every level in Stable Diffusion 1."""


def count(keys: Iterable[str], pattern: str) -> int:
    """Return one more than the largest number that a pattern with one group finds at the start of a key, or 0."""
    found = re.compile(pattern)
    return 1 + max((int(match[1]) for key in keys if (match := found.match(key))), default=-1)


Named = Callable[[str], str]
"""From a weight's name in diffusers or transformers to its name in a file, for messages."""


def require_keys(tensors: Mapping[str, Tensor], names: Iterable[str], where: str, named: Named = str) -> None:
    """Refuse weights without which nothing can be read off.

    Args:
        tensors: The weights.
        names: What must be there.
        where: The file, for the message.
        named: What the file calls a weight.

    Raises:
        WeightsError: Names the first that is missing.
    """
    for name in names:
        if name not in tensors:
            raise WeightsError(f"'{where}' is not complete: there is no weight '{named(name)}'.")


def ldm_levels(keys: Iterable[str]) -> dict[str, Any]:
    """Return the blocks of a U-Net in the latent diffusion code's layout, as `UNet2DConditionModel` names them.

    Args:
        keys: Names such as `input_blocks.1.0.in_layers.0.weight`.
    """
    names = set(keys)
    layers, attends = [0], [False]
    for number in range(1, count(names, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{number}.0.in_layers.0.weight" not in names:
            layers.append(0)
            attends.append(False)
            continue
        layers[-1] += 1
        attends[-1] |= any(key.startswith(f"input_blocks.{number}.1.transformer_blocks.") for key in names)
    return blocks_of(attends) | {"layers_per_block": layers[0]}


def blocks_of(attends: list[bool]) -> dict[str, Any]:
    """Return the block types of a U-Net from which of its levels attend."""
    down = tuple("CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends)
    up = tuple("CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends))
    return {"down_block_types": down, "up_block_types": up}


def image_unet(tensors: Mapping[str, Tensor], where: str, named: Named = str) -> dict[str, Any]:
    """Return the arguments of `UNet2DConditionModel`, read off its weights in diffusers' names; `named` for messages.

    Heads do not show in weights: they are 64 wide where the projections around attention are linear, as in Stable
    Diffusion 2 and XL, and 8 elsewhere, as in Stable Diffusion 1.
    """
    needed = ("conv_in.weight", "conv_out.weight", "down_blocks.0.resnets.0.conv2.weight")
    require_keys(tensors, needed, where, named)
    levels = range(count(tensors, r"down_blocks\.(\d+)\.resnets\."))
    channels = tuple(tensors[f"down_blocks.{level}.resnets.0.conv2.weight"].shape[0] for level in levels)
    depths = [count(tensors, rf"down_blocks\.{level}\.attentions\.0\.transformer_blocks\.(\d+)\.") for level in levels]
    projections = [t for key, t in tensors.items() if re.search(r"attentions\.0\.proj_in\.weight$", key)]
    linear = any(t.ndim == 2 for t in projections)
    keys = [t for key, t in tensors.items() if key.endswith("transformer_blocks.0.attn2.to_k.weight")]
    config = {
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": tensors["conv_out.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": count(tensors, r"down_blocks\.0\.resnets\.(\d+)\."),
        "cross_attention_dim": keys[0].shape[1] if keys else None,
        "use_linear_projection": linear,
        "attention_head_dim": tuple(max(1, width // HEAD_WIDTH) for width in channels) if linear else HEADS,
        **blocks_of([depth > 0 for depth in depths]),
    }
    return config | ({"transformer_layers_per_block": tuple(max(1, d) for d in depths)} if max(depths) > 1 else {})


def autoencoder(tensors: Mapping[str, Tensor], where: str, named: Named = str) -> dict[str, Any]:
    """Return the arguments of `AutoencoderKL`, read off its weights in diffusers' names; `named` for messages."""
    require_keys(tensors, ("encoder.conv_in.weight", "decoder.conv_in.weight"), where, named)
    levels = range(count(tensors, r"encoder\.down_blocks\.(\d+)\.resnets\."))
    channels = tuple(tensors[f"encoder.down_blocks.{level}.resnets.0.conv2.weight"].shape[0] for level in levels)
    return {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in tensors,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def clip_text(tensors: Mapping[str, Tensor], activation: str, where: str, named: Named = str) -> dict[str, Any]:
    """Return the arguments of transformers' `CLIPTextConfig`, read off its weights.

    Args:
        tensors: Weights without a leading `text_model.`.
        activation: `"quick_gelu"` for OpenAI's weights (Stable Diffusion 1), `"gelu"` for OpenCLIP's (2).
        where: For the message.
        named: What the file calls a weight.
    """
    names = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    require_keys(tensors, (*names, "encoder.layers.0.mlp.fc1.weight"), where, named)
    words, width = tensors[names[0]].shape
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": count(tensors, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "max_position_embeddings": tensors[names[1]].shape[0],
        "hidden_act": activation,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1 if activation == "quick_gelu" else 0,
    }


def clip_image(tensors: Mapping[str, Tensor], where: str, named: Named = str) -> dict[str, Any]:
    """Return the arguments of transformers' `CLIPVisionConfig` for OpenCLIP's weights in transformers' names.

    Heads are 64 channels wide, in ViT-H and larger 80 and more: always 16 of them (open_clip, `ViT-H-14.json`).
    """
    stem = "vision_model.embeddings."
    require_keys(tensors, (f"{stem}patch_embedding.weight", f"{stem}position_embedding.weight"), where, named)
    require_keys(tensors, ("visual_projection.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"), where, named)
    width, _, _, patch = tensors[f"{stem}patch_embedding.weight"].shape
    places = tensors[f"{stem}position_embedding.weight"].shape[0] - 1
    return {
        "hidden_size": width,
        "intermediate_size": tensors["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": count(tensors, r"vision_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // HEAD_WIDTH) if width <= 1024 else 16,
        "image_size": patch * round(places**0.5),
        "patch_size": patch,
        "projection_dim": tensors["visual_projection.weight"].shape[0],
        "hidden_act": "gelu",
    }
