"""SparseCtrl: a control network beside AnimateDiff, for clips of which a few frames are given.

SparseCtrl: Adding Sparse Controls to Text-to-Video Diffusion Models, Guo et al. 2023, arXiv:2311.16933. Read beside
the authors' code at commit e92bd567, `animatediff/models/sparse_controlnet.py` (Apache-2.0, as the weights), and
diffusers' `SparseControlNetModel`. It is no system of the registry: it steers one, see `SparseControl`.

Differs from the paper: nothing; differs from diffusers: the motion modules' entry norm is per frame, as in the authors'
code, unless `motion_norm="clip"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kineograph.errors import WeightsError
from kineograph.systems.animatediff import ORIGINAL_NAMES
from kineograph.systems.keys import TRANSFORMER_KEYS, KeyMap, PositionTable, motion_module_places, nest
from kineograph.temporal.plan import Placement, Plan

if TYPE_CHECKING:
    from kineograph.models.sparse_control import SparseControl


@dataclass(frozen=True)
class SparseCtrlConfig:
    """Sizes of a control network for clips.

    Attributes:
        image: Arguments of diffusers' `ControlNetModel` beside those below; the defaults are Stable Diffusion 1.5's.
        picture_channels: Channels of a given frame: 4 for latents, 3 for pictures; the mask is one more.
        latents: Given frames are latents (the released "rgb" network); otherwise pictures ("scribble").
        num_heads: Heads of a motion module.
        max_frames: Frames the position code tells apart.
        norm_groups: Groups of a motion module's entry norm: 32; diffusers takes the image network's.
        motion_norm: Entry norm of a motion module, `"frame"` as in the authors' code, `"clip"` as in diffusers.
    """

    image: Mapping[str, Any] = field(default_factory=lambda: {"cross_attention_dim": 768, "attention_head_dim": 8})
    picture_channels: int = 4
    latents: bool = True
    num_heads: int = 8
    max_frames: int = 32
    norm_groups: int = 32
    motion_norm: Literal["frame", "clip"] = "frame"


PRESETS = {
    "rgb": SparseCtrlConfig(),
    "scribble": SparseCtrlConfig(picture_channels=3, latents=False),
    "tiny": SparseCtrlConfig(
        image={
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        },
        num_heads=4,
    ),
}


def plan(config: SparseCtrlConfig) -> Plan:
    """Return where the motion modules go: in the blocks down only, each with one self-attention."""
    options = {
        "num_heads": config.num_heads,
        "head_dim": None,
        "norm_groups": config.norm_groups,
        "norm_over": config.motion_norm,
        "max_frames": config.max_frames,
        "attentions": 1,
    }
    return Plan((Placement("pair", "temporal_transformer", options, ("down",)),))


def build(config: SparseCtrlConfig, image_unet: Any = None) -> SparseControl:
    """Build the network; an image U-Net of the same shape lends its weights, as training starts (section 3.2)."""
    from diffusers import ControlNetModel

    from kineograph.models.sparse_control import SparseControl

    channels = config.picture_channels + 1
    if image_unet is None:
        control = ControlNetModel(**config.image, conditioning_channels=channels)
    else:
        control = ControlNetModel.from_unet(image_unet, conditioning_channels=channels)
    return SparseControl(control, plan(config), config.latents)


def diffusers_keys(image: Mapping[str, Any], max_frames: int = 32) -> KeyMap:
    """Return the map between the motion modules of diffusers' `SparseControlNetModel` and ours; the rest is the same.

    Args:
        image: Configuration of the `ControlNetModel`.
        max_frames: Length of their position tables.
    """
    return KeyMap(
        pairs=nest(motion_module_places({**image, "up_block_types": ()}), TRANSFORMER_KEYS),
        tables=(PositionTable("norm1.weight", "pos_embed.pe", max_frames, inside="motion_modules."),),
        what="SparseControlNetModel",
    )


def original_keys(image: Mapping[str, Any], max_frames: int = 32) -> KeyMap:
    """Return the map between the authors' files and ours. See `diffusers_keys`."""
    places = motion_module_places({**image, "up_block_types": ()})
    inside = [(theirs + "temporal_transformer.", ours) for theirs, ours in places]
    return KeyMap(
        pairs=nest(inside, ORIGINAL_NAMES),
        tables=(PositionTable("to_q.weight", "pos_encoder.pe", max_frames),),
        what="SparseCtrl",
    )


def load_sparsectrl(directory: str | Path, *, motion_norm: Literal["frame", "clip"] = "frame") -> SparseControl:
    """Load a folder of diffusers' `SparseControlNetModel`, in float32 and evaluation mode.

    Raises:
        WeightsError: A file is missing or damaged, or the configuration or a key does not fit.
    """
    from kineograph.models.config_fields import check_fields
    from kineograph.models.weights import read_folder, read_json
    from kineograph.systems.key_loading import load_mapped

    folder = Path(directory)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"'{folder}' holds no control network: there is no config.json.")
    config = read_json(folder / "config.json")
    if config.get("_class_name") != "SparseControlNetModel":
        raise WeightsError(f"'{folder}' holds a {config.get('_class_name')}, not a SparseControlNetModel.")
    check_fields(config, "SparseControlNetModel", folder)
    control = build(_config_of(config, motion_norm)).eval()
    keys = diffusers_keys(control.control.config, config["motion_max_seq_length"])
    tensors = read_folder(folder)
    load_mapped(control.control, tensors, keys, str(folder))
    return control


IMAGE_FIELDS = (
    *("in_channels", "flip_sin_to_cos", "freq_shift", "only_cross_attention", "block_out_channels", "layers_per_block"),
    *("downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim"),
    *("transformer_layers_per_block", "attention_head_dim", "use_linear_projection", "upcast_attention"),
    *("resnet_time_scale_shift", "conditioning_embedding_out_channels", "controlnet_conditioning_channel_order"),
)


def _config_of(config: Mapping[str, Any], motion_norm: Literal["frame", "clip"]) -> SparseCtrlConfig:
    heads = config["motion_num_attention_heads"]
    if not config["concat_conditioning_mask"] or not isinstance(heads, int):
        raise WeightsError(
            "A SparseControlNetModel without a mask, or with several numbers of motion heads, is not built in: "
            f"concat_conditioning_mask={config['concat_conditioning_mask']}, motion_num_attention_heads={heads}."
        )
    image = {name: _tuple(config[name]) for name in IMAGE_FIELDS if name in config}
    image["down_block_types"] = tuple(kind.replace("BlockMotion", "Block2D") for kind in config["down_block_types"])
    return SparseCtrlConfig(
        image=image,
        picture_channels=config["conditioning_channels"],
        latents=config["use_simplified_condition_embedding"],
        num_heads=heads,
        max_frames=config["motion_max_seq_length"],
        norm_groups=config["norm_num_groups"],
        motion_norm=motion_norm,
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
