"""The command line: one program, one file per verb.

A command is a module `kineograph.cli.NAME` with two public names: `Args`, a frozen dataclass (or a union of
dataclasses, one per nested verb) whose fields carry a docstring each, and `run(args) -> int`, which returns the exit
status. Only the chosen module is imported, so heavy imports belong inside `run`. Everything else (parsing, help,
suggestions, errors, exit codes) is done here, once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("kineograph.cli.generate", "Make clips from prompts."),
    "train": ("kineograph.cli.train", "Train an autoencoder, an image model or a video model."),
    "evaluate": (
        "kineograph.cli.evaluate",
        "Score clips: FVD, FID, CLIPSIM and others, with protocol and error bars.",
    ),
    "curate": (
        "kineograph.cli.curate",
        "Turn raw footage into a training set: cuts, clips, scores, selection, export.",
    ),
    "convert": ("kineograph.cli.convert", "Write a checkpoint in another layout: ours, diffusers' or the authors'."),
    "data": ("kineograph.cli.data", "Obtain, import, make and check data sets."),
    "systems": ("kineograph.cli.systems", "List the published systems, or show one."),
    "doctor": ("kineograph.cli.doctor", "Say what is installed, what is missing and how to mend it."),
    "bench": ("kineograph.cli.bench", "Time this machine: steps, samples and start-up, side by side with diffusers."),
}
"""Name of each command, its module and its line in the overview."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after the program's name; the process's own when None.

    Returns:
        The exit status: 0 done, 1 a defect or a failed check, 2 something the user can mend, 130 interrupted.
    """
    from kineograph.cli._errors import guarded

    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(words), words)


def _dispatch(words: list[str]) -> int:
    """Hand the words to the command they name."""
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from kineograph import __version__

        sys.stdout.write(f"kineograph {__version__}\n")
        return 0
    if words[0] == "--print-completion":
        from kineograph.cli._parse import completion

        sys.stdout.write(completion(words[1:], COMMANDS))
        return 0
    if words[0] not in COMMANDS:
        from kineograph.errors import unknown

        raise unknown("flag" if words[0].startswith("-") else "command", words[0], [*COMMANDS, *_FLAGS])
    from kineograph.cli._parse import load, parse
    from kineograph.cli._windows import refuse_drives

    refuse_drives(words)
    module = load(COMMANDS[words[0]][0])
    return module.run(parse(module, words[0], words[1:]))


_FLAGS = {
    "--help": "Show this overview.",
    "--version": "Print the version.",
    "--print-completion": "Print a completion script for bash or zsh.",
}


def _overview() -> str:
    """Return the text of `kineograph --help`."""
    from kineograph import __version__

    commands = [f"  {name:<10} {line}" for name, (_, line) in COMMANDS.items()]
    flags = [f"  {name:<18} {line}" for name, line in _FLAGS.items()]
    lines = [
        f"kineograph {__version__}: video diffusion models. A video model is an image model plus time.",
        "",
        "usage: kineograph COMMAND [OPTIONS]",
        "",
        "commands:",
        *commands,
        "",
        "options:",
        *flags,
        "",
        'Example: kineograph generate "a juggling man" -o clip.mp4',
        "Help on one command, with defaults and units: kineograph COMMAND --help",
    ]
    return "\n".join(lines) + "\n"
