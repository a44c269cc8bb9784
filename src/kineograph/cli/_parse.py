"""From words to a command's typed arguments, by way of tyro."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin

import tyro

from kineograph.errors import InputError, nearest, unknown

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff, tyro.conf.DisallowNone)
"""Markers that hold for every command: no `--no-json` beside `--json`, comments are no help text, None is not typed."""

_SHELLS = ("bash", "zsh")
_NONE = re.compile(r"\(default:[\s│]+(?:None|'')?\)")
_SENTENCES = ("Perhaps you meant", "For full helptext", "Argument helptext")
_FRAME = re.compile(r"^[╭╰│|+]|[╮╯│|+]$|[─-]{4,}", flags=re.MULTILINE)


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
    kind, program, words = _chosen(module, name, list(words))
    shown, said = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=program, args=words, config=CONFIG)
    except SystemExit as stop:
        if stop.code:
            text = _unframed(said.getvalue())
            raise InputError(_hinted(module, words) or _unknown_flag(kind, program, text) or text) from None
        sys.stdout.write(without_none(shown.getvalue()))
        raise


def _hinted(module: ModuleType, words: Sequence[str]) -> str | None:
    """Return the message for a flag that people type for another one, where the command knows it (`HINTS`)."""
    hints = getattr(module, "HINTS", {})
    typed = next((flag for word in words if (flag := word.partition("=")[0]) in hints), None)
    return typed and f"Unknown flag '{typed}', did you mean '{hints[typed]}'?"


def _unknown_flag(kind: Any, program: str, text: str) -> str | None:
    """Return the message for a flag that does not exist, with the nearest that does; None for other faults."""
    found = re.search(r"Unrecognized options: (--?[a-zA-Z][\w.-]*)", text)
    if not found or "Missing" in text:
        return None
    flags = {flag.lstrip("-"): flag for flag in _flags(kind)}
    typed = found[1].partition("=")[0]
    close = nearest(typed.lstrip("-"), flags)
    for name, flag in flags.items():
        close = close.replace(f"'{name}'", f"'{flag}'")
    return f"Unknown flag '{typed}'{close} All flags: {program} --help"


def _flags(kind: Any) -> list[str]:
    """Return the flags of a command, as its help shows them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        tyro.cli(kind, prog="", args=["--help"], config=CONFIG)
    return re.findall(r"(?:^[│\s]*|, )(--[a-z][\w.-]*)", shown.getvalue(), re.MULTILINE)


def completion(words: Sequence[str], commands: Mapping[str, tuple[str, str]]) -> str:
    """Return a completion script for the whole program.

    Args:
        words: The shell's name, bash or zsh.
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
        tyro.extras.subcommand_cli_from_dict(
            _whole(commands),
            prog="kineograph",
            args=["--tyro-print-completion", words[0]],
            config=(*CONFIG, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
    return said.getvalue()


def _whole(commands: Mapping[str, tuple[str, str]]) -> dict[str, Callable[..., Any]]:
    """Return what each command is parsed into; a union of verbs becomes a function of one."""
    kinds = {name: load(module).Args for name, (module, _) in commands.items()}
    return {name: kind if isinstance(kind, type) else _holder(kind) for name, kind in kinds.items()}


def verbs(kind: Any) -> dict[str, Any]:
    """Return the dataclass of each verb of a command; none where `Args` is a single dataclass."""
    members = [kind] if get_origin(kind) is Annotated else get_args(kind)
    return {mark.name: get_args(m)[0] for m in members for mark in get_args(m)[1:] if getattr(mark, "name", None)}


def _chosen(module: ModuleType, name: str, words: list[str]) -> tuple[Any, str, list[str]]:
    """Return what to parse into, the program's name in help, and the words left."""
    kinds = verbs(module.Args)
    if not kinds:
        return module.Args, f"kineograph {name}", words
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_verbs_overview(module, name, kinds))
        raise SystemExit(0 if words else 2)
    default = getattr(module, "DEFAULT_VERB", None)
    if words[0] not in kinds and default is not None:
        return kinds[default], f"kineograph {name}", words
    if words[0] not in kinds:
        raise unknown(f"verb of 'kineograph {name}'", words[0], kinds)
    return kinds[words[0]], f"kineograph {name} {words[0]}", words[1:]


def _verbs_overview(module: ModuleType, name: str, kinds: Mapping[str, Any]) -> str:
    """Return the text of `kineograph NAME --help` for a command with verbs."""
    width = max(len(verb) for verb in kinds)
    lines = [f"  {verb:<{width}}  {(kind.__doc__ or '').splitlines()[0]}" for verb, kind in kinds.items()]
    title = (module.__doc__ or "").splitlines()[0]
    default = getattr(module, "DEFAULT_VERB", None)
    after = ["", f"Without a verb, {default} is meant."] if default else []
    return "\n".join([f"usage: kineograph {name} VERB [OPTIONS]", "", title, "", "verbs:", *lines, *after]) + "\n"


def _holder(kind: Any) -> Callable[..., Any]:
    """Return a function with one argument of the given annotation."""

    def command(verb: Any) -> Any:
        return verb

    command.__annotations__ = {"verb": kind}
    return command


def without_none(text: str) -> str:
    """Blank out empty defaults in a help text: what leaving a flag out means stands in its description."""
    blanked = _NONE.sub(lambda found: re.sub(r"[^\s│]", " ", found.group()), text)
    pairs = zip(text.splitlines(), blanked.splitlines(), strict=True)
    return "".join(f"{new.rstrip()}\n" for old, new in pairs if new.strip(" │") or not old.strip(" │"))


def _unframed(text: str) -> str:
    """Turn tyro's boxed message into one paragraph of sentences."""
    lines = [_FRAME.sub("", line).strip() for line in text.splitlines()]
    body = [line for line in lines[1:] if line]
    starts = [i for i, line in enumerate(body) if i == 0 or line.startswith(_SENTENCES)]
    sentences = [" ".join(body[i:j]) for i, j in zip(starts, [*starts[1:], len(body)], strict=True)]
    return " ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences)
