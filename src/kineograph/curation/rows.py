"""The rows that stages exchange and Parquet parts hold, and where files lie in an output folder.

Only rows cross a process border; frames never do. Positions on a source's time axis are integers in units of the video
stream's `time_base` (presentation time stamps, pts), because a float second or a frame number divided by a frame rate
is wrong in every file of variable frame rate. Intervals are half open: `start_pts` belongs to it, `end_pts` does not.

A part holds nothing that differs between two runs over the same bytes (no clock, no host name), so an interrupted and
resumed run ends in the same bytes as an uninterrupted one. How long things took stands in `log.jsonl`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

OK = "ok"
FILTERED = "filtered"
FAILED = (
    "no_video",
    "unreadable",
    "unsupported",
    "truncated",
    "corrupt",
    "timeout",
    "oom",
    "crashed",
    "too_large",
    "quarantined",
)
"""What a failed source is called. Every source is `ok`, `filtered` or one of these, and is counted once."""

ACCIDENTS = ("timeout", "oom", "crashed", "quarantined")
"""Failures that may lie in the machine or its load; all others are properties of the file and come again."""

STATUSES = (OK, FILTERED, *FAILED)

HDR = frozenset({"smpte2084", "arib-std-b67"})
"""Transfer characteristics of high dynamic range: PQ and HLG (ITU-R BT.2100)."""


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    r"""One file of raw footage.

    Attributes:
        source_id: BLAKE2b-160 of the file's bytes, in hex.
        path: Where it lay, relative to the folder of raw footage; bytes that are not UTF-8 are written `\xff`.
        name: The file's name, in the same writing.
        bytes: Its size.
        status: One of `STATUSES`.
        reason: Why it is not `ok`, for people; the value and the limit where a limit decided. May name partial
            losses of an `ok` source too, such as the hole in a truncated file.
        container: FFmpeg's name of the demuxer, such as `"mov,mp4,m4a,3gp,3g2,mj2"`.
        codec: Such as `"h264"`.
        pixel_format: The decoder's, such as `"yuv420p10le"`.
        width: Displayed width in pixels, after rotation and pixel aspect ratio; 0 where unknown.
        height: Displayed height.
        rotation: Clockwise degrees by which the coded picture is turned: 0, 90, 180 or 270.
        transfer: Transfer characteristics of the first frame, such as `"bt709"`; `"smpte2084"` (PQ) and
            `"arib-std-b67"` (HLG) are those of high dynamic range; empty where the stream does not say.
        interlaced: Share of frames that hold two fields, which stay woven.
        fps: Mean frames per second over the whole file; 0 where unknown.
        duration: Seconds from the first frame's start to the last frame's end, measured, not the header's.
        frames: Frames decoded.
        start_pts: pts of the first displayed frame.
        end_pts: pts at which the last frame ends.
        time_base: Seconds per unit of pts as `"num/den"`; empty where unknown.
        keyframes: pts of the frames at which decoding can start, ascending.
        hard_cuts: pts of the first frame after each hard cut, ascending.
        gradual: `[start_pts, end_pts]` of each gradual transition, which clips exclude.
        holes: `[start_pts, end_pts]` of each stretch that could not be decoded or that the decoder marked as damaged.
        corrupt_frames: Frames that the decoder marked as damaged.
        shots: Number of shots between cuts.
        clips: Number of clips.
        clip_seconds: Seconds in clips. With all that is lost, the seconds from the first frame or damage to the last.
        lost_transitions: Seconds in dissolves and fades.
        lost_holes: Seconds in damaged stretches.
        lost_corrupt: Seconds of shots of a film that is too damaged to be used.
        lost_too_short: Seconds in shots too short for a clip.
        lost_keyframes: Seconds of long enough shots that copies leave out, beside keyframes.
        licence: Licence of the content; empty is unknown.
        config: Fingerprint of the parameters that made this row.
    """

    source_id: str
    path: str
    name: str
    bytes: int
    status: str
    reason: str = ""
    container: str = ""
    codec: str = ""
    pixel_format: str = ""
    width: int = 0
    height: int = 0
    rotation: int = 0
    transfer: str = ""
    interlaced: float = 0.0
    fps: float = 0.0
    duration: float = 0.0
    frames: int = 0
    start_pts: int = 0
    end_pts: int = 0
    time_base: str = ""
    keyframes: list[int] = field(default_factory=list)
    hard_cuts: list[int] = field(default_factory=list)
    gradual: list[list[int]] = field(default_factory=list)
    holes: list[list[int]] = field(default_factory=list)
    corrupt_frames: int = 0
    shots: int = 0
    clips: int = 0
    clip_seconds: float = 0.0
    lost_transitions: float = 0.0
    lost_holes: float = 0.0
    lost_corrupt: float = 0.0
    lost_too_short: float = 0.0
    lost_keyframes: float = 0.0
    licence: str = ""
    config: str = ""


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One clip: a stretch of one shot, cut out of its source.

    Attributes:
        clip_id: BLAKE2b-160 of source, stream, start, end, time base and recipe, in hex.
        source_id: The source's id.
        source_path: The source's `path`.
        path: The clip's file, relative to the output folder: `clips/ab/<clip_id>.mp4`.
        start_pts: pts in the source of the first frame.
        end_pts: pts in the source at which the last frame ends.
        time_base: Seconds per unit of both, as `"num/den"`.
        start: Seconds after the source's first frame.
        end: The same for the end.
        duration: Seconds.
        frames: Frames in the clip's file, as it is read.
        fps: Mean frames per second of the clip's file.
        width: Width in pixels of the pictures that are read from the file: upright, pixels as they are stored.
        height: Height of the same.
        aspect: Width of a pixel over its height, by which players stretch the pictures and readers do not;
            `"aspect>=0.99" "aspect<=1.01"` selects square ones.
        interlaced: Share of the source's frames that hold two fields; `interlaced<=0` selects progressive film.
        hdr: 1 where the source's transfer characteristics are of high dynamic range, which is not tone mapped, else
            0; `hdr<=0` selects the others.
        method: `"copy"` (packets as they are) or `"encode"`.
        motion_mean: Mean length of optical flow per frame pair, over the clip, in units of the picture's short side;
            NaN where the clip is too short for a pair.
        motion_median: Median over the clip's frame pairs of each pair's mean.
        motion_p10: Tenth percentile of the same.
        motion_p90: Ninetieth percentile of the same.
        motion_algorithm: `"farneback"`, `"dis"` or `"none"`.
        motion_size: Size at which flow was measured, as `"320x180"`. Scores of different sizes must not be compared.
        motion_fps: Frame pairs per second.
        corrupt_frames: Damaged frames in the clip; clips that have any are dropped, so 0.
        sha256: SHA-256 of the clip's file, in hex.
        phash: Perceptual hash, 48 hex digits: 64-bit difference hashes of first, middle and last frame in a row.
        licence: Licence of the content; empty is unknown.
        caption: Text that came with the source; empty where none did.
    """

    clip_id: str
    source_id: str
    source_path: str
    path: str
    start_pts: int
    end_pts: int
    time_base: str
    start: float
    end: float
    duration: float
    frames: int
    fps: float
    width: int
    height: int
    method: str
    aspect: float = 1.0
    interlaced: float = 0.0
    hdr: int = 0
    motion_mean: float = float("nan")
    motion_median: float = float("nan")
    motion_p10: float = float("nan")
    motion_p90: float = float("nan")
    motion_algorithm: str = "none"
    motion_size: str = ""
    motion_fps: float = 0.0
    corrupt_frames: int = 0
    sha256: str = ""
    phash: str = ""
    licence: str = ""
    caption: str = ""


