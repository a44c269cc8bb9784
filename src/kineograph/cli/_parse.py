"""From words to a command's typed arguments, by way of tyro."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, Union

import tyro

from kineograph.errors import InputError, unknown

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)
"""Markers that hold for every command: `--json` has no `--no-json`, and comments are not help text."""

_SHELLS = ("bash", "zsh", "tcsh")
_SENTENCES = ("Perhaps you meant", "For full helptext", "Argument helptext")
_FRAME = re.compile(r"^[╭╰│|+][─\s]?|[╮╯│|+]$|─+", flags=re.MULTILINE)


def load(module: str) -> ModuleType:
    """Import a command's module."""
    return importlib.import_module(module)


def parse(module: ModuleType, name: str, words: Sequence[str]) -> Any:
    """Parse the words into the command's `Args`.

    Args:
        module: The command's module, with `Args`.
        name: The command's name, shown in help and errors.
        words: What the user typed after the name.

    Returns:
        An instance of `Args` (of one member, where `Args` is a union).

    Raises:
        InputError: A flag or value is not allowed; the message names the nearest flag.
        SystemExit: Status 0, after `--help` was printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(module.Args, prog=f"kineograph {name}", args=list(words), config=CONFIG)
    except SystemExit as stop:
        if not stop.code:
            sys.stderr.write(said.getvalue())
            raise
        raise InputError(_unframed(said.getvalue())) from None


def completion(words: Sequence[str], commands: Mapping[str, tuple[str, str]]) -> str:
    """Return a completion script for the whole program.

    Args:
        words: The shell's name, one of bash, zsh and tcsh.
        commands: The table of commands.

    Returns:
        The script.

    Raises:
        InputError: The shell is missing or not known.
    """
    if len(words) != 1 or words[0] not in _SHELLS:
        raise unknown("shell", " ".join(words), _SHELLS)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        tyro.cli(whole(commands), prog="kineograph", args=["--tyro-print-completion", words[0]], config=CONFIG)
    return said.getvalue()


def whole(commands: Mapping[str, tuple[str, str]]) -> Any:
    """Return one union type with a member per command, for completion scripts and the list of flags."""
    members = [Annotated[load(module).Args, tyro.conf.subcommand(name)] for name, (module, _) in commands.items()]
    return Union[tuple(members)]  # noqa: UP007 (built at run time)


def _unframed(text: str) -> str:
    """Turn tyro's boxed message into one paragraph of sentences."""
    lines = [_FRAME.sub("", line).strip() for line in text.splitlines()]
    body = [line for line in lines[1:] if line]
    starts = [i for i, line in enumerate(body) if i == 0 or line.startswith(_SENTENCES)]
    sentences = [" ".join(body[i:j]) for i, j in zip(starts, [*starts[1:], len(body)], strict=True)]
    return " ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences)
