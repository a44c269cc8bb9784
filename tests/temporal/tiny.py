"""Tiny random image networks of every family, and clips whose frames have unequal statistics."""

from dataclasses import dataclass, field

import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel

TEXT = 32
SIZE = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": TEXT,
    "norm_num_groups": 4,
}


@dataclass
class Family:
    """A kind of image network: its class, arguments, and the conditions it needs beside text."""

    arguments: dict
    kind: type = UNet2DConditionModel
    channels: int = 4
    size: int = 8
    conditions: dict = field(default_factory=dict)
    plain: bool = False

    def build(self):
        size = {"sample_size": 8} if self.plain else SIZE
        return self.kind(in_channels=self.channels, out_channels=4, **(size | self.arguments)).eval()


FAMILIES = {
    "sd1": Family(dict(CROSS, attention_head_dim=2)),
    "sd2": Family(dict(CROSS, attention_head_dim=(2, 4), use_linear_projection=True)),
    "sdxl": Family(
        dict(
            CROSS,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
        ),
        conditions={"added_conditions": {"text_embeds": (12,), "time_ids": (6,)}},
    ),
    "deepfloyd-if": Family(
        {
            "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "block_out_channels": (32, 64),
            "cross_attention_dim": TEXT,
            "attention_head_dim": 8,
            "resnet_time_scale_shift": "scale_shift",
            "act_fn": "gelu",
            "cross_attention_norm": "group_norm",
        }
    ),
    "x4-upscaler": Family(
        dict(
            CROSS,
            attention_head_dim=4,
            use_linear_projection=True,
            only_cross_attention=(True, False),
            num_class_embeds=10,
        ),
        channels=7,
        conditions={"class_labels": torch.tensor([3, 7])},
    ),
    "latent-upscaler": Family(
        {
            "down_block_types": ("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
            "up_block_types": (*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
            "mid_block_type": None,
            "block_out_channels": (32, 32, 64, 64),
            "cross_attention_dim": TEXT,
            "norm_num_groups": None,
            "attention_head_dim": 8,
            "act_fn": "gelu",
            "timestep_post_act": "gelu",
            "time_embedding_type": "fourier",
            "conv_in_kernel": 1,
            "conv_out_kernel": 1,
            "resnet_time_scale_shift": "scale_shift",
            "only_cross_attention": False,
        },
        size=16,
    ),
    "unconditional": Family(
        {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 8,
        },
        kind=UNet2DModel,
        conditions={"context": None},
    ),
    "pixart": Family(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "cross_attention_dim": 16,
            "caption_channels": TEXT,
            "patch_size": 2,
            "norm_num_groups": 4,
        },
        kind=PixArtTransformer2DModel,
        plain=True,
    ),
    "dit": Family(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "patch_size": 2,
            "norm_num_groups": 4,
            "num_embeds_ada_norm": 10,
        },
        kind=DiTTransformer2DModel,
        conditions={"context": None, "class_labels": torch.tensor([3, 7])},
        plain=True,
    ),
}


def perturb(module, scale=0.05, seed=1):
    """Give every parameter a value of its own, in place; layers that start at zero would hide what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def unequal_clip(frames=4, batch=2, channels=4, size=8):
    """Return a clip whose frames grow from 0.3 to 3, so that a norm over frames cannot hide."""
    return torch.randn(batch, frames, channels, size, size) * torch.linspace(0.3, 3, frames).view(frames, 1, 1, 1)


def inputs(family, frames=4, batch=2):
    """Return the keyword arguments of a `VideoUNet` call."""
    conditions = {"timestep": torch.tensor([7, 900][:batch]), "context": torch.randn(batch, 5, TEXT)}
    for name, value in family.conditions.items():
        if isinstance(value, dict):
            value = {key: torch.rand(batch, *shape) for key, shape in value.items()}
        conditions[name] = value[:batch] if isinstance(value, torch.Tensor) else value
    return {"x": unequal_clip(frames, batch, family.channels, family.size), **conditions}


def relative(ours, theirs):
    """Return the largest difference over the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
