"""Prompts: as words of the command line, where some are files instead, in files, and as names of files."""

from __future__ import annotations

import re
from pathlib import Path

from kineograph._text import parse_json, read_lines
from kineograph.errors import InputError

FILES = {
    "a picture": ((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".heic", ".avif"), "--image"),
    "a clip": ((".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".webp", ".apng"), "--between or --image"),
    "a file of prompts": ((".txt", ".jsonl"), "--prompts"),
    "weights": ((".safetensors", ".ckpt", ".pt", ".pth", ".bin"), "--model or --lora"),
}
"""Endings of file names, what such a file is, and the flags that take it."""


def check_word(word: str) -> None:
    """Refuse a file name in the place of a prompt.

    Raises:
        InputError: Names the flag that takes such a file.
    """
    ending = Path(word.strip()).suffix.lower()
    for what, (endings, flags) in FILES.items():
        if ending in endings:
            raise InputError(
                f"'{word}' looks like the name of a file, not a prompt. Is this {what}? {flags} {word}. If it is "
                f'meant as words: --prompt "{word}".'
            )
    if "/" in word and Path(word).exists():
        raise InputError(f"'{word}' is a folder or file here, not a prompt. Is this a model? --model {word}.")


def slug(prompt: str) -> str:
    """Return the first words of a prompt as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "clip"


def read_prompts(file: Path) -> list[tuple[str, int | None]]:
    """Read prompts, one per line; a line that begins with `{` is JSON with `prompt` and perhaps `seed`.

    Raises:
        InputError: No such file, no text, or a bad line.
    """
    lines = ((number, line.strip()) for number, line in read_lines(file, InputError))
    found = [_prompt_of(line, file, number) for number, line in lines if line]
    if not found:
        raise InputError(f"--prompts {file} holds no prompt.")
    return found


def _prompt_of(line: str, file: Path, number: int) -> tuple[str, int | None]:
    if not line.startswith("{"):
        return line, None
    row = parse_json(line, str(file), InputError, number)
    try:
        return str(row["prompt"]), None if row.get("seed") is None else int(row["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{file}:{number}: expected text or {{"prompt": "...", "seed": 0}} ({error}).') from error
