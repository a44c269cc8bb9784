"""Paths of Windows on another system: refused where they would become odd file names, explained where they fail."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kineograph.errors import InputError

_DRIVE = re.compile(r"([A-Za-z]):\\(.*)")
_MIXED = re.compile(r"[^\s\\]+(\\[^\s\\]+)+\\?")


def refuse_drives(words: Sequence[str]) -> None:
    r"""Refuse `C:\films\a.mp4`: it would be the name of one file in this folder.

    Raises:
        InputError: A word, or what a flag is given after `=`, is such a path.
    """
    for word in map(_value, words) if os.sep == "/" else ():
        if (found := _DRIVE.fullmatch(word)) and not Path(word).exists():
            rest = found[2].replace("\\", "/")
            raise InputError(
                f"'{word}' is a path of Windows. Here folders are separated by '/', and drives have no letter: under "
                f"WSL it is '/mnt/{found[1].lower()}/{rest}'."
            )


def explained(message: str, words: Sequence[str]) -> str:
    r"""Add to a message about `films\a.mp4` that folders are separated otherwise here."""
    named = (value for value in map(_value, words) if _MIXED.fullmatch(value) and value in message)
    path = next(named, None) if os.sep == "/" and "divide no folders here" not in message else None
    right = "" if path is None else path.replace("\\", "/")
    return message if path is None else f"{message} Here folders are separated by '/': '{right}'."


def _value(word: str) -> str:
    """Return a word, or what follows `--flag=`."""
    return word.partition("=")[2] if word.startswith("-") and "=" in word else word
