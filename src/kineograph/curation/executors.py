"""Where tasks run: supervised children on this machine, the same under Ray Data on a cluster, or in this process.

All executors call the same functions with the same rows and give the same outcomes; frames never leave a child, so a
bounded number of tasks is all the back-pressure there is. A task that crashed, hung or grew too large is tried once
more, alone; only then does it count as failed.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from kineograph.curation.supervise import Allowance, Outcome, Supervisor
from kineograph.errors import InputError, require, unknown

EXECUTORS = ("local", "ray", "inline")

Task = dict[str, Any]


class Executor(Protocol):
    """Carries out many tasks."""

    def run(self, call: str, items: Iterable[Task], allowance: Allowance) -> Iterator[tuple[Task, Outcome]]:
        """Yield each item with its outcome, in the order in which they end.

        Args:
            call: `"module:function"`, as for `Supervisor.run`.
            items: Plain data; read as places become free.
            allowance: What each may cost.
        """
        ...


def executor(name: str, workers: int | None = None) -> Executor:
    """Return an executor by name.

    Args:
        name: One of `EXECUTORS`.
        workers: Children side by side; by default one per processor that this process may use.

    Raises:
        InputError: The name is unknown or the count is not positive.
        MissingExtraError: Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} leaves nobody to work: give 1 or more.")
    if name == "local":
        return Local(workers or processors())
    if name == "ray":
        return OnRay(workers)
    if name == "inline":
        return Inline()
    raise unknown("executor", name, EXECUTORS)


def processors() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def retried(supervisor: Supervisor, call: str, item: Task, first: Outcome) -> Outcome:
    """Try a task that failed by accident once more and say so; an outcome that is final stays as it is."""
    if first.status == "done" or first.final:
        return first
    second = supervisor.run(call, item)
    if second.status == "done":
        return second
    if second.status == first.status:
        return Outcome(**{**vars(second), "reason": f"{second.reason}, twice"})
    reason = f"{first.status} ({first.reason}), then {second.status} ({second.reason})"
    return Outcome("quarantined", reason=reason, log=second.log, seconds=second.seconds)


class Inline:
    """Runs tasks in this process, one after another, without protection: for tests and for debugging."""

    def run(self, call: str, items: Iterable[Task], allowance: Allowance) -> Iterator[tuple[Task, Outcome]]:
        """Yield each item with its outcome; exceptions pass."""
        import importlib

        module, name = call.split(":")
        function = getattr(importlib.import_module(module), name)
        for item in items:
            yield item, Outcome("done", result=function(item, lambda seconds: None))


class Local:
    """Supervised children on this machine, fed by a queue of twice their number."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, call: str, items: Iterable[Task], allowance: Allowance) -> Iterator[tuple[Task, Outcome]]:
        """Yield each item with its outcome as it ends; suspects are tried again, alone, at the end."""
        suspects = []
        for item, outcome in self._first(call, items, allowance):
            if outcome.status == "done" or outcome.final:
                yield item, outcome
            else:
                suspects.append((item, outcome))
        supervisor = Supervisor(allowance)
        try:
            for item, outcome in suspects:
                yield item, retried(supervisor, call, item, outcome)
        finally:
            supervisor.close()

    def _first(self, call: str, items: Iterable[Task], allowance: Allowance) -> Iterator[tuple[Task, Outcome]]:
        tasks: queue.Queue[Task | None] = queue.Queue(2 * self.workers)
        ended: queue.Queue[tuple[Task, Outcome] | BaseException | None] = queue.Queue()
        stop = threading.Event()
        threads = [
            threading.Thread(target=_serve, args=(call, allowance, tasks, ended, stop), daemon=True)
            for _ in range(self.workers)
        ]
        feeder = threading.Thread(target=_feed, args=(items, tasks, ended, stop, self.workers), daemon=True)
        for thread in (*threads, feeder):
            thread.start()
        try:
            yield from _until_all(ended, self.workers)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _feed(items: Iterable[Task], tasks: queue.Queue, ended: queue.Queue, stop: threading.Event, workers: int) -> None:
    """Put items into the queue as places become free, then one None per worker."""
    try:
        for item in items:
            _put(tasks, item, stop)
    except BaseException as error:
        ended.put(error)
    for _ in range(workers):
        _put(tasks, None, stop)


def _put(tasks: queue.Queue, item: Task | None, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return tasks.put(item, timeout=0.1)
        except queue.Full:
            continue


def _serve(call: str, allowance: Allowance, tasks: queue.Queue, ended: queue.Queue, stop: threading.Event) -> None:
    """Work off the queue with one supervised child."""
    supervisor = Supervisor(allowance)
    try:
        while not stop.is_set():
            try:
                item = tasks.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                break
            ended.put((item, supervisor.run(call, item, stop)))
    except BaseException as error:
        ended.put(error)
    finally:
        supervisor.close()
        ended.put(None)


def _until_all(ended: queue.Queue, workers: int) -> Iterator[tuple[Task, Outcome]]:
    while workers:
        one = ended.get()
        if one is None:
            workers -= 1
        elif isinstance(one, BaseException):
            raise one
        else:
            yield one


class OnRay:
    """Ray Data over rows: each actor holds a supervised child, so no file can take an actor down."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers
        require("ray", "ray")
        require("ray.data", "ray")

    def run(self, call: str, items: Iterable[Task], allowance: Allowance) -> Iterator[tuple[Task, Outcome]]:
        """Yield each item with its outcome, streamed from the cluster (a local one where none is running)."""
        import json
        import logging

        import ray

        rows = [{"item": json.dumps(item)} for item in items]
        if not rows:
            return
        if not ray.is_initialized():
            ray.init(logging_level=logging.ERROR, include_dashboard=False, log_to_driver=False, num_cpus=self.workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        count = self.workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        size = min(count, len(rows))
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,  # pyright: ignore - Ray accepts classes and makes actors of them
            fn_constructor_args=(call, vars(allowance)),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
            num_cpus=1,
        )
        for row in data.iter_rows():
            yield json.loads(row["item"]), Outcome(**json.loads(row["outcome"]))


class _Actor:
    """What runs on the cluster: a supervisor and its child."""

    def __init__(self, call: str, allowance: dict[str, Any]) -> None:
        self.call, self.supervisor = call, Supervisor(Allowance(**allowance))

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        import json

        item = json.loads(row["item"])
        outcome = retried(self.supervisor, self.call, item, self.supervisor.run(self.call, item))
        return {"item": row["item"], "outcome": json.dumps(vars(outcome))}
