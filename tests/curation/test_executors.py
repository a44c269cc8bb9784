"""Executors are tested with the supervisor that they share; here is what they do without one."""

from kineograph.curation.executors import Inline, processors
from kineograph.curation.supervise import Allowance


def test_inline_calls_the_function_here(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import os

    [(item, outcome)] = list(Inline().run("tasks:work", [{"what": "pid"}], Allowance()))
    assert item == {"what": "pid"}
    assert outcome.result == {"pid": os.getpid()}


def test_processors_are_those_of_this_process():
    assert processors() >= 1
