"""List every flag of every command; run as a program, accept the present list (`make flags`)."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import tyro

from kineograph.cli import COMMANDS
from kineograph.cli._parse import CONFIG, load

AGREED = Path(__file__).with_name("flags.txt")


def members(kind: object) -> list[object]:
    """Return the dataclasses of a command: itself, or the members of its union."""
    inner = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    return [inner] if dataclasses.is_dataclass(inner) else [m for part in typing.get_args(inner) for m in members(part)]


def actions(member: object) -> Iterator[tuple[list[str], str]]:
    """Yield the spellings and the help of every argument of one dataclass."""
    parser = tyro.extras.get_parser(member, config=CONFIG)
    for action in parser._actions:
        if action.dest != "help":
            yield action.option_strings or [f"<{action.dest}>"], str(action.help or "")


def listing() -> list[str]:
    """Return one line per argument: command, dataclass, spellings."""
    lines = []
    for name, (module, _) in COMMANDS.items():
        for member in members(load(module).Args):
            lines += [f"{name} {member.__name__} {' '.join(sorted(words))}" for words, _ in actions(member)]
    return sorted(lines)


if __name__ == "__main__":
    AGREED.write_text("\n".join(listing()) + "\n")
