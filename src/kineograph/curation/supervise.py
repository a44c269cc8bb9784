"""Run a task in a child process that may crash, hang or eat memory, and always come back with an answer.

Crash isolation has to sit below the engine: a worker that dies takes a whole `ProcessPoolExecutor` or Ray Data run with
it. Here the parent watches one child: signs of progress, wall clock, resident memory; a child that breaks a limit is
killed with its process group and replaced, and the task is told by one word.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineograph.errors import ResourceError

RECYCLE_TASKS = 64
RECYCLE_BYTES = 500_000_000
STARTING_SECONDS = 60.0
"""Within this time a child must have imported what a task needs; only then its limits on time begin to count."""
_POLL_SECONDS = 0.05
_LOG_BYTES = 2000
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Allowance:
    """What a task may cost.

    Attributes:
        memory_bytes: Resident memory of the child; 0 is no limit.
        stall_seconds: Seconds without a sign of progress.
        slowest: Seconds of work per second of film; infinite is no limit.
    """

    memory_bytes: int = 0
    stall_seconds: float = 60.0
    slowest: float = float("inf")


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        status: `"done"`, or `"timeout"`, `"oom"`, `"crashed"`, `"setup"` (the machine lacks something).
        result: The task's answer, when done.
        reason: What happened, for people.
        log: The end of what the child wrote on standard error.
        final: Whether trying again cannot help.
        seconds: Wall time.
    """

    status: str
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    log: str = ""
    final: bool = False
    seconds: float = 0.0


class Supervisor:
    """One child process and its replacements. Not for use by two threads at once."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.child: subprocess.Popen[bytes] | None = None
        self.log: Any = None
        self.tasks = self.baseline = 0

    def run(self, call: str, item: dict[str, Any], stop: threading.Event | None = None) -> Outcome:
        """Carry out a task.

        Args:
            call: `"module:function"`; the function takes the item and a function to report progress to.
            item: Plain data.
            stop: When set, the child is killed and the task counts as not done.

        Raises:
            ResourceError: The machine lacks what every task needs, such as disk space or a package.
        """
        started = time.monotonic()
        child = self._child()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps({"call": call, "item": item}).encode() + b"\n")
            child.stdin.flush()
            outcome = self._watch(child, started, stop)
        except BrokenPipeError:
            outcome = self._died(child)
        except BaseException:  # an interrupt: the child must not go on alone
            self.close()
            raise
        self.tasks += 1
        if outcome.status == "setup":
            raise ResourceError(outcome.reason)
        self._recycle()
        return Outcome(**{**vars(outcome), "seconds": time.monotonic() - started})

    def close(self) -> None:
        """Kill the child, if there is one."""
        if self.child is not None:
            _kill(self.child)
            self.child = None
        if self.log is not None:
            self.log.close()
            self.log = None

    def _child(self) -> subprocess.Popen[bytes]:
        """Return the running child, or start one."""
        if self.child is None:
            self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
            command = [sys.executable, "-m", "kineograph.curation.worker", str(os.getpid())]
            self.child = subprocess.Popen(
                [*command, str(self.allowance.memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                start_new_session=True,
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            self.tasks, self.baseline = 0, 0
        return self.child

    def _watch(self, child: subprocess.Popen[bytes], started: float, stop: threading.Event | None) -> Outcome:
        """Wait for the answer while the limits hold."""
        assert child.stdout is not None
        last = started = started + STARTING_SECONDS
        film, rest, begun = 0.0, b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(_POLL_SECONDS):
                    data = os.read(child.stdout.fileno(), 1 << 16)
                    if not data:
                        return self._died(child)
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        message = json.loads(line)
                        if "alive" not in message:
                            return _outcome(message)
                        last, film = time.monotonic(), float(message["alive"])
                        started, begun = (started, True) if begun else (last, True)
                if stop is not None and stop.is_set():
                    self.close()
                    return Outcome("timeout", reason="the run was stopped")
                broken = self._broken(child, time.monotonic(), last, started, film)
                if broken:
                    log = self._tail()
                    self.close()
                    return Outcome(*broken, log=log)

    def _broken(
        self, child: subprocess.Popen[bytes], now: float, last: float, started: float, film: float
    ) -> tuple[str, dict[str, Any], str] | None:
        """Return status and reason of a limit that does not hold."""
        allowance = self.allowance
        if now - last > allowance.stall_seconds:
            return "timeout", {}, f"no progress for {allowance.stall_seconds:g} s"
        if now - started > allowance.stall_seconds + allowance.slowest * max(film, 1.0):
            return "timeout", {}, f"slower than {allowance.slowest:g} s of work per second of film"
        if allowance.memory_bytes and resident(child.pid) > allowance.memory_bytes:
            return "oom", {}, f"more than {allowance.memory_bytes / 1e6:.0f} MB of memory"
        return None

    def _died(self, child: subprocess.Popen[bytes]) -> Outcome:
        code = child.wait()
        log = self._tail()
        self.close()
        if code < 0:
            name = signal.Signals(-code).name
            return Outcome("crashed", reason=f"killed by {name}", log=log)
        return Outcome("crashed", reason=f"ended with status {code}", log=log)

    def _tail(self) -> str:
        """Return the end of the child's standard error, printable."""
        if self.log is None:
            return ""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(size - _LOG_BYTES, 0))
        return self.log.read().decode("utf-8", "backslashreplace")

    def _recycle(self) -> None:
        """Replace a child that has served long or grown; libraries leak."""
        if self.child is None:
            return
        size = resident(self.child.pid)
        self.baseline = self.baseline or size
        if self.tasks >= RECYCLE_TASKS or size > self.baseline + RECYCLE_BYTES:
            self.close()


def _outcome(message: dict[str, Any]) -> Outcome:
    if "result" in message:
        return Outcome("done", result=message["result"])
    final = message["failed"] == "crashed"  # an exception is no accident: it comes again
    return Outcome(message["failed"], reason=message["reason"], log=message.get("log", ""), final=final)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a child with its process group and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
