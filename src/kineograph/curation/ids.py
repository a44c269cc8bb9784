"""Identities: what a file, a clip or a set of parameters is called.

Names follow from content, never from paths or clocks: the same bytes anywhere are the same source, the same stretch of
it cut by the same recipe is the same clip, and a changed parameter is a changed fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

ID_BYTES = 20
_BLOCK = 1 << 20


def source_id(path: str | Path) -> str:
    """Return the BLAKE2b-160 of a file's bytes, as 40 hex digits."""
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    with open(path, "rb") as file:  # noqa: PTH123 - the path may hold bytes that are not UTF-8
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def text_id(*parts: object) -> str:
    """Return the BLAKE2b-160 of words, for things without bytes of their own."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=ID_BYTES).hexdigest()


def clip_id(source: str, stream: int, start_pts: int, end_pts: int, time_base: str, recipe: str) -> str:
    """Return a clip's id.

    Args:
        source: The source's id.
        stream: Index of the video stream in its container.
        start_pts: pts of the first frame.
        end_pts: pts at which the last frame ends.
        time_base: Seconds per unit of pts, as `"num/den"`.
        recipe: Fingerprint of how the clip's file is made from the source.
    """
    return text_id("clip", source, stream, start_pts, end_pts, time_base, recipe)


def fingerprint(name: str, version: int, parameters: Any) -> str:
    """Return 16 hex digits that change with a stage's parameters or the version of its code.

    Args:
        name: The stage.
        version: Raised by whoever changes what the stage's code computes.
        parameters: Plain data, written as canonical JSON.
    """
    text = json.dumps([name, version, parameters], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def printable(path: str | bytes | os.PathLike[Any]) -> str:
    r"""Write a path so that any file format can hold it: bytes that are not UTF-8 become `\xff`.

    Args:
        path: A path, possibly with undecodable bytes.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
