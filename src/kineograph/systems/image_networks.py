"""The published image networks that systems give time to, as arguments of diffusers' `UNet2DConditionModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def stable_diffusion_1(**changes: Any) -> dict[str, Any]:
    """Return Stable Diffusion 1's network (Rombach et al. 2022, configs/stable-diffusion/v1-inference.yaml)."""
    return {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8} | changes


def stable_diffusion_2(**changes: Any) -> dict[str, Any]:
    """Return Stable Diffusion 2's network (configs/stable-diffusion/v2-inference.yaml), heads of 64 channels."""
    published = {
        "sample_size": 64,
        "attention_head_dim": (5, 10, 20, 20),  # diffusers' name for the number of heads
        "cross_attention_dim": 1024,  # OpenCLIP ViT-H
        "use_linear_projection": True,
    }
    return published | changes


STABLE_DIFFUSION_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""Stable Diffusion XL's network (Podell et al. 2023, abs/2307.01952, table 1)."""

PUBLISHED_WIDTHS = ((320, 640, 1280, 1280), (320, 640, 1280))
"""Channels of the levels of Stable Diffusion 1 and 2, and of XL, on which all published latent systems build."""


def of_published_size(image: Mapping[str, Any]) -> bool:
    """Say whether an image network is as wide as the published ones, so that its weights may be theirs.

    Files do not name the licence of their weights; those of other sizes are nobody's published ones.
    """
    return tuple(image.get("block_out_channels") or ()) in PUBLISHED_WIDTHS


TINY = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
"""Two levels of an image network that builds in an instant."""


def tiny_stable_diffusion_1(**changes: Any) -> dict[str, Any]:
    """Return Stable Diffusion 1's network in small."""
    return stable_diffusion_1(**(TINY | {"attention_head_dim": 4, "norm_num_groups": 8} | changes))


def tiny_stable_diffusion_2(**changes: Any) -> dict[str, Any]:
    """Return Stable Diffusion 2's network in small."""
    return stable_diffusion_2(**(TINY | {"attention_head_dim": (4, 8)} | changes))
