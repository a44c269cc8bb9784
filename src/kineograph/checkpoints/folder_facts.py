"""What stands in a model folder beside what is loaded: the data types of its weights, and parts that are not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kineograph._read_weights import read_weight_file
from kineograph._weight_kinds import layout_of
from kineograph.checkpoints.image import INDEX, read_index
from kineograph.errors import WeightsError
from kineograph.models.weight_files import find_files
from kineograph.models.weights import WEIGHTS

TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""What safetensors calls the types of numbers that are not whole."""
READ = ("unet", "vae", "scheduler", "motion_adapter", "image_encoder", "feature_extractor", "image_projector")
"""Parts of pipelines that are read; text encoders and tokenizers, which may be numbered, are too."""


def stored_types(folder: Path) -> frozenset[torch.dtype]:
    """Return the data types of the numbers in a model folder that are not whole, from its files' headers."""
    found: set[torch.dtype] = set()
    for part in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for file in _weights_in(part):
            found |= _types_in(file)
    return frozenset(found)


def _weights_in(part: Path) -> list[Path]:
    """Return the files that are read of a folder."""
    files = [part / "temporal.safetensors"] if (part / "temporal.safetensors").is_file() else []
    for stem in (WEIGHTS, "model"):
        try:
            return [*files, *find_files(part, stem, quiet=True)]
        except WeightsError:
            continue
    return files


def _types_in(file: Path) -> set[torch.dtype]:
    from safetensors import safe_open

    if layout_of(file) != "safetensors":
        tensors = read_weight_file(file).values()
        return {value.dtype for value in tensors if isinstance(value, torch.Tensor) and value.is_floating_point()}
    with safe_open(str(file), "pt") as opened:
        names = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118 - no mapping
    return {TYPES[name] for name in names if name in TYPES}


def unread_parts(folder: Path) -> tuple[str, ...]:
    """Say which parts of a pipeline's folder are not read and so not written again."""
    if not (folder / INDEX).is_file():
        return ()
    index: Mapping[str, Any] = read_index(folder)
    names = [name for name, value in index.items() if isinstance(value, list) and value and value[0]]
    others = [name for name in names if not name.startswith(("text_encoder", "tokenizer")) and name not in READ]
    return (f"{' and '.join(others)} of the source is not read and not written",) if others else ()
