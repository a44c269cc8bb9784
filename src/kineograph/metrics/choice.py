"""Which metrics of an evaluation can run, found before any clip is decoded; why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kineograph.errors import InputError, unknown
from kineograph.metrics import evalcrafter
from kineograph.metrics.clips import Facts, Record, Sampling
from kineograph.metrics.extractors import EXTRACTORS, Extractors
from kineograph.metrics.measures import MEASURES, Measure
from kineograph.metrics.protocols import Published

EVALCRAFTER = "evalcrafter"
"""Typed as a metric: all of EvalCrafter's that can run; the others are skipped with what they need."""
FRAMES = 16
"""Frames per clip that are measured unless told otherwise, as in most protocols of FVD."""
SHORT_SHARE = 0.05
"""Share of the clips that may be too short for the frames that all are measured with; they are failures then."""
Records = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Seen:
    """What is known of the clips of an evaluation before they are decoded.

    Attributes:
        counts: Clips by side.
        frames: Frames measured of each clip; None where they differ or nobody knows.
        side: Pixels along the shorter edge of the largest clip, as it is measured; None where nobody knows.
        paired: Whether every generated clip has a reference clip of its name.
    """

    counts: Mapping[str, int]
    frames: int | None
    side: int | None
    paired: bool

    @classmethod
    def of(cls, records: Records, sampling: Sampling) -> Seen:
        """Look at the clips' files, without decoding them."""
        facts = [found for record in records["generated"] if (found := record.facts()) is not None]
        frames = sampling.num_frames or max((_measured(found, sampling) for found in facts), default=None)
        side = sampling.size or max((min(found.height, found.width) for found in facts), default=None)
        names = {record.name for record in records.get("reference", ())}
        paired = all(record.name in names for record in records["generated"])
        return cls({name: len(rows) for name, rows in records.items()}, frames, side, paired)


def _measured(found: Facts, sampling: Sampling) -> int:
    """Return how many frames of a whole clip the stride leaves."""
    return -(-found.frames // sampling.stride)


def fitted(records: Records, sampling: Sampling) -> tuple[Sampling, tuple[str, ...]]:
    """Take as many frames as the clips have, up to the usual number, and say so where they are fewer.

    Args:
        records: The clips of each side.
        sampling: With stride and window; its number of frames is what is found here.

    Returns:
        The sampling with a number of frames that all but the shortest twentieth of the clips have, and a note.
    """
    known = [found for rows in records.values() for record in rows if (found := record.facts()) is not None]
    lengths = sorted(_measured(found, sampling) for found in known)
    count = min(FRAMES, lengths[int(SHORT_SHARE * len(lengths))]) if lengths else FRAMES
    note = (
        f"The shorter clips have {count} frames, so {count} of each are measured, not {FRAMES}; --num-frames sets it."
    )
    return replace(sampling, num_frames=count), (note,) if count < FRAMES else ()


def choose(
    names: Sequence[str] | None, plan: Published | None, records: Records, sampling: Sampling, extractors: Extractors
) -> tuple[dict[str, Measure], dict[str, str]]:
    """Tell the metrics that can run from the others.

    Args:
        names: Typed ones; None or empty takes all, EvalCrafter's only by its own name.
        plan: Published protocol that is kept, or None.
        records: The clips of each side.
        sampling: Which frames are measured.
        extractors: The networks there are.

    Returns:
        What is measured by name, and for every other one the reason, with the line that mends it where there is one.

    Raises:
        InputError: An unknown name, or a published protocol that cannot be kept.
    """
    given, skipped = _typed(names)
    seen = Seen.of(records, sampling)
    chosen = given or [name for name, m in MEASURES.items() if m.default and (m.family != "pairs" or seen.paired)]
    wanted: dict[str, Measure] = {}
    for name in dict.fromkeys(chosen):
        measure = MEASURES[name].with_options(**plan.options) if plan else MEASURES[name]
        reason = why_not(measure, seen, extractors)
        if reason:
            skipped[name] = reason
        else:
            wanted[name] = measure
    if plan:
        _check_plan(plan, skipped, extractors)
    return wanted, skipped


def _typed(names: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the metrics that were named, a suite by its parts, and the parts of the suite that cannot run."""
    given, skipped = list(names or ()), {}
    if EVALCRAFTER in given:
        parts = [m for m in evalcrafter.METRICS if m.measure]
        skipped = evalcrafter.skipped([m.key for m in parts])
        given = [name for name in given if name != EVALCRAFTER] + [m.measure for m in parts]
    for name in given:
        if name not in MEASURES:
            raise unknown("metric", name, [*MEASURES, EVALCRAFTER])
    return given, skipped


def _check_plan(plan: Published, skipped: Mapping[str, str], extractors: Extractors) -> None:
    """Refuse a published protocol that cannot be kept.

    Raises:
        InputError: Says why.
    """
    if plan.measure in skipped:
        raise InputError(f"The protocol cannot be kept: {plan.measure} {skipped[plan.measure]}.")
    name = MEASURES[plan.measure].extractor
    if plan.scripted and "scripted" not in extractors.frames(name).card.preparation:
        raise InputError("This protocol is defined on StyleGAN-V's scripted weights, which resize themselves.")


def why_not(measure: Measure, seen: Seen, extractors: Extractors) -> str | None:
    """Return why a metric cannot run on these clips; None if it can, as far as can be told beforehand."""
    if measure.needs_reference and len(seen.counts) < 2:
        return "needs reference clips: --reference FOLDER"
    if reason := extractors.why_not(measure.extractor) if measure.extractor else None:
        return reason
    return _too_little(measure, seen, extractors)


def _too_little(measure: Measure, seen: Seen, extractors: Extractors) -> str | None:
    """Return what the clips have too little of: number, frames or pixels."""
    fewest, unit = (1, "clip") if not measure.extractor else extractors.limits(measure.extractor)
    frames = max(measure.frames, fewest)
    if seen.frames is not None and seen.frames < frames:
        return f"needs at least {frames} frames per clip; {seen.frames} are measured"
    if seen.side is not None and seen.side < measure.side:
        return f"needs at least {measure.side} pixels along the shorter edge; the largest clip has {seen.side}"
    if unit == "clip" and any(count < measure.clips for count in seen.counts.values()):
        given = " and ".join(f"{count} {side}" for side, count in seen.counts.items())
        return f"needs at least {measure.clips} clips a side; there are {given}"
    return None


def needs(measure: Measure) -> list[str]:
    """Return what a metric needs, in a few words each, for a list of metrics."""
    weights = EXTRACTORS[measure.extractor].weights if measure.extractor else ""
    words = ["--reference"] if measure.needs_reference else []
    words += [f"--weights {measure.extractor}=PATH"] if weights else []
    words += ["prompts"] if measure.family in ("text", "match") else []
    least = (("frames", measure.frames), ("pixels", measure.side), ("clips", measure.clips))
    return words + [f"{count} {what}" for what, count in least if count > 1]
