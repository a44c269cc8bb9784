"""Fields in the configurations of diffusers' folders: each is read, or at the value that is built in, or refused.

diffusers leaves fields that a class does not know aside with a log line; here nothing that could change a clip is read
past in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kineograph.errors import WeightsError, unknown

SILU = ("silu", "swish")
"""Names of the one activation that the last layer of the video classes has, whatever `act_fn` says for the others."""
_NETWORK = (
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "cross_attention_dim"),
)
_CONVOLUTIONS = ("downsample_padding", "mid_block_scale_factor", "norm_num_groups", "norm_eps", "time_cond_proj_dim")
_AUTOENCODER = (
    *("in_channels", "out_channels", "down_block_types", "block_out_channels", "layers_per_block", "latent_channels"),
    *("sample_size", "scaling_factor", "force_upcast"),
)

READ: Mapping[str, tuple[str, ...]] = {
    "UNet3DConditionModel": (*_NETWORK, *_CONVOLUTIONS, "attention_head_dim"),
    "UNetMotionModel": (
        *(*_NETWORK, *_CONVOLUTIONS, "transformer_layers_per_block", "reverse_transformer_layers_per_block"),
        *("temporal_transformer_layers_per_block", "use_linear_projection", "num_attention_heads"),
        *("motion_max_seq_length", "motion_num_attention_heads", "use_motion_mid_block", "addition_embed_type"),
        *("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
    ),
    "MotionAdapter": (
        *("block_out_channels", "motion_layers_per_block", "motion_transformer_layers_per_block", "conv_in_channels"),
        *("motion_num_attention_heads", "motion_norm_num_groups", "motion_max_seq_length", "use_motion_mid_block"),
    ),
    "UNetSpatioTemporalConditionModel": (
        *(*_NETWORK, "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
        *("transformer_layers_per_block", "num_attention_heads", "num_frames"),
    ),
    "AutoencoderKL": (
        *(*_AUTOENCODER, "up_block_types", "act_fn", "norm_num_groups", "shift_factor", "use_quant_conv"),
        *("use_post_quant_conv", "mid_block_add_attention"),
    ),
    "AutoencoderKLTemporalDecoder": _AUTOENCODER,
    "SparseControlNetModel": (
        *("in_channels", "conditioning_channels", "flip_sin_to_cos", "freq_shift", "only_cross_attention", "act_fn"),
        *("down_block_types", "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor"),
        *("norm_num_groups", "norm_eps", "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim"),
        *("use_linear_projection", "upcast_attention", "resnet_time_scale_shift", "motion_max_seq_length"),
        *("conditioning_embedding_out_channels", "controlnet_conditioning_channel_order", "concat_conditioning_mask"),
        *("motion_num_attention_heads", "use_simplified_condition_embedding"),
    ),
}
"""What is read of each class of diffusers."""

FIXED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "UNet3DConditionModel": {"act_fn": SILU, "num_attention_heads": (None,)},
    "UNetMotionModel": {
        "act_fn": SILU,
        "mid_block_layers": (1,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "reverse_temporal_transformer_layers_per_block": (None,),
        "reverse_motion_num_attention_heads": (None,),
    },
    "MotionAdapter": {"motion_mid_block_layers_per_block": (1,)},
    "AutoencoderKL": {"latents_mean": (None,), "latents_std": (None,)},
    "SparseControlNetModel": {
        "temporal_transformer_layers_per_block": (1,),
        "num_attention_heads": (None,),
        "global_pool_conditions": (False,),
    },
}
"""What is built in with these values only."""

AS: Mapping[str, Mapping[str, str]] = {
    "UNetMotionModel": {
        "temporal_transformer_layers_per_mid_block": "temporal_transformer_layers_per_block",
        "transformer_layers_per_mid_block": "transformer_layers_per_block",
    },
    "MotionAdapter": {"motion_transformer_layers_per_mid_block": "motion_transformer_layers_per_block"},
    "SparseControlNetModel": {"transformer_layers_per_mid_block": "transformer_layers_per_block"},
}
"""What is built in with the value of another field, or its last, or none."""
MIDDLE = ("temporal_transformer_layers_per_mid_block", "motion_transformer_layers_per_mid_block")
"""Fields about motion modules in the middle block, where there may be none."""


def check_fields(config: Mapping[str, Any], name: str, where: object) -> None:
    """Refuse a configuration with a field that nothing here acts on.

    Args:
        config: Content of a `config.json`; names with a leading underscore are about the file.
        name: Class of diffusers that it is of.
        where: Folder, for the message.

    Raises:
        WeightsError: A field is unknown, or has a value that is not built in.
    """
    fixed, alike = FIXED.get(name, {}), AS.get(name, {})
    for field, value in config.items():
        if field.startswith("_") or field in READ[name] or _alike(config, field, alike):
            continue
        if field not in (*fixed, *alike):
            if value in (None, False):
                continue
            raise unknown(f"field of {name} in '{where}'", field, [*READ[name], *fixed, *alike], WeightsError)
        if field in alike or value not in fixed[field]:
            wanted = f"that of {alike[field]}" if field in alike else " or ".join(map(repr, fixed[field]))
            raise WeightsError(f"'{where}' is a {name} with {field}={value!r}; only {wanted} is built in.")


def _alike(config: Mapping[str, Any], field: str, alike: Mapping[str, str]) -> bool:
    """Say whether a field has the value of the one that it must be like, or has nothing to say."""
    if field not in alike:
        return False
    value, like = config[field], config.get(alike[field], 1)
    if value is None or (field in MIDDLE and config.get("use_motion_mid_block", True) is False):
        return True
    last = like[-1] if isinstance(like, list | tuple) else like
    return (value[0] if isinstance(value, list | tuple) and len(value) == 1 else value) == last
