"""From exceptions to one readable paragraph and an exit status."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence

from kineograph.cli import _windows
from kineograph.errors import KineographError

TRACEBACK = "KINEOGRAPH_TRACEBACK"
"""Environment variable that, set to 1, shows the traceback of any error."""

DEFECT, MENDABLE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATH_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def guarded(work: Callable[[], int], words: Sequence[str] = ()) -> int:
    """Run the work and turn whatever it raises into a message on stderr and an exit status.

    Args:
        work: Called without arguments; returns an exit status.
        words: What the user typed; a path of Windows among them that fails is explained.

    Returns:
        The work's own status, 2 for errors that the user can mend, 130 after an interrupt, 141 when the reader of
        the output went away, 1 for a defect of the program.
    """
    try:
        status = work()
        sys.stdout.flush()
        return status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else DEFECT
    except KeyboardInterrupt:
        _say("interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except Exception as error:
        message = explained(error)
        if os.environ.get(TRACEBACK) == "1" or message is None:
            traceback.print_exc()
        _say(_windows.explained(message, words) if message else _defect(error))
        return DEFECT if message is None else MENDABLE


def explained(error: BaseException) -> str | None:
    """Return the paragraph for an error that the user can mend, or None for a defect."""
    if isinstance(error, KineographError):
        return str(error)
    if _filled_the_disk(error):
        return "The disk is full: the weights could not be written. Free some space, or write to another disk."
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"The disk is full: {_where(error)} could not be written. Free some space, or write to another disk."
    if isinstance(error, _PATH_ERRORS) and error.filename is not None:
        return f"{error.strerror}: {_where(error)}.{_helps(error)}"
    if isinstance(error, MemoryError) or _ran_out_of_memory(error):
        return (
            "The machine ran out of memory. Ask for fewer frames, a smaller size or a smaller batch; "
            "`kineograph doctor` shows how much memory there is."
        )
    return None


def _filled_the_disk(error: BaseException) -> bool:
    """Tell the error of safetensors' Rust side for a full disk, which has no number, from its other ones."""
    return type(error).__name__ == "SafetensorError" and any(os.strerror(number) in str(error) for number in _FULL)


def _ran_out_of_memory(error: BaseException) -> bool:
    """Tell torch's out-of-memory errors (a class on accelerators, a message on CPU) from other errors."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error)


HELPS = {
    FileExistsError: "Something of that name is there already; name another one, or remove it.",
    IsADirectoryError: "A file was wanted there; name a file in that folder.",
    NotADirectoryError: "A folder was wanted there, and it is a file; name another folder.",
    PermissionError: "You may not read or write there; name another place, or change its rights.",
    FileNotFoundError: "Look at the spelling, and at the folder in which you are.",
}
"""What a person can do about an error of a path."""


def _helps(error: OSError) -> str:
    """Return the sentence that says what helps, or nothing."""
    return next((f" {sentence}" for kind, sentence in HELPS.items() if isinstance(error, kind)), "")


def _where(error: OSError) -> str:
    """Name the file an OSError is about."""
    return f"'{error.filename}'" if error.filename is not None else "the output"


def _defect(error: BaseException) -> str:
    """Return the message for an error that is ours."""
    return (
        f"{type(error).__name__}: {error}. This is a defect of kineograph, not of your input. Please report it with "
        "the traceback above, the command, and the output of `kineograph doctor --json`."
    )


def _say(message: str) -> None:
    """Print one paragraph on stderr: wrapped on a terminal, one line in a pipe or a log."""
    line = "error: " + " ".join(message.split())
    if sys.stderr.isatty():
        width = min(shutil.get_terminal_size().columns, 100)
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    sys.stderr.write(line + "\n")


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