class Scorer(Protocol):
    """Something that measures clips by their strips: text, watermarks, similarity, looks, captions.

    Attributes:
        name: Folder under `parts/scores`; letters, digits, `_` and `-`.
        fingerprint: Changes with parameters, code version and model file; another one recomputes only this scorer.
        columns: Name and Arrow type of each column it gives, such as `{"text_area": "double"}`.
    """

    @property
    def name(self) -> str:
        """Folder under `parts/scores`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the scores depend on, besides the clip."""
        ...

    @property
    def columns(self) -> dict[str, str]:
        """Name and Arrow type of each column."""
        ...

    def score(self, strip: np.ndarray, row: dict[str, Any]) -> dict[str, Any]:
        """Measure one clip.

        Args:
            strip: uint8 (3, height, width, 3) in [0, 255]: first, middle and last frame in RGB, long side at most 640.
            row: The clip's row, as `dataclasses.asdict(ClipRow)`.

        Returns:
            A value for each of `columns`.
        """
        ...


ARROW_TYPES = {
    "str": "string",
    "Decoding": "string",
    "int": "int64",
    "float": "float64",
    "bool": "bool",
    "list[int]": "list<int64>",
    "list[float]": "list<float64>",
    "list[str]": "list<string>",
    "list[list[int]]": "list<list<int64>>",
}
"""Arrow's type for each annotation that a row may carry."""

