"""The supervisor: whatever a child does, an answer comes, and the next task is served."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kineograph.curation.executors import Inline, Local, executor, retried
from kineograph.curation.supervise import Allowance, Outcome, Supervisor, resident
from kineograph.errors import InputError, ResourceError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture(scope="module")
def supervisor():
    made = Supervisor(Allowance(memory_bytes=400_000_000, stall_seconds=3.0, slowest=1e9))
    yield made
    made.close()


def ask(supervisor, what, **told):
    return supervisor.run("tasks:work", {"what": what, **told})


def test_an_answer_and_a_child_that_stays(supervisor):
    first = ask(supervisor, "pid")
    assert first.status == "done"
    assert first.result["pid"] != os.getpid()
    assert ask(supervisor, "pid").result == first.result


def test_a_child_does_not_wait_for_pandas(supervisor):
    """Arrow imports it with the first array where it is installed: seconds per child, for nothing."""
    assert ask(supervisor, "pandas").result == {"rows": 1, "pandas": False}


def test_what_is_printed_does_not_disturb_the_answer(supervisor):
    assert ask(supervisor, "print").result == {"printed": True}


def test_after_each_way_to_fail_the_next_task_is_served(supervisor):
    crash = ask(supervisor, "crash")
    assert (crash.status, crash.reason, crash.final) == ("crashed", "killed by SIGSEGV", False)
    assert "last words" in crash.log
    leave = ask(supervisor, "exit")
    assert (leave.status, leave.reason) == ("crashed", "ended with status 3")
    error = ask(supervisor, "raise")
    assert (error.status, error.reason, error.final) == ("crashed", "ValueError: no good", True)
    hang = ask(supervisor, "hang")
    assert (hang.status, hang.reason) == ("timeout", "no progress for 3 s")
    eater = ask(supervisor, "eat")
    assert eater.status == "oom"
    assert ask(supervisor, "pid").status == "done"


def test_a_sign_of_progress_holds_off_the_deadline_and_slowness_does_not():
    supervisor = Supervisor(Allowance(stall_seconds=2.0, slowest=0.1))
    try:
        slow = ask(supervisor, "slow", film=0.0)
        assert slow.status == "timeout"
        assert "slower than" in slow.reason
    finally:
        supervisor.close()


def test_a_full_disk_is_no_fault_of_the_file(supervisor):
    with pytest.raises(ResourceError, match="No space"):
        ask(supervisor, "full")


def test_children_of_a_child_die_with_it(supervisor, tmp_path):
    marker = tmp_path / "pid"
    assert ask(supervisor, "grandchild", marker=str(marker)).status == "timeout"
    time.sleep(0.2)
    assert resident(int(marker.read_text())) == 0


def test_a_child_dies_with_its_parent(tmp_path):
    code = (
        f"import sys, os; sys.path.insert(0, {str(HERE)!r})\n"
        "from kineograph.curation.supervise import *\n"
        "s = Supervisor(Allowance(stall_seconds=60))\n"
        "print(s.run('tasks:work', {'what': 'pid'}).result['pid'], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    for _ in range(40):
        if not resident(child):
            return
        time.sleep(0.05)
    raise AssertionError("the child lives on")


def test_children_are_recycled(monkeypatch):
    monkeypatch.setattr("kineograph.curation.supervise.RECYCLE_TASKS", 2)
    supervisor = Supervisor(Allowance())
    try:
        pids = [ask(supervisor, "pid").result["pid"] for _ in range(4)]
        assert (pids[0], pids[2]) == (pids[1], pids[3])
        assert pids[0] != pids[2]
    finally:
        supervisor.close()


def test_the_local_executor_tries_suspects_again_alone(tmp_path):
    items = [{"what": "pid", "n": i} for i in range(5)]
    items.insert(2, {"what": "once", "marker": str(tmp_path / "once"), "n": 9})
    items.insert(4, {"what": "crash", "n": 10})
    found = list(Local(2).run("tasks:work", iter(items), Allowance(stall_seconds=30)))
    outcomes = {item["n"]: outcome for item, outcome in found}
    assert len(outcomes) == 7
    assert [outcomes[n].status for n in (0, 1, 2, 3, 4, 9)] == ["done"] * 6
    assert (outcomes[10].status, outcomes[10].reason) == ("crashed", "killed by SIGSEGV, twice")
    assert {item["n"] for item, _ in found[-2:]} == {9, 10}  # which of the two was suspected first is chance


def test_the_bounded_queue_reads_items_as_places_become_free():
    read = []

    def items():
        for i in range(200):
            read.append(i)
            yield {"what": "pid", "n": i}

    running = Local(1).run("tasks:work", items(), Allowance())
    next(running)
    assert len(read) < 100
    running.close()


def test_failures_free_their_places_once():
    """A bound that failures loosen lets the queue, and memory, grow with their number."""
    read, ended = [], 0

    def items():
        for i in range(200):
            read.append(i)
            yield {"what": "raise", "n": i}

    for _, outcome in Local(1).run("tasks:work", items(), Allowance()):
        assert outcome.status == "crashed"
        ended += 1
        assert len(read) <= ended + 40  # Three places and a task at work, and what a busy machine is late to count.
    assert ended == 200


def test_an_error_while_feeding_comes_through():
    def items():
        yield {"what": "pid"}
        raise RuntimeError("the list ends in a mess")

    with pytest.raises(RuntimeError, match="mess"):
        list(Local(1).run("tasks:work", items(), Allowance()))


def test_different_failures_are_quarantined():
    class Twice:
        def run(self, call, item):
            return Outcome("timeout", reason="b")

    found = retried(Twice(), "x:y", {}, Outcome("crashed", reason="a"))  # pyright: ignore
    assert (found.status, found.reason) == ("quarantined", "crashed (a), then timeout (b)")
    final = Outcome("crashed", reason="a", final=True)
    assert retried(Twice(), "x:y", {}, final) is final  # pyright: ignore


def test_executors_by_name():
    assert isinstance(executor("inline"), Inline)
    with pytest.raises(InputError, match="did you mean 'local'"):
        executor("locl")
    with pytest.raises(InputError, match="--workers 0"):
        executor("local", 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_gives_the_same_outcomes(monkeypatch):
    items = [{"what": "pid", "n": i} for i in range(20)] + [{"what": "crash", "n": 20}]
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    found = list(executor("ray", 2).run("tasks:work", items, Allowance(stall_seconds=30)))
    outcomes = {item["n"]: outcome.status for item, outcome in found}
    assert outcomes == {**dict.fromkeys(range(20), "done"), 20: "crashed"}
    assert json.dumps(outcomes)
