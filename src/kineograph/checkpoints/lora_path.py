"""How a LoRA is named on the command line, with its strength; read without torch, so that a slip is told at once."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kineograph.errors import InputError, WeightsError


def split_scale(given: str | Path) -> tuple[Path, float]:
    """Take a file or folder and its strength apart.

    Raises:
        InputError: The strength is no number, or not finite.
        WeightsError: There is no such file or folder.
    """
    path, scale, text = Path(given), 1.0, str(given)
    if not path.exists() and ":" in text:
        stem, _, number = text.rpartition(":")
        with contextlib.suppress(ValueError):
            path, scale = Path(stem), float(number)
        if path == Path(given) and Path(stem).exists():
            raise InputError(
                f"--lora {given}: '{number}' is no number. It is written PATH or PATH:strength, as in {stem}:0.8."
            )
    if not path.exists():
        raise WeightsError(f"--lora: there is no file '{path}', nor a folder. It is written PATH or PATH:strength.")
    if not abs(scale) < 1e3:
        raise InputError(f"--lora {given}: the strength must be a number between -1000 and 1000, not {scale}.")
    return path, scale