_ARROW_SYNONYMS = {"double": "float64", "float": "float32", "str": "string", "int": "int64", "boolean": "bool"}


def schema(row: type) -> Any:
    """Return the `pyarrow.Schema` of `SourceRow` or `ClipRow`."""
    return schema_of({f.name: ARROW_TYPES[str(f.type)] for f in dataclasses.fields(row)})


def schema_of(columns: dict[str, str]) -> Any:
    """Return the `pyarrow.Schema` of named columns.

    Args:
        columns: Arrow type names, such as `"double"`, `"string"`, `"list<string>"` or
            `"list<struct<text: string, captioner: string, weight: double>>"`.
    """
    from kineograph.errors import require

    pa = require("pyarrow", "curation")
    return pa.schema([(name, arrow_type(text)) for name, text in columns.items()])


def arrow_type(text: str) -> Any:
    """Return the Arrow type of a name; lists and structs may nest.

    Raises:
        InputError: Arrow knows no such type.
    """
    from kineograph.errors import InputError, require

    pa = require("pyarrow", "curation")
    text = text.strip()
    if text.startswith("list<") and text.endswith(">"):
        return pa.list_(arrow_type(text[5:-1]))
    if text.startswith("struct<") and text.endswith(">"):
        pairs = [part.split(":", 1) for part in _split(text[7:-1])]
        return pa.struct([(name.strip(), arrow_type(kind)) for name, kind in pairs])
    try:
        return pa.type_for_alias(_ARROW_SYNONYMS.get(text, text))
    except ValueError as error:
        raise InputError(
            f"Arrow knows no type '{text}'. Use string, int64, double, bool, list<...> or struct<...>."
        ) from error


def _split(text: str) -> list[str]:
    """Split at commas that stand outside angle brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def seconds(pts: int, time_base: str) -> float:
    """Convert a duration in pts units to seconds."""
    return float(pts * Fraction(time_base))


# Where files lie -------------------------------------------------------------------------------------------------

CONFIG_FILE = "config.json"
FILES_FILE = "files.jsonl"
SKIPPED_FILE = "skipped.txt"
LOG_FILE = "log.jsonl"
CLIPS, STRIPS, SELECTIONS, TEMPORARY = "clips", "strips", "selections", "tmp"
PARTS_OF_SOURCES, PARTS_OF_CLIPS, PARTS_OF_SCORES = "parts/sources", "parts/clips", "parts/scores"


def clip_file(clip_id: str) -> str:
    """Return a clip's path, relative to the output folder."""
    return f"{CLIPS}/{clip_id[:2]}/{clip_id}.mp4"


def strip_file(clip_id: str) -> str:
    """Return the path of a clip's strip (first, middle and last frame side by side, JPEG)."""
    return f"{STRIPS}/{clip_id[:2]}/{clip_id}.jpg"


def source_part(out: Path, source_id: str, config: str) -> Path:
    """Return the part that says that a source is done: the only commit point of analysing and clipping."""
    return out / PARTS_OF_SOURCES / f"{source_id}.{config}.parquet"


def clips_part(out: Path, source_id: str, config: str) -> Path:
    """Return the part with a source's clips; meaningless without the source's own part."""
    return out / PARTS_OF_CLIPS / f"{source_id}.{config}.parquet"


def scores_part(out: Path, scorer: str, source_id: str, fingerprint: str) -> Path:
    """Return the part with one scorer's rows for the clips of one source."""
    return out / PARTS_OF_SCORES / scorer / f"{source_id}.{fingerprint}.parquet"
