"""The child process: reads a task per line from standard input, answers in lines of JSON on what was standard output.

It knows nothing of the run. It dies with its parent, leaves no core file, and works on one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import importlib.abc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1
_OVERHEAD_BYTES = 4 << 30
_SECONDS_BETWEEN_SIGNS = 0.2


def main() -> int:
    """Serve tasks until standard input ends."""
    parent, memory = int(sys.argv[1]), int(sys.argv[2])
    _restrain(parent, memory)
    _spare_pandas()
    with _private_output() as answers:
        for line in sys.stdin:
            _say(answers, _answer(json.loads(line), answers))
    return 0


def _restrain(parent: int, memory: int) -> None:
    """Die with the parent, write no core file, and cap the address space well above the supervisor's own limit."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory + _OVERHEAD_BYTES, memory + _OVERHEAD_BYTES))


class _NoPandas(importlib.abc.MetaPathFinder):
    """Finds that pandas is not installed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Refuse pandas; leave everything else to the others."""
        if fullname == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")


def _spare_pandas() -> None:
    """Make Arrow's first array here: it looks for pandas then, whose import takes seconds and which no task needs."""
    sys.meta_path.insert(0, _NoPandas())
    with contextlib.suppress(ImportError):
        importlib.import_module("pyarrow").array([0])
    del sys.meta_path[0]


@contextlib.contextmanager
def _private_output() -> Any:
    """Keep the pipe to the parent for answers; whatever a library prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        yield answers


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _answer(task: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    """Carry out one task; whatever it raises becomes an answer."""
    from kineograph.errors import MissingExtraError

    try:
        module, name = task["call"].split(":")
        function = getattr(importlib.import_module(module), name)
        _say(answers, {"alive": 0.0})  # imported: from here on the time counts
        return {"result": function(task["item"], _signs(answers))}
    except MemoryError:
        return {"failed": "oom", "reason": "an allocation failed"}
    except MissingExtraError as error:
        return {"failed": "setup", "reason": str(error)}
    except OSError as error:
        kind = "setup" if error.errno in _FULL else "oom" if error.errno == errno.ENOMEM else "crashed"
        return _crashed(kind, error)
    except Exception as error:
        return _crashed("crashed", error)


def _crashed(kind: str, error: Exception) -> dict[str, Any]:
    return {"failed": kind, "reason": f"{type(error).__name__}: {error}", "log": traceback.format_exc()[-2000:]}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""The output cannot be written, which is no fault of the source."""


def _signs(answers: TextIO) -> Callable[[float], None]:
    """Return the function that tells the parent how much film is done; it adds up over passes."""
    done = last = since = 0.0

    def alive(seconds: float) -> None:
        nonlocal done, last, since
        done += max(seconds - last, 0.0)
        last = seconds
        now = time.monotonic()
        if now - since >= _SECONDS_BETWEEN_SIGNS:
            since = now
            _say(answers, {"alive": done})

    return alive


if __name__ == "__main__":
    sys.exit(main())
