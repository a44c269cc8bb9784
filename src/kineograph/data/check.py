"""Read a data set through: what is in it, what is wrong with it, and what a training request would leave out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kineograph.data.importers import measured
from kineograph.data.manifest import Clip, iterate_manifest, manifest_path
from kineograph.errors import DataError, InputError, KineographError
from kineograph.video import iterate

Progress = Callable[[int, int | None, str], None]
_FPS_TOLERANCE = 0.02


@dataclass(frozen=True)
class Request:
    """What a training run wants of every clip.

    Attributes:
        num_frames: Frames per sample.
        fps: Rate at which they are sampled; None takes each clip's own rate.
        size: (height, width) of the samples in pixels; None takes any.
    """

    num_frames: int
    fps: float | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        manifest: The manifest read.
        clips: Clips on its good lines.
        animated: Clips of more than one frame.
        frames: Frames in all.
        seconds: Seconds in all.
        splits: Split to clips.
        licences: Licence to clips; `""` is unknown.
        captions: Clips with a caption.
        distinct_captions: Different captions.
        buckets: Height, width, fps (rounded), least and most frames, and clips of every bucket; frames are grouped by
            powers of two. Largest bucket first.
        first_bad_line: The message about the first line that is no clip (`file:line: ...`); lines after it were not
            read. None if all are good.
        duplicates: Paths that occur more than once.
        missing: Paths without a file.
        unreadable: Path to reason.
        mismatched: Path to what the manifest says and the file is.
        decoded: Whether files were decoded to their end, or only opened.
        request: What a training run wants, if asked.
        kept: Clips that serve the request.
        dropped: Reason to number of clips that do not.
        enlarged: Clips that serve the request but are smaller than its size.
    """

    manifest: str
    clips: int
    animated: int
    frames: int
    seconds: float
    splits: dict[str, int]
    licences: dict[str, int]
    captions: int
    distinct_captions: int
    buckets: list[dict[str, float | int]]
    first_bad_line: str | None
    duplicates: list[str]
    missing: list[str]
    unreadable: dict[str, str]
    mismatched: dict[str, str]
    decoded: bool
    request: Request | None
    kept: int
    dropped: dict[str, int]
    enlarged: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the data set and the request, if any, finds clips."""
        wrong = self.first_bad_line or self.duplicates or self.missing or self.unreadable or self.mismatched
        return not wrong and self.clips > 0 and (self.request is None or self.kept > 0)

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def summary(self) -> str:
        """Give the report in words."""
        return "\n".join([*_counts(self), *_buckets(self), *_troubles(self), *_request(self)])


def check(
    directory: str | Path,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    size: int | tuple[int, int] | None = None,
    decode: bool = True,
    workers: int = 2,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a data set.

    Args:
        directory: Folder with `manifest.jsonl`, or the manifest.
        num_frames: Frames per sample of a planned training run; None checks no request.
        fps: Its sampling rate; None takes each clip's own.
        size: Its sample size in pixels, an edge or (height, width); None takes any.
        decode: Decode every file to its end, which finds truncated and corrupt ones; else only open them.
        workers: Files read side by side.
        progress: Called with `(done, total, what)`.

    Raises:
        DataError: There is no manifest.
        InputError: The request makes no sense.
    """
    request = _wanted(num_frames, fps, size)
    clips, bad_line = _good_clips(directory)
    root = manifest_path(directory).parent
    found: dict[int, dict[str, Any] | str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for index, facts in enumerate(pool.map(lambda clip: _facts(root / clip.path, decode), clips)):
            found[index] = facts
            if progress:
                progress(index + 1, len(clips), "clips")
    reasons = [_dropped_because(clip, found[index], request) for index, clip in enumerate(clips)]
    kept = [clip for clip, reason in zip(clips, reasons, strict=True) if reason is None]
    pairs = [(clip, found[index]) for index, clip in enumerate(clips)]
    return CheckReport(
        manifest=str(manifest_path(directory)),
        clips=len(clips),
        animated=sum(clip.frames > 1 for clip in clips),
        frames=sum(clip.frames for clip in clips),
        seconds=round(sum(clip.frames / clip.fps for clip in clips if clip.fps), 3),
        splits=_count(clip.split for clip in clips),
        licences=_count(clip.licence for clip in clips),
        captions=sum(bool(clip.caption.strip()) for clip in clips),
        distinct_captions=len({clip.caption for clip in clips if clip.caption.strip()}),
        buckets=_bucket_rows(clips),
        first_bad_line=bad_line,
        duplicates=[path for path, count in Counter(clip.path for clip in clips).items() if count > 1],
        missing=[clip.path for clip, facts in pairs if facts == _MISSING],
        unreadable={clip.path: facts for clip, facts in pairs if isinstance(facts, str) and facts != _MISSING},
        mismatched={clip.path: text for clip, facts in pairs if (text := _mismatch(clip, facts))},
        decoded=decode,
        request=request,
        kept=len(kept) if request else 0,
        dropped=_count(reason for reason in reasons if reason) if request else {},
        enlarged=sum(_is_enlarged(clip, request) for clip in kept),
    )


_MISSING = "the file is missing"


def _wanted(num_frames: int | None, fps: float | None, size: int | tuple[int, int] | None) -> Request | None:
    if num_frames is None and fps is None and size is None:
        return None
    edges = (size, size) if isinstance(size, int) else size
    if (
        (num_frames is not None and num_frames < 1)
        or (fps is not None and fps <= 0)
        or (edges is not None and min(edges) < 1)
    ):
        raise InputError(f"A request for num_frames={num_frames}, fps={fps}, size={size} asks for nothing.")
    return Request(num_frames or 1, fps, edges)


def _good_clips(directory: str | Path) -> tuple[list[Clip], str | None]:
    """Read the manifest up to its first bad line."""
    manifest_path(directory)
    clips: list[Clip] = []
    try:
        for _, clip in iterate_manifest(directory):
            clips.append(clip)
    except DataError as error:
        return clips, str(error)
    return clips, None


def _facts(file: Path, decode: bool) -> dict[str, Any] | str:
    """Measure a file; the reason as text if that fails."""
    if not file.exists():
        return _MISSING
    facts = measured(file)
    if isinstance(facts, str) or not decode:
        return facts
    try:
        return facts | {"frames": sum(1 for _ in iterate(file))}
    except KineographError as error:
        return str(error)


def _mismatch(clip: Clip, facts: dict[str, Any] | str) -> str | None:
    """Say where the manifest and the file differ."""
    if isinstance(facts, str):
        return None
    claimed = {key: getattr(clip, key) for key in facts}
    fps_fits = abs(clip.fps - facts["fps"]) <= _FPS_TOLERANCE * facts["fps"] or clip.frames == 1
    wrong = [key for key in facts if claimed[key] != facts[key] and not (key == "fps" and fps_fits)]
    return "; ".join(f"{key} is {facts[key]:g}, the manifest says {claimed[key]:g}" for key in wrong) or None


def _dropped_because(clip: Clip, facts: dict[str, Any] | str, request: Request | None) -> str | None:
    """Say why a clip does not serve a request, as a bucket for counting."""
    if request is None:
        return None
    if isinstance(facts, str):
        return "missing" if facts == _MISSING else "unreadable"
    if request.num_frames > 1 and facts["frames"] == 1:
        return "a single picture"
    # Samples are taken at 0, 1/fps, 2/fps, ... before the clip's end.
    rate = facts["fps"] or 1.0
    samples = facts["frames"] if request.fps is None else math.ceil(facts["frames"] * request.fps / rate - 1e-6)
    if samples < request.num_frames:
        at = "" if request.fps is None else f" at {request.fps:g} fps"
        return f"shorter than {request.num_frames} frames{at}"
    return None


def _is_enlarged(clip: Clip, request: Request | None) -> bool:
    return request is not None and request.size is not None and (
        clip.height < request.size[0] or clip.width < request.size[1]
    )  # fmt: skip


def _count(words: Any) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _bucket_rows(clips: list[Clip]) -> list[dict[str, float | int]]:
    counts = Counter(
        (clip.height, clip.width, round(clip.fps, 2), 1 << (clip.frames.bit_length() - 1)) for clip in clips
    )
    return [
        {"height": h, "width": w, "fps": fps, "min_frames": low, "max_frames": 2 * low - 1, "clips": count}
        for (h, w, fps, low), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _counts(report: CheckReport) -> Iterator[str]:
    yield f"{report.manifest}: {report.clips} clips ({report.animated} animated), {report.seconds:.1f} s"
    yield "splits: " + (", ".join(f"{name} {count}" for name, count in report.splits.items()) or "none")
    yield f"captions: {report.captions} of {report.clips}, {report.distinct_captions} different"
    yield "licences: " + (
        ", ".join(f"{name or 'unknown'} {count}" for name, count in report.licences.items()) or "none"
    )


def _buckets(report: CheckReport, shown: int = 12) -> Iterator[str]:
    for row in report.buckets[:shown]:
        low, high = row["min_frames"], row["max_frames"]
        frames = "a picture" if high == 1 else f"{low} to {high} frames at {row['fps']:g} fps"
        yield f"bucket {row['width']}x{row['height']}, {frames}: {row['clips']} clips"
    if len(report.buckets) > shown:
        yield f"and {len(report.buckets) - shown} more buckets"


def _troubles(report: CheckReport) -> Iterator[str]:
    if report.first_bad_line:
        yield f"first bad line: {report.first_bad_line} Lines after it were not read."
    lists = {"named twice": report.duplicates, "missing": report.missing}
    tables = {"unreadable": report.unreadable, "different from the manifest": report.mismatched}
    for what, paths in lists.items():
        if paths:
            yield f"{len(paths)} {what}, such as {paths[0]}"
    for what, reasons in tables.items():
        if reasons:
            path, reason = next(iter(reasons.items()))
            yield f"{len(reasons)} {what}, such as {path}: {reason}"
    if not report.decoded:
        yield "files were opened but not decoded"


def _request(report: CheckReport) -> Iterator[str]:
    if report.request is None:
        return
    yield f"a run of {report.request.num_frames} frames keeps {report.kept} of {report.clips} clips"
    for reason, count in report.dropped.items():
        yield f"{count} dropped: {reason}"
    if report.enlarged:
        yield f"{report.enlarged} are smaller than the requested size and would be enlarged"
