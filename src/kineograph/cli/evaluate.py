"""`kineograph evaluate`: numbers with protocol and error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.metrics.evaluation import Evaluation


@dataclass(frozen=True)
class Args:
    """Score clips: FVD, FID, CLIPSIM and others, with protocol and error bars.

    Exit status 0 when every clip was measured and every named metric ran, 1 when some were not, 2 when nothing could be
    measured.
    """

    generated: tyro.conf.Positional[Path]
    """Folder of videos, data set with a manifest, or one video."""

    reference: Path | None = None
    """Real clips, for distances; clips of the same names, for PSNR and SSIM (default: none)."""

    prompts: Path | None = None
    """Text file with a line per clip, JSON object by name, or JSON lines (default: manifest, then files)."""

    metrics: str = ""
    """Metrics, separated by commas, such as fvd,kvd or evalcrafter; empty takes all that can run. `list` lists them."""

    protocol: str = ""
    """Published protocol instead of metrics, such as fvd2048_16f_styleganv. `list` lists them."""

    weights: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Official weights, NAME=PATH, such as i3d=i3d_pretrained_400.pt; may be repeated."""

    num_frames: int = 16
    """Frames per clip; 0 takes all."""

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

    json: bool = False
    """Print one JSON document instead of text."""


def run(args: Args) -> int:
    """Measure, print, write the report."""
    from kineograph.cli._output import emit

    if "list" in (args.metrics, args.protocol):
        return _list(args)
    if args.report and args.report.suffix not in (".html", ".md"):
        raise InputError(f"--report ends in .html or .md, given '{args.report}'.")
    found = _measure(args)
    emit(found.to_dict(), lambda: _text(found), args.json)
    if args.report:
        _report(args, found)
    asked = set(_names(args.metrics)) | ({args.protocol} if args.protocol else set())
    return 0 if found.complete and not asked & set(found.skipped) else 1


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
            num_frames=args.num_frames or None,
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
    from kineograph.metrics.extractors import EXTRACTORS
    from kineograph.metrics.measures import MEASURES
    from kineograph.metrics.protocols import PROTOCOLS

    if args.protocol == "list":
        table = {name: {"metric": p.measure, "source": p.source, "caveat": p.caveat} for name, p in PROTOCOLS.items()}
        text = lambda: "\n".join(f"{n}: {p.measure}. {p.source}" for n, p in PROTOCOLS.items())
    else:
        needs = lambda m: EXTRACTORS[m.extractor].weights if m.extractor else ""
        table = {
            name: {"label": m.label, "reference": m.needs_reference, "weights": needs(m)}
            for name, m in MEASURES.items()
        }
        text = lambda: "\n".join(
            f"{name}: {m.label}"
            + (", needs --reference" if m.needs_reference else "")
            + (f", needs {w}" if (w := needs(m)) else "")
            for name, m in MEASURES.items()
        )
    emit(table, text, args.json)
    return 0
