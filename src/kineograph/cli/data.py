"""`kineograph data`: obtain, make, import and check data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from kineograph.cli._output import emit, stages


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """Obtain the animated-emoji data set: four npm packages, decoded, captioned and split.

    About 730 MB are downloaded with `npm`, once, and kept in archives/. The clips, without loss, take about 4.7 GB more
    at 256 pixels, 1.7 GB at 128. A command that was interrupted goes on where it stopped. The clips are MIT-licensed
    (Microsoft Fluent Emoji).
    """

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """Folder of the data set; made where it is missing."""

    archives: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder with the four archives where they are already downloaded (default: download with npm)."""

    size: int = 256
    """Edge of the square clips, in pixels, 8 to 256."""

    background: Annotated[str, arg(metavar="COLOUR")] = "white"
    """Colour under the drawing: a name, #rrggbb, or transparent to keep the alpha channel."""

    limit: Annotated[int | None, arg(metavar="N")] = None
    """Take this many clips, for a trial: animated ones first, from all over the set (default: all)."""

    overwrite: bool = False
    """Make the manifest of a data set that is there anew; its clips are kept."""

    json: bool = False
    """Print the counts as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Read a data set through: counts, buckets, the first bad line, damaged files.

    With a request (--num-frames, --fps, --size) it also says which clips a training run could use and why others drop
    out. Exit status 0 when nothing is wrong, 1 when something is.
    """

    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder with manifest.jsonl, or the manifest."""

    num_frames: Annotated[int | None, arg(metavar="N")] = None
    """Frames per sample of a planned training run (default: no request)."""

    fps: Annotated[float | None, arg(metavar="FPS")] = None
    """Its sampling rate, in frames per second (default: 8, as train takes them)."""

    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Edge of its samples, in pixels (default: any)."""

    fast: bool = False
    """Only open the files; truncated and corrupt ones may pass."""

    workers: int = 2
    """Files read side by side."""

    json: bool = False
    """Print the report as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Import a folder of videos with captions beside them, two text files, or a CSV or TSV table.

    Writes a manifest; the videos stay where they are. Texts are UTF-8, or UTF-16 with a byte order mark.
    """

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Folder of videos, folder with prompts.txt and videos.txt, or table."""

    output: Annotated[Path | None, arg(aliases=("-o",), metavar="DIR")] = None
    """Folder for the manifest (default: the source's own folder)."""

    layout: Literal["auto", "folder", "table", "text-files"] = "auto"
    """How the source is laid out; auto recognises it."""

    caption_column: Annotated[str | None, arg(metavar="NAME")] = None
    """The table's column with captions (default: found by its name)."""

    path_column: Annotated[str | None, arg(metavar="NAME")] = None
    """The table's column with files (default: found by its name)."""

    videos: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the table's or list's files are (default: the folder of the table or list)."""

    split: str = ""
    """Split of clips for which the table names none (default: train)."""

    licence: str = ""
    """Licence of clips for which the table names none; empty is unknown."""

    workers: int = 2
    """Files looked at side by side."""

    overwrite: bool = False
    """Renew a manifest that is there: what the source does not say anew, such as scores, is kept."""

    json: bool = False
    """Print the report as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Make clips of moving shapes, with exact captions and, if wanted, exact motion."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """Folder of the data set; made where it is missing."""

    count: int = 64
    """Clips to make."""

    seed: int = 0
    """Everything random about the clips follows from it."""

    num_frames: int = 16
    """Frames per clip."""

    size: int = 64
    """Edge of the square clips, in pixels, at least 16."""

    fps: float = 8.0
    """Frames per second."""

    objects: Annotated[int | None, arg(metavar="N")] = None
    """Shapes per clip, 1 or 2 (default: either)."""

    textured: bool = False
    """Give shapes and background patterns that move with them."""

    test_every: Annotated[int | None, arg(metavar="N")] = None
    """Put every Nth clip into the split `test` (default: none)."""

    flow: bool = False
    """Also write each clip's optical flow and masks, as flow/NUMBER.npz."""

    overwrite: bool = False
    """Replace a data set that is there: clips/, flow/ and the manifest."""

    json: bool = False
    """Print the manifest's place and the count as one JSON document."""


Args = (
    Annotated[Emoji, subcommand("emoji")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Synthetic, subcommand("synthetic")]
    | Annotated[Check, subcommand("check")]
)


def run(args: Emoji | Import | Synthetic | Check) -> int:
    """Carry out one verb."""
    match args:
        case Emoji():
            return _emoji(args)
        case Import():
            return _import(args)
        case Synthetic():
            return _synthetic(args)
        case Check():
            return _check(args)


def _emoji(args: Emoji) -> int:
    """Obtain the emoji and print the counts."""
    from kineograph.data.emoji import obtain_emoji

    with stages() as progress:
        report = obtain_emoji(
            args.output,
            archives=args.archives,
            size=args.size,
            background=args.background,
            limit=args.limit,
            overwrite=args.overwrite,
            progress=progress,
        )
    text = (
        f"{report.clips} clips ({report.animated} animated): {report.train} to train, {report.held_out} held-out "
        f"combinations, {len(report.skipped)} skipped, {report.bytes / 1e6:.0f} MB\n{report.manifest}"
    )
    emit(report, text, args.json)
    return 0


def _import(args: Import) -> int:
    """Write a manifest for another layout and print what became of its entries."""
    from kineograph.data.importers import import_data

    with stages() as progress:
        report = import_data(
            args.source,
            args.output,
            layout=args.layout,
            caption_column=args.caption_column,
            path_column=args.path_column,
            videos=args.videos,
            split=args.split,
            licence=args.licence,
            workers=args.workers,
            overwrite=args.overwrite,
            progress=progress,
        )
    emit(report.to_json(), report.summary, args.json)
    return 0


def _synthetic(args: Synthetic) -> int:
    """Make the clips."""
    from kineograph.data.synthetic import write_synthetic

    with stages() as progress:
        manifest = write_synthetic(
            args.output,
            args.count,
            args.seed,
            num_frames=args.num_frames,
            size=args.size,
            fps=args.fps,
            objects=args.objects,
            textured=args.textured,
            test_every=args.test_every,
            flow=args.flow,
            overwrite=args.overwrite,
            progress=progress,
        )
    emit({"manifest": manifest, "clips": args.count}, f"{args.count} clips\n{manifest}", args.json)
    return 0


def _check(args: Check) -> int:
    """Check a data set."""
    from kineograph.data.check import check
    from kineograph.data.frames import FrameSpec

    asked = args.num_frames is not None or args.size is not None
    with stages() as progress:
        report = check(
            args.directory,
            num_frames=args.num_frames,
            fps=FrameSpec.fps if args.fps is None and asked else args.fps,
            size=args.size,
            decode=not args.fast,
            workers=args.workers,
            progress=progress,
        )
    emit(report.to_json(), report.summary, args.json)
    return 0 if report.ok else 1
