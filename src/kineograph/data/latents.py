"""Latents on disk: every frame of a frame store, encoded once.

The directory's name is a hash of the frame store and of the encoder's weights, so that latents of another autoencoder
are never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kineograph.data.cache import default_cache, opened, write_index
from kineograph.data.frames import FrameStore

VERSION = 1


@dataclass(frozen=True)
class LatentStore:
    """Latents of a data set.

    Attributes:
        latents: float16 `(total, channels, height, width)`, memory-mapped; rows as in the frame store.
        frames: The frame store it was made from.
    """

    latents: np.ndarray
    frames: FrameStore

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        return self.latents.shape[1:]

    def window(self, clip: int, start: int, count: int) -> np.ndarray:
        """Return `count` consecutive latents of a clip, the last one repeated past its end (for still pictures)."""
        first, length = int(self.frames.starts[clip]), int(self.frames.counts[clip])
        rows = first + np.minimum(np.arange(start, start + count), length - 1)
        return self.latents[rows]


def latent_store(
    frames: FrameStore,
    encode: Callable[[np.ndarray], np.ndarray],
    fingerprint: str,
    cache: str | Path | None = None,
    batch: int = 32,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> LatentStore:
    """Open the latents of a frame store, encoding them first if need be.

    Args:
        frames: The decoded frames.
        encode: Maps uint8 `(n, size, size, 3)` to normalised latents `(n, channels, height, width)`.
        fingerprint: Hash of everything that determines `encode`.
        cache: Folder for stores; None takes the default.
        batch: Frames per call.
        progress: Called with `(done, total, what)`.
    """
    key = hashlib.sha256(f"{VERSION}:{frames.key}:{fingerprint}".encode()).hexdigest()[:20]
    directory = Path(cache or default_cache()) / "latents" / key
    index = opened(directory, lambda part: _build(frames, encode, part, batch, progress), progress)
    mapped = np.memmap(directory / "latents.f16", np.float16, "r", shape=tuple(index["shape"]))
    return LatentStore(np.asarray(mapped), frames)  # a plain view: numpy's own class for it is slow to index


def _build(
    frames: FrameStore,
    encode: Callable[[np.ndarray], np.ndarray],
    part: Path,
    batch: int,
    progress: Callable[[int, int | None, str], None] | None,
) -> None:
    """Encode everything into a folder; its index comes last."""
    part.mkdir(parents=True)
    total, shape = len(frames.frames), ()
    with (part / "latents.f16").open("wb") as out:
        for start in range(0, total, batch):
            latents = encode(frames.frames[start : start + batch]).astype(np.float16)
            shape = latents.shape[1:]
            out.write(latents.tobytes())
            if progress:
                progress(min(start + batch, total), total, "latents")
    write_index(part, {"shape": [total, *shape]})
