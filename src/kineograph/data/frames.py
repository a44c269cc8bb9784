"""Decoded frames on disk: every clip sampled by time at one rate and size, as one memory-mapped array.

Training reads pictures from here at random without decoding anything. The directory's name is a hash of all that
matters (manifest, size, rate, length), so that a stale store is never read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kineograph.data.manifest import Clip, clip_from_dict, clip_to_dict, manifest_path, read_manifest
from kineograph.errors import DataError, KineographError

VERSION = 1
MAX_FAILED_SHARE = 0.05  # more unreadable clips than this stop the run: something is wrong with the data set


@dataclass(frozen=True, kw_only=True)
class FrameSpec:
    """What is taken of each clip."""

    size: int = 128
    """Edge of the square frames in pixels; other shapes are padded with their edge colour, never cropped."""
    fps: float = 8.0
    """Frames per second to sample at."""
    max_frames: int = 24
    """At most this many frames from the start of each clip."""
    background: str = "white"
    """Colour under transparent frames."""


@dataclass(frozen=True)
class FrameStore:
    """Frames of a data set.

    Attributes:
        frames: uint8 `(total, size, size, 3)`, memory-mapped.
        starts: First row of each clip.
        counts: Number of rows of each clip.
        clips: The manifest entries, in the same order.
        key: Hash of everything that determines the content.
        spec: What was taken of each clip.
    """

    frames: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    clips: list[Clip]
    key: str
    spec: FrameSpec

    def rows_of(self, split: str) -> np.ndarray:
        """Return the frame rows of a split."""
        picks = [
            np.arange(s, s + n)
            for s, n, clip in zip(self.starts, self.counts, self.clips, strict=True)
            if clip.split == split
        ]
        return np.concatenate(picks) if picks else np.zeros(0, np.int64)

    def clips_of(self, split: str, min_frames: int = 1) -> np.ndarray:
        """Return the indices of a split's clips with at least `min_frames` frames."""
        keep = [i for i, clip in enumerate(self.clips) if clip.split == split and self.counts[i] >= min_frames]
        return np.array(keep, np.int64)

    def random_frames(self, clips: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Return one frame of each clip, uint8 `(n, size, size, 3)`, chosen by the clip's seed."""
        within = [seed % count for seed, count in zip(seeds, self.counts[clips].tolist(), strict=True)]
        return self.frames[self.starts[clips] + np.array(within)]


def store_key(data: str | Path, spec: FrameSpec) -> str:
    """Return the hash of the manifest and the specification."""
    digest = hashlib.sha256(manifest_path(data).read_bytes())
    digest.update(json.dumps({"version": VERSION, **asdict(spec)}, sort_keys=True).encode())
    return digest.hexdigest()[:20]


def default_cache() -> Path:
    """Return the folder for caches: `$KINEOGRAPH_CACHE`, or `~/.cache/kineograph`."""
    import os

    return Path(os.environ.get("KINEOGRAPH_CACHE", Path.home() / ".cache" / "kineograph"))


def frame_store(
    data: str | Path,
    spec: FrameSpec,
    cache: str | Path | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> FrameStore:
    """Open a data set's frame store, decoding it first if need be.

    Args:
        data: Data-set folder.
        spec: What to take of each clip.
        cache: Folder for stores; None takes `default_cache()`.
        progress: Called with `(done, total, what)`.

    Raises:
        DataError: No manifest, or more than 5 % of the clips cannot be read.
    """
    key = store_key(data, spec)
    directory = Path(cache or default_cache()) / "frames" / key
    if not (directory / "index.json").is_file():
        _build(Path(data), spec, directory, progress)
    index = json.loads((directory / "index.json").read_text())
    shape = (index["total"], spec.size, spec.size, 3)
    frames = np.memmap(directory / "frames.u8", np.uint8, "r", shape=shape)
    clips = [clip_from_dict(row, str(directory)) for row in index["clips"]]
    return FrameStore(frames, np.array(index["starts"]), np.array(index["counts"]), clips, key, spec)


def _build(
    data: Path, spec: FrameSpec, directory: Path, progress: Callable[[int, int | None, str], None] | None
) -> None:
    """Decode every clip into a temporary directory and rename it."""
    clips = read_manifest(data)
    part = directory.with_name(f".part-{directory.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    root, kept, starts, counts, failed, total = manifest_path(data).parent, [], [], [], {}, 0
    with (part / "frames.u8").open("wb") as out, ThreadPoolExecutor(2) as pool:
        for done, (clip, frames) in enumerate(
            zip(clips, pool.map(lambda c: _decode(root / c.path, c.frames == 1, spec), clips), strict=True)
        ):
            if isinstance(frames, str):
                failed[clip.path] = frames
                continue
            out.write(frames.tobytes())
            kept.append(clip_to_dict(clip))
            starts.append(total)
            counts.append(len(frames))
            total += len(frames)
            if progress:
                progress(done + 1, len(clips), "frames")
    if len(failed) > MAX_FAILED_SHARE * len(clips):
        shutil.rmtree(part)
        name, why = next(iter(failed.items()))
        raise DataError(f"{len(failed)} of {len(clips)} clips cannot be read, such as '{name}': {why}")
    index = {"total": total, "starts": starts, "counts": counts, "clips": kept, "failed": failed, "spec": asdict(spec)}
    (part / "index.json").write_text(json.dumps(index))
    part.replace(directory)


def _decode(path: Path, still: bool, spec: FrameSpec) -> np.ndarray | str:
    """Return a clip's frames `(frames, size, size, 3)`, or why it cannot be read."""
    from kineograph.video import Video

    fps, end = (None, None) if still else (spec.fps, spec.max_frames / spec.fps)
    try:
        return square(Video.read(path, fps=fps, end=end, background=spec.background).to_uint8(), spec.size)
    except KineographError as error:
        return str(error)


def square(frames: np.ndarray, size: int) -> np.ndarray:
    """Pad frames to a square with their edge pixels and resize them (area average).

    Args:
        frames: uint8 `(frames, height, width, 3)`.
        size: Edge of the result.
    """
    from PIL import Image

    _, height, width, _ = frames.shape
    edge = max(height, width)
    top, left = (edge - height) // 2, (edge - width) // 2
    pads = ((0, 0), (top, edge - height - top), (left, edge - width - left), (0, 0))
    frames = np.pad(frames, pads, mode="edge") if height != width else frames
    if edge == size:
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BOX)) for f in frames])
