"""The page on where time enters: each diagram says what the system's plan says, and every system has one."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import kineograph as kg

PAGE = Path(__file__).parents[2] / "docs" / "time"


@pytest.fixture(scope="module")
def figures():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("time_figures", PAGE / "figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


def words_of(svg: Path) -> list[str]:
    """Return the lines of text in a figure, in the order drawn."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg.read_text())


def test_every_system_has_a_diagram_on_the_page():
    page = (PAGE / "index.md").read_text()
    for name, system in kg.systems().items():
        assert (PAGE / f"{name}.svg").is_file()
        assert f"({name}.svg)" in page or name == "zeroscope", system  # ZeroScope's is ModelScopeT2V's


@pytest.mark.parametrize(
    "name",
    ["animatediff", *(pytest.param(n, marks=pytest.mark.slow) for n in kg.systems() if n != "animatediff")],
)
def test_a_diagram_says_what_the_plan_says(figures, name):
    plan = figures.published(name)
    expected = [line for box in figures.boxes(plan) for line in box.text.split("\n")]
    assert words_of(PAGE / f"{name}.svg")[: len(expected)] == expected
