"""SparseCtrl in its authors' files or in diffusers' folders, and what to say where a control network is no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.checkpoints.single_files import SingleFile, read_single
from kineograph.errors import WeightsError
from kineograph.models.sparse_control import SparseControl
from kineograph.systems.key_loading import load_mapped
from kineograph.systems.sparsectrl import SparseCtrlConfig, build, diffusers_keys, load_sparsectrl, original_keys

CLASSES = {"SparseControlNetModel": "SparseCtrl", "ControlNetModel": "a ControlNet"}
"""diffusers' classes of control networks."""
EMBED = "controlnet_cond_embedding."


def control_refusal(path: Path, title: str) -> WeightsError:
    """Return the error for a control network that is given as a model."""
    how = "kineograph.systems.sparsectrl" if path.is_dir() else "kineograph.checkpoints.sparsectrl"
    return WeightsError(
        f"'{path}' is {title}, which steers a model and is none. Give the motion module that it steers as --model; "
        f"SparseCtrl itself is used from Python (load_sparsectrl{'' if path.is_dir() else '_file'} of {how}, then "
        "`down_residuals=` of the network), as docs/systems/control-and-adapters.md shows."
    )


def load_sparsectrl_path(path: str | Path) -> SparseControl:
    """Load SparseCtrl from its authors' file or a folder of diffusers' `SparseControlNetModel`.

    Raises:
        WeightsError: It is something else, or a weight is missing, unknown or of another shape.
    """
    return load_sparsectrl(path) if Path(path).is_dir() else load_sparsectrl_file(path)


def load_sparsectrl_file(path: str | Path) -> SparseControl:
    """Load SparseCtrl from its authors' file, whose sizes are read off its weights, with 8 heads as published.

    Raises:
        WeightsError: It is something else, or a weight is missing, unknown or of another shape.
    """
    file = read_single(Path(path))
    if file.kind.name != "sparsectrl":
        raise WeightsError(f"'{path}' is {file.kind.title}, not SparseCtrl.")
    config = _config(file)
    control = build(config).eval()
    theirs = any(".temporal_transformer." in key for key in file.tensors)
    keys = (original_keys if theirs else diffusers_keys)(control.control.config, config.max_frames)
    load_mapped(control.control, file.tensors, keys, str(path))
    return control


def _config(file: SingleFile) -> SparseCtrlConfig:
    tensors, where = file.tensors, str(file.path)
    latents = f"{EMBED}weight" in tensors
    first = f"{EMBED}weight" if latents else f"{EMBED}conv_in.weight"
    shapes.require_keys(tensors, (first, "down_blocks.0.resnets.0.conv2.weight"), where)
    channels = tensors[first].shape[1] - 1
    tables = [value.shape[1] for key, value in tensors.items() if key.endswith(".pe")]
    return SparseCtrlConfig(
        image=_image(tensors, latents, channels),
        picture_channels=channels,
        latents=latents,
        max_frames=min(tables, default=32),
    )


def _image(tensors: Mapping[str, Tensor], latents: bool, channels: int) -> dict[str, Any]:
    levels = range(shapes.count(tensors, r"down_blocks\.(\d+)\.resnets\."))
    attends = [f"down_blocks.{level}.attentions.0.proj_in.weight" in tensors for level in levels]
    text = [t for key, t in tensors.items() if key.endswith("transformer_blocks.0.attn2.to_k.weight")]
    image = {
        "in_channels": tensors["conv_in.weight"].shape[1] if "conv_in.weight" in tensors else channels,
        "block_out_channels": tuple(
            tensors[f"down_blocks.{level}.resnets.0.conv2.weight"].shape[0] for level in levels
        ),
        "layers_per_block": shapes.count(tensors, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": shapes.blocks_of(attends)["down_block_types"],
        "cross_attention_dim": text[0].shape[1] if text else 768,
        "attention_head_dim": shapes.HEADS,
    }
    return image if latents else image | {"conditioning_embedding_out_channels": _embedding(tensors)}


def _embedding(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the channels of the network that embeds pictures: two convolutions lead from one to the next."""
    count = shapes.count(tensors, rf"{EMBED}blocks\.(\d+)\.")
    first = tensors[f"{EMBED}conv_in.weight"].shape[0]
    return (first, *(tensors[f"{EMBED}blocks.{n}.weight"].shape[0] for n in range(1, count, 2)))
