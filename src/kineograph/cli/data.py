"""`kineograph data`: obtain data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg, subcommand

from kineograph.cli._output import emit, stages


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """Obtain the animated-emoji data set: four npm packages, decoded, captioned and split.

    About 730 MB are downloaded with `npm`, once; a command that was interrupted goes on where it stopped. The clips are
    MIT-licensed (Microsoft Fluent Emoji).
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
    """Stop after this many clips, for a trial (default: all)."""

    json: bool = False
    """Print the counts as one JSON document."""


Args = Annotated[Emoji, subcommand("emoji")]


def run(args: Emoji) -> int:
    """Carry out one verb."""
    return _emoji(args)


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
            progress=progress,
        )
    text = (
        f"{report.clips} clips ({report.animated} animated): {report.train} to train, {report.held_out} held-out "
        f"combinations, {len(report.skipped)} skipped\n{report.manifest}"
    )
    emit(report, text, args.json)
    return 0
