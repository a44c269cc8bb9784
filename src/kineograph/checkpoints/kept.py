"""What a file of the authors holds beyond what is used here: kept beside the converted model, and written back.

The weights that a model gives back are compared with the file's. What is missing or differs in a single bit lies in
`original.safetensors` of the converted folder, with the data types and the names of the rest: averaged weights, layers
that are never run, tables that are computed here, bookkeeping. Nothing else reads it; without it a conversion to
`original` makes what is missing itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph._read_weights import read_metadata
from kineograph.errors import WeightsError
from kineograph.models.weights import read_safetensors, write_safetensors

NAME = "original.safetensors"
HEADER = "kineograph"


@dataclass(frozen=True)
class Kept:
    """What a file has that a model's own weights do not give back.

    Attributes:
        tensors: Weights, as the file has them.
        absent: Names that are written otherwise and that the file does not have.
        kind: Most usual data type in the file, such as `"float16"`.
        kinds: The other data types, by name.
        metadata: Texts of the file's header.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    kind: str = "float32"
    kinds: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """Say what is kept; empty where nothing is."""
        if not self.tensors:
            return ""
        size = sum(value.numel() * value.element_size() for value in self.tensors.values())
        return (
            f"{len(self.tensors)} weights that are not used here as they are ({size / 1e6:.1f} MB, such as "
            f"{', '.join(list(self.tensors)[:3])}) are kept in {NAME}, from which --to original writes them back"
        )


def compare(theirs: Mapping[str, Tensor], made: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Kept:
    """Return what must be kept so that a file comes back exactly.

    Args:
        theirs: The file's weights.
        made: What a conversion to `original` makes without it.
        metadata: Texts of the file's header.
    """
    kinds = {key: _name_of(value.dtype) for key, value in theirs.items()}
    usual = Counter(kinds.values()).most_common(1)[0][0] if kinds else "float32"
    parts = {key.partition(".")[0] for key in theirs}
    return Kept(
        tensors={key: v.clone() for key, v in theirs.items() if not _same(v, made.get(key))},
        absent=tuple(key for key in made if key not in theirs and key.partition(".")[0] in parts),
        kind=usual,
        kinds={key: kind for key, kind in kinds.items() if kind != usual},
        metadata={key: value for key, value in metadata.items() if key != "format"},
    )


def _same(theirs: Tensor, made: Tensor | None) -> bool:
    return made is not None and made.shape == theirs.shape and torch.equal(made.to(theirs.dtype), theirs)


def restored(made: Mapping[str, Tensor], kept: Kept, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return a file's weights: what a conversion makes, with what was kept in its place.

    Args:
        made: What a conversion to `original` makes.
        kept: What was kept.
        dtype: Type of all numbers that are not whole; None gives each the type that it had.
    """
    whole = {key: value for key, value in made.items() if key not in kept.absent} | dict(kept.tensors)
    if dtype is not None:
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in whole.items()}
    return {key: value.to(_type_of(kept.kinds.get(key, kept.kind))) for key, value in whole.items()}


def write_kept(kept: Kept, folder: Path) -> None:
    """Write what is kept into a folder."""
    noted = {name: getattr(kept, name) for name in ("absent", "kind", "kinds", "metadata")}
    write_safetensors(kept.tensors, folder / NAME, {"format": "pt", HEADER: json.dumps(noted)})


def read_kept(folder: Path) -> Kept | None:
    """Read what is kept in a folder, if something is.

    Raises:
        WeightsError: The file is damaged.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        noted: dict[str, Any] = json.loads(read_metadata(file)[HEADER])
        kept = Kept(read_safetensors(file), tuple(noted["absent"]), noted["kind"], noted["kinds"], noted["metadata"])
        for kind in (kept.kind, *kept.kinds.values()):
            _type_of(kind)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"'{file}' is not what a conversion keeps ({error}). Without it --to original writes what is used here."
        ) from error
    return kept


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _type_of(name: str) -> torch.dtype:
    found = getattr(torch, name) if name.isidentifier() else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"'{name}' is no data type")
    return found
