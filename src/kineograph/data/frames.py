"""Decoded frames on disk: every clip sampled by time at one rate and size, as one memory-mapped array.

Training reads pictures from here at random without decoding anything. The directory's name is a hash of all that
matters (manifest, path, size and time of each file, and what is taken of it), so that a stale store is never read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.data.cache import default_cache, opened, write_index
from kineograph.data.manifest import Clip, clip_from_dict, clip_to_dict, content_key, manifest_path, read_manifest
from kineograph.errors import DataError, InputError, KineographError

VERSION = 2  # 1 padded to squares
MAX_FAILED_SHARE = 0.05  # more unreadable clips than this stop the run: something is wrong with the data set


@dataclass(frozen=True, kw_only=True)
class FrameSpec:
    """What is taken of each clip."""

    size: int = 128
    """Edge of the square frames in pixels; of other shapes the middle square is taken, the rest cut off."""
    fps: float = 8.0
    """Frames per second to sample at."""
    max_frames: int = 24
    """At most this many frames from the start of each clip."""
    background: str = "white"
    """Colour under transparent frames."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.max_frames < 1 or not 0 < self.fps < math.inf:
            raise InputError(
                f"Frames need a size and a number of at least 1 and a rate above 0, not --size {self.size}, "
                f"--max-frames {self.max_frames}, --sample-fps {self.fps:g}."
            )


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
        content: Hash of the manifest's rows and the files' sizes: the same for a copy of the data set elsewhere.
        failed: Path of each clip that could not be read, and why; these are left out.
    """

    frames: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    clips: list[Clip]
    key: str
    spec: FrameSpec
    content: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what a run that is resumed must find again, by flag of the command line."""
        taken = {"size": self.spec.size, "sample-fps": self.spec.fps, "max-frames": self.spec.max_frames}
        data = f"{len(self.clips)} clips (content {self.content[:12]})"
        return {"data": data, **taken, "background": self.spec.background}

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
    """Return the hash of the data set and the specification."""
    text = json.dumps({"version": VERSION, "data": content_key(data), **asdict(spec)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


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
    index = opened(directory, lambda part: _build(Path(data), spec, part, progress), progress)
    shape = (index["total"], spec.size, spec.size, 3)
    frames = np.memmap(directory / "frames.u8", np.uint8, "r", shape=shape)
    clips = [clip_from_dict(row, str(directory)) for row in index["clips"]]
    starts, counts = np.array(index["starts"]), np.array(index["counts"])
    return FrameStore(frames, starts, counts, clips, key, spec, index["content"], index["failed"])


def _build(data: Path, spec: FrameSpec, part: Path, progress: Callable[[int, int | None, str], None] | None) -> None:
    """Decode every clip into a folder; its index comes last."""
    clips = read_manifest(data)
    part.mkdir(parents=True)
    root, rows, starts, counts, failed, total = manifest_path(data).parent, [], [], [], {}, 0
    with (part / "frames.u8").open("wb") as out, ThreadPoolExecutor(2) as pool:
        for done, (clip, frames) in enumerate(
            zip(clips, pool.map(lambda c: _decode(root / c.path, spec), clips), strict=True)
        ):
            if progress:
                progress(done + 1, len(clips), "frames")
            if isinstance(frames, str):
                failed[clip.path] = frames
                continue
            out.write(frames.tobytes())
            rows.append(clip_to_dict(clip))
            starts.append(total)
            counts.append(len(frames))
            total += len(frames)
    if len(failed) > MAX_FAILED_SHARE * len(clips):
        name, why = next(iter(failed.items()))
        raise DataError(f"{len(failed)} of {len(clips)} clips cannot be read, such as '{name}': {why}")
    content = hashlib.sha256()
    for row in rows:
        content.update(json.dumps([row, _bytes(root / row["path"])], sort_keys=True).encode())
    index = {"total": total, "starts": starts, "counts": counts, "clips": rows, "failed": failed}
    write_index(part, {**index, "content": content.hexdigest(), "spec": asdict(spec)})


def _bytes(file: Path) -> int:
    """Return the size of a file, or of the files of a folder of pictures."""
    return sum(entry.stat().st_size for entry in file.iterdir()) if file.is_dir() else file.stat().st_size


def _decode(path: Path, spec: FrameSpec) -> np.ndarray | str:
    """Return a clip's frames `(frames, size, size, 3)`, or why it cannot be read; of a picture one, at any rate."""
    from kineograph.video import Video, probe

    try:
        fps, end = (None, None) if probe(path).frames == 1 else (spec.fps, spec.max_frames / spec.fps)
        return square(Video.read(path, fps=fps, end=end, background=spec.background).to_uint8(), spec.size)
    except KineographError as error:
        return str(error)


def square(frames: np.ndarray, size: int) -> np.ndarray:
    """Take the middle square of frames and resize it (area average).

    Args:
        frames: uint8 `(frames, height, width, 3)`.
        size: Edge of the result.
    """
    from PIL import Image

    _, height, width, _ = frames.shape
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    frames = frames[:, top : top + edge, left : left + edge]
    if edge == size:
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BOX)) for f in frames])
