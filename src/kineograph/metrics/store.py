"""Features on disk, so that a second evaluation decodes nothing and runs no network.

One small safetensors file per clip and extractor, named by hashes of the weights and preparation, of the frames chosen
and of the video file. Written under a temporary name, then renamed: several processes may share a store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def default_store() -> Path:
    """`$KINEOGRAPH_CACHE/features`, or `~/.cache/kineograph/features`."""
    root = os.environ.get("KINEOGRAPH_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "kineograph") / "features"


@dataclass(frozen=True)
class Store:
    """A folder of features; with `folder=None` nothing is kept.

    Attributes:
        folder: Where to keep them.
    """

    folder: Path | None

    def get(self, key: tuple[str, str, str]) -> dict[str, Tensor] | None:
        """Return the tensors kept under (measure, frames, clip), or None; a damaged file counts as missing."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            return None

    def put(self, key: tuple[str, str, str], tensors: dict[str, Tensor]) -> None:
        """Keep tensors under (measure, frames, clip)."""
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
        part.replace(path)

    def _path(self, key: tuple[str, str, str]) -> Path | None:
        measure, frames, clip = key
        return None if self.folder is None else self.folder / f"{measure}-{frames}" / f"{clip}.safetensors"
