"""`kineograph evaluate`: numbers with protocol and error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.metrics.outcome import Evaluation


@dataclass(frozen=True)
class Args:
    """Score clips: FVD, FID, CLIPSIM and others, with protocol and error bars.

    A metric that cannot run is skipped with its reason, and the others are measured. Exit status 0 when every clip was
    measured and every metric that was named ran, 1 when some were not, 2 when nothing could be measured.
    """

    generated: tyro.conf.Positional[Path]
    """Folder of videos, or of folders of numbered pictures; data set with a manifest; one video, or the folder of its
    frames."""

    reference: Path | None = None
    """Real clips, for distances; clips of the same names, for PSNR and SSIM (default: none)."""

    prompts: Path | None = None
    """Text file with a line per clip, JSON object by name, or JSON lines (default: manifest, then files)."""

    metrics: str = ""
    """Metrics, separated by commas, such as fvd,kvd or evalcrafter; empty takes all that can run (those of
    pairs where every clip has a reference of its name; EvalCrafter's by that name). `list` lists them."""

    protocol: str = ""
    """Published protocol instead of metrics, such as fvd2048_16f_styleganv. `list` lists them."""

    weights: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Official weights, NAME=PATH, such as i3d=i3d_pretrained_400.pt; may be repeated."""

    num_frames: int | None = None
    """Frames per clip; shorter clips are not measured. 0 takes all of each (default: 16, or as many as nearly all clips
    have)."""

    stride: int = 1
    """Every how many frames."""

    window: str = "first"
    """Part of a longer clip: first, middle or random."""

    size: int = 0
    """Scale clips to this many pixels a side first; 0 keeps them."""

    level: float = 0.95
    """Nominal coverage of the error bars."""

    seed: int = 0
    """Of the random window."""

    store: Path | None = None
    """Folder for features, so that a second run is instant (default: ~/.cache/kineograph/features)."""

    no_store: bool = False
    """Keep no features."""

    report: Path | None = None
    """Write a report with plots and pictures: a file ending in .html or .md (default: none)."""

    overwrite: bool = False
    """Replace a report that exists."""

    json: bool = False
    """Print one JSON document instead of text."""


HINTS = {
    "--metric": "--metrics",
    "--real": "--reference",
    "--ref": "--reference",
    "--frames": "--num-frames",
    "--output": "--report",
    "-o": "--report",
    "--cache": "--store",
    "--force": "--overwrite",
}
"""Flags that people type for ours."""


def run(args: Args) -> int:
    """Measure, print, write the report."""
    from kineograph.cli._output import emit

    if "list" in (args.metrics, args.protocol):
        return _list(args)
    _check(args)
    found = _measure(args)
    emit(found.to_dict(), lambda: _text(found), args.json)
    if args.report:
        _report(args, found)
    if not found.scores:
        return 2
    asked = set(_names(args.metrics)) | ({args.protocol} if args.protocol else set())
    return 0 if found.complete and not asked & set(found.skipped) else 1


def _check(args: Args) -> None:
    """Check what needs no clip, before anything heavy is imported.

    Raises:
        InputError: The report cannot be written, or a number is out of range.
    """
    from kineograph.cli._outputs import check_free

    if args.report and args.report.suffix not in (".html", ".md"):
        raise InputError(f"--report ends in .html or .md, given '{args.report}'.")
    if args.report:
        check_free([args.report], "--report", args.overwrite)
    for name, least in (("num_frames", 0), ("stride", 1), ("size", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {value}.")
    if not 0 < args.level < 1:
        raise InputError(f"--level is a share between 0 and 1, such as 0.95, not {args.level:g}.")


def _measure(args: Args) -> Evaluation:
    from kineograph.cli._output import stages
    from kineograph.metrics.evaluation import evaluate
    from kineograph.metrics.store import default_store

    with stages("clips") as report:
        return evaluate(
            args.generated,
            args.reference,
            args.prompts,
            metrics=_names(args.metrics) or None,
            protocol=args.protocol or None,
            num_frames="fitting" if args.num_frames is None else args.num_frames or None,
            stride=args.stride,
            window=args.window,
            size=args.size or None,
            weights=_weights(args.weights),
            store=None if args.no_store else args.store or default_store(),
            level=args.level,
            seed=args.seed,
            progress=lambda done, total: report(done, total, "measuring"),
        )


def _names(text: str) -> list[str]:
    return [name.strip().lower() for name in text.split(",") if name.strip()]


def _weights(pairs: Sequence[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError(f"--weights takes NAME=PATH, given '{wrong[0]}'. Example: --weights i3d=i3d_pretrained_400.pt")
    return dict(pair.split("=", 1) for pair in pairs)


def _text(found: Evaluation) -> str:
    from kineograph.metrics.report import remarks

    lines = [str(score) for score in found.scores.values()]
    for score in found.scores.values():
        lines += [f"  {score.name}: {warning}" for warning in score.warnings]
    return "\n".join([*lines, *remarks(found)])


def _report(args: Args, found: Evaluation) -> None:
    from kineograph.cli._output import say
    from kineograph.metrics.clips import list_clips
    from kineograph.metrics.report import write_report

    assert args.report is not None
    records = {record.name: record for record in list_clips(args.generated, "generated clips")}
    path = write_report(found, args.report, lambda name: records[name].load().frames, f"Evaluation of {args.generated}")
    say(f"wrote {path}")


def _list(args: Args) -> int:
    from kineograph.cli._output import emit
    from kineograph.cli._output import table as columns
    from kineograph.metrics.choice import EVALCRAFTER, needs
    from kineograph.metrics.extractors import EXTRACTORS
    from kineograph.metrics.measures import MEASURES
    from kineograph.metrics.protocols import PROTOCOLS

    if args.protocol == "list":
        table = {name: {"metric": p.measure, "source": p.source, "caveat": p.caveat} for name, p in PROTOCOLS.items()}
        text = lambda: "\n".join(f"{n}: {p.measure}. {p.source}" for n, p in PROTOCOLS.items())
    else:
        called = lambda m: m.label.replace("{part}", "precision and others").replace(
            "{}", EXTRACTORS[m.extractor].called if m.extractor else ""
        )
        table = {
            name: {"label": called(m), "what": m.title, "needs": needs(m), "default": m.default}
            for name, m in MEASURES.items()
        }
        weights = {name: entry.weights for name, entry in EXTRACTORS.items() if entry.weights}
        rows = [(name, row["label"], row["what"], ", ".join(row["needs"])) for name, row in table.items()]
        text = lambda: "\n".join(
            [
                columns(rows, ("metric", "reported as", "what it is", "needs")),
                "",
                f"{EVALCRAFTER}: the suite of that name, as far as it can run.",
                *(f"Weights of {name}: {files}." for name, files in weights.items()),
            ]
        )
    emit(table, text, args.json)
    return 0
