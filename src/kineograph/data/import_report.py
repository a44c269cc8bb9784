"""What became of everything that an import found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kineograph.data.manifest import windows_hint


@dataclass(frozen=True)
class ImportReport:
    """What became of everything that an import found.

    Attributes:
        manifest: The manifest written.
        layout: `"folder"`, `"table"` or `"text-files"`.
        found: Entries found, and clips of the manifest before that are not among them; always `clips +
            len(missing_files) + len(unreadable) + len(duplicates)`.
        clips: Clips written.
        missing_captions: Paths written with an empty caption.
        kept: Clips of the manifest before that the source does not hold; they stay in the manifest.
        missing_files: Entries whose file is not there, and clips of the manifest before whose file is gone.
        unreadable: Path to reason, for files that are not videos.
        duplicates: Entries that name a file a second time; the first is written.
        orphan_captions: Caption files without a video.
        ignored: Suffix to number of files of other kinds.
    """

    manifest: str
    layout: str
    found: int
    clips: int
    kept: int = 0
    missing_captions: list[str] = field(default_factory=list)
    missing_files: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    orphan_captions: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """Give the report in words, one line per kind of trouble with its count and first example."""
        lines = [f"{self.clips} of {self.found} clips written to {self.manifest}"]
        lines += [f"{self.kept} of them stay from the manifest before; the source does not hold them"] * bool(self.kept)
        troubles: dict[str, list[str]] = {
            "without a caption (written with an empty one)": self.missing_captions,
            "left out, file missing": [path + windows_hint(path) for path in self.missing_files],
            "left out, unreadable": [f"{path}: {reason}" for path, reason in self.unreadable.items()],
            "left out, named twice": self.duplicates,
            "caption files without a video": self.orphan_captions,
            "files of other kinds": [f"{count} {suffix}" for suffix, count in self.ignored.items()],
        }
        lines += [f"{len(items)} {what}, such as {items[0]}" for what, items in troubles.items() if items]
        return "\n".join(lines)
