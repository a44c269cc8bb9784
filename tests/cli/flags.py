"""List every flag of every command; run as a program, accept the present list (`make flags`)."""

import contextlib
import dataclasses
import io
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import tyro

from kineograph.cli import COMMANDS
from kineograph.cli._parse import CONFIG, load

AGREED = Path(__file__).with_name("flags.txt")


def members(kind: object) -> list[object]:
    """Return the dataclasses of a command: itself, or the members of its union."""
    inner = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    return [inner] if dataclasses.is_dataclass(inner) else [m for part in typing.get_args(inner) for m in members(part)]


def help_of(member: object) -> str:
    """Return a dataclass's help text, narrow enough that tyro puts its sections one below the other."""
    shown = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="80"),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit),
    ):
        tyro.cli(member, prog="kineograph", args=["--help"], config=CONFIG)
    return shown.getvalue()


def actions(member: object) -> Iterator[tuple[list[str], str]]:
    """Yield the spellings and the help of every argument of one dataclass."""
    section, entries = "", []
    for line in help_of(member).splitlines():
        if set(line) <= {" ", "-"}:
            continue
        if re.match(r" \S", line):
            section = line.strip()
        elif found := re.match(r"  (-\S.*?|\S+)(?: {2,}(.*?))?\s*$", line):
            if found[1].startswith("-") or section == "positional arguments":
                entries.append((found[1], found[2] or ""))
        elif entries and line.startswith("   "):
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}".strip())
    for spelt, text in entries:
        words = [word.split()[0] for word in spelt.split(", ")] if spelt.startswith("-") else [f"<{spelt}>"]
        if "--help" not in words:
            yield words, text


def listing() -> list[str]:
    """Return one line per argument: command, dataclass, spellings."""
    lines = []
    for name, (module, _) in COMMANDS.items():
        for member in members(load(module).Args):
            lines += [f"{name} {member.__name__} {' '.join(sorted(words))}" for words, _ in actions(member)]
    return sorted(lines)


if __name__ == "__main__":
    AGREED.write_text("\n".join(listing()) + "\n")
