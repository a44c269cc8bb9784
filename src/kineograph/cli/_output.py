"""Results to stdout, progress to stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

Stages = Callable[[int, "int | None", str], None]
"""What long-running library functions report to: units done, units in all where known, and what is being done."""


class Report(Protocol):
    """What a progress context yields: call it with the count done so far and, if wanted, a note."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show that `done` units are finished."""
        ...


def emit(document: Any, text: str | Callable[[], str], as_json: bool) -> None:
    """Print a result: exactly one JSON document, or text.

    Args:
        document: The result as plain data; dataclasses and paths are converted, non-finite numbers become null.
        text: The same result for people, or a function that returns it.
        as_json: Which of the two to print.
    """
    if as_json:
        body = json.dumps(plain(document), indent=2, ensure_ascii=False)
    else:
        body = text if isinstance(text, str) else text()
    sys.stdout.write(body.rstrip("\n") + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return the value in types that JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | str) or value is None:
        return value
    return str(value) if isinstance(value, PurePath) else _scalar(value)


def _scalar(value: Any) -> Any:
    """Unwrap a zero-dimensional tensor or array; refuse anything else rather than guess."""
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"a result of type {type(value).__name__} has no JSON form")


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Return rows as aligned columns, the same on a terminal and in a pipe."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Return rows as a Markdown table; pipes inside cells are escaped."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]])


def say(message: str) -> None:
    """Print one line about what is going on, on stderr."""
    sys.stderr.write(message.rstrip("\n") + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def progress(label: str, total: int | None = None, unit: str = "steps") -> Iterator[Report]:
    """Show progress on stderr: a bar on a terminal, now and then a plain line elsewhere.

    Args:
        label: What is being done, in a few words.
        total: How many units there are, or None where nobody knows.
        unit: What is counted.

    Yields:
        A function to call with the number of units done so far and an optional note.
    """
    with (_bar if sys.stderr.isatty() else _lines)(label, total, unit) as report:
        yield report


@contextlib.contextmanager
def stages(unit: str = "") -> Iterator[Stages]:
    """Show the progress of library functions that name what they are doing: one bar, or run of lines, per name.

    Args:
        unit: What is counted.

    Yields:
        A function to call with the count done, the total or None, and what is being done.
    """
    current: tuple[str, int | None] | None = None
    report: Report | None = None
    with contextlib.ExitStack() as shown:

        def told(done: int, total: int | None, what: str) -> None:
            nonlocal current, report
            if report is None or current != (what, total):
                shown.close()
                report, current = shown.enter_context(progress(what, total, unit)), (what, total)
            report(done)

        yield told


@contextlib.contextmanager
def _bar(label: str, total: int | None, unit: str) -> Iterator[Report]:
    """Draw a bar with the time left."""
    from rich import progress as shown
    from rich.console import Console

    columns = (
        shown.TextColumn("{task.description}"),
        shown.BarColumn(),
        shown.MofNCompleteColumn(),
        shown.TextColumn(unit),
        shown.TimeElapsedColumn(),
        shown.TimeRemainingColumn(),
        shown.TextColumn("{task.fields[note]}"),
    )
    with shown.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


_SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def _lines(label: str, total: int | None, unit: str) -> Iterator[Report]:
    """Print a line at the end and at most one every five seconds before."""
    started = last = time.monotonic()

    def report(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done != total and now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        count = f"{done}/{total}" if total is not None else str(done)
        say(f"{label}: {f'{count} {unit}'.strip()}, {now - started:.1f} s{', ' + note if note else ''}")

    yield report
