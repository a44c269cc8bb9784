"""Read a data set through: what is in it, what is wrong with it, and what a training request would leave out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kineograph.data.captions import weighted_captions
from kineograph.data.facts import MISSING, Facts, file_facts
from kineograph.data.lengths import Fit, fit_of, why_too_short
from kineograph.data.manifest import Clip, iterate_manifest, manifest_path, windows_hint
from kineograph.data.splits import TRAIN, held_out_sentence
from kineograph.errors import DataError, InputError

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
        distinct_captions: Different captions; of several of a clip, the first.
        malformed: Path to what is wrong with the list of captions in `captions`; training refuses it.
        buckets: Height, width, fps (rounded), least and most frames, and clips of every bucket; frames are grouped by
            powers of two. Largest bucket first.
        first_bad_line: The message about the first line that is no clip (`file:line: ...`); lines after it were not
            read. None if all are good.
        duplicates: Paths that name a file which an earlier line names.
        missing: Paths without a file.
        unreadable: Path to reason.
        mismatched: Path to what the manifest says and the file is.
        decoded: Whether files were decoded to their end, or only opened.
        outside: Paths that lead out of the folder, which so cannot be moved or passed on alone; no fault.
        request: What a training run wants, if asked.
        fit: Which clips serve the request, by the frames that they really give.
        trained: The same of the clips of split `"train"`; indices count among these.
        kept: Number of those that do.
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
    malformed: dict[str, str]
    buckets: list[dict[str, float | int]]
    first_bad_line: str | None
    duplicates: list[str]
    missing: list[str]
    unreadable: dict[str, str]
    mismatched: dict[str, str]
    decoded: bool
    outside: list[str]
    request: Request | None
    fit: Fit | None
    trained: Fit | None
    kept: int
    dropped: dict[str, int]
    enlarged: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the data set and the request, if any, finds clips to train on."""
        lists = (self.duplicates, self.missing, self.unreadable, self.mismatched, self.malformed)
        return (
            not self.first_bad_line
            and not any(lists)
            and self.clips > 0
            and (self.trained is None or bool(self.trained.kept))
        )

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return {"ok": self.ok, **{key: value for key, value in asdict(self).items() if key not in ("fit", "trained")}}

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
    found: list[Facts | str] = []
    with ThreadPoolExecutor(workers) as pool:
        for facts in pool.map(lambda clip: file_facts(root / clip.path, decode), clips):
            found.append(facts)
            if progress:
                progress(len(found), len(clips), "clips")
    texts, malformed = _captions(clips)
    fit = _fit(found, request) if request else None
    learnt = [facts for clip, facts in zip(clips, found, strict=True) if clip.split == TRAIN]
    pairs = list(zip(clips, found, strict=True))
    return CheckReport(
        manifest=str(manifest_path(directory)),
        clips=len(clips),
        animated=sum(clip.frames > 1 for clip in clips),
        frames=sum(clip.frames for clip in clips),
        seconds=round(sum(clip.frames / clip.fps for clip in clips if clip.fps), 3),
        splits=_count(clip.split for clip in clips),
        licences=_count(clip.licence for clip in clips),
        captions=sum(bool(words) for words in texts),
        distinct_captions=len({words for words in texts if words}),
        malformed=malformed,
        buckets=_bucket_rows(clips),
        first_bad_line=bad_line,
        duplicates=_duplicates(root, clips),
        missing=[clip.path for clip, facts in pairs if facts == MISSING],
        unreadable={clip.path: facts for clip, facts in pairs if isinstance(facts, str) and facts != MISSING},
        mismatched={clip.path: text for clip, facts in pairs if (text := _mismatch(clip, facts))},
        decoded=decode,
        outside=[clip.path for clip in clips if _leads_out(clip.path)],
        request=request,
        fit=fit,
        trained=_fit(learnt, request) if request else None,
        kept=len(fit.kept) if fit else 0,
        dropped=fit.dropped if fit else {},
        enlarged=sum(_is_enlarged(clips[index], request) for index in fit.kept) if fit else 0,
    )


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


def _captions(clips: list[Clip]) -> tuple[list[str], dict[str, str]]:
    """Give the first caption of every clip, as training reads it, and what cannot be read."""
    texts, malformed = [], {}
    for clip in clips:
        try:
            texts.append(weighted_captions(clip)[0][0].strip())
        except DataError as error:
            texts.append(clip.caption.strip())
            malformed[clip.path] = str(error)
    return texts, malformed


def _duplicates(root: Path, clips: list[Clip]) -> list[str]:
    """List the paths that name a file a second time, however they are written."""
    seen: set[str] = set()
    again: dict[str, None] = {}
    for clip in clips:
        file = os.path.realpath(root / clip.path)
        if file in seen:
            again[clip.path] = None
        seen.add(file)
    return list(again)


def _leads_out(path: str) -> bool:
    return Path(path).is_absolute() or Path(os.path.normpath(path)).parts[:1] == ("..",)


def _mismatch(clip: Clip, facts: Facts | str) -> str | None:
    """Say where the manifest and the file differ."""
    if isinstance(facts, str):
        return None
    wrong = [key for key in ("fps", "frames", "height", "width") if getattr(clip, key) != getattr(facts, key)]
    if clip.frames == 1 or any(abs(clip.fps - rate) <= _FPS_TOLERANCE * rate for rate in (facts.fps, facts.average)):
        wrong = [key for key in wrong if key != "fps"]
    says = [f"{key} is {getattr(facts, key):g}, the manifest says {getattr(clip, key):g}" for key in wrong]
    duration = clip.extra.get("duration")  # of curated clips
    if isinstance(duration, (int, float)) and abs(duration - facts.seconds) > _longest_step(facts):
        says.append(f"duration is {facts.seconds:g}, the manifest says {duration:g}")
    return "; ".join(says) or None


def _longest_step(facts: Facts) -> float:
    """Give the seconds by which two ends of a clip may differ: one frame, or the tolerance of rates."""
    return max(facts.seconds / facts.frames, _FPS_TOLERANCE * facts.seconds)


def _fit(found: list[Facts | str], request: Request) -> Fit:
    """Choose the clips that serve a request, as training does."""
    return fit_of([_dropped_because(facts, request) for facts in found], request.num_frames, request.fps)


def _dropped_because(facts: Facts | str, request: Request) -> str | None:
    if isinstance(facts, str):
        return "missing" if facts == MISSING else "unreadable"
    return why_too_short(facts.given(request.fps), request.num_frames, request.fps)


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
    if report.splits:
        yield "`train` " + held_out_sentence(split for split, count in report.splits.items() for _ in range(count))
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
    tables["with captions that cannot be used"] = report.malformed
    for what, paths in lists.items():
        if paths:
            yield f"{len(paths)} {what}, such as {paths[0]}{windows_hint(paths[0])}"
    for what, reasons in tables.items():
        if reasons:
            path, reason = next(iter(reasons.items()))
            yield f"{len(reasons)} {what}, such as {path}: {reason}"
    if report.outside:
        yield f"{len(report.outside)} lead out of the folder, such as {report.outside[0]}"
    if not report.decoded:
        yield "files were opened but not decoded"


def _request(report: CheckReport) -> Iterator[str]:
    if report.request is None:
        return
    yield from str(report.fit).split("; ")
    if set(report.splits) != {TRAIN}:
        yield f"of the split '{TRAIN}': {report.trained}"
    if report.enlarged:
        yield f"{report.enlarged} are smaller than the requested size and would be enlarged"
