"""What the name of an output means: which file format, or a folder; and names that belong to another system."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kineograph.errors import InputError, nearest

SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".gif", ".webp", ".apng", ".png")
"""What `Video.save` writes, besides a folder of PNG pictures."""
_VERSION = re.compile(r"\.\d+([-_ ].*)?")
_DRIVE = re.compile(r"([A-Za-z]):[\\/](.*)")


def is_folder(name: str) -> bool:
    """Say whether a name means a folder: it ends in a slash, is one already, or has no ending; `.5` of v1.5 is none."""
    suffix = Path(name).suffix
    return name.endswith(("/", os.sep)) or Path(name).is_dir() or not suffix or _VERSION.fullmatch(suffix) is not None


def ending(name: str, known: Sequence[str], what: str) -> str:
    """Return the ending of a file's name in lower case; empty for a folder.

    Args:
        name: What the user wrote.
        known: Endings that say a format, with their dot.
        what: What names the output, for messages, such as `"--output"`.

    Raises:
        InputError: The ending says no format, or the name is a path of another system.
    """
    refuse_windows(name, what)
    suffix = Path(name).suffix.lower()
    if suffix in known and not name.endswith(("/", os.sep)):
        return suffix
    if is_folder(name):
        return ""
    raise InputError(
        f"{what} '{name}' has an unknown ending '{suffix}'{nearest(suffix, known)} Known: {', '.join(known)}; a folder "
        f"ends in a slash: '{name}/'."
    )


def refuse_windows(name: str, what: str) -> None:
    """Refuse a path of Windows on another system, where it would be the odd name of one file.

    Raises:
        InputError: Says how to write it here.
    """
    if hint := windows_hint(name):
        raise InputError(f"{what} '{name}' has backslashes, which divide no folders here. {hint}")


def windows_hint(name: str) -> str:
    """Say how a path with backslashes is written here; empty for other names, and on Windows."""
    if os.sep != "/" or "\\" not in name:
        return ""
    right = name.replace("\\", "/")
    drive = _DRIVE.fullmatch(right)
    return f"Under WSL it is '/mnt/{drive[1].lower()}/{drive[2]}'." if drive else f"Write '/' instead: '{right}'."
