"""What the pages on curation say of Big Buck Bunny is what `docs/curation/figures.py` measured last."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "curation"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("curation_figures", DOCS / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_hold_the_measured_numbers(figures):
    numbers = json.loads((DOCS / "numbers.json").read_text())
    pages = {name: (DOCS / name).read_text(encoding="utf-8") for name in figures.PAGES}
    assert {name: figures.filled(page, numbers) for name, page in pages.items()} == pages
    used = {name for page in pages.values() for name in re.findall(r"<!-- numbers: (\w+) -->", page)}
    assert used == set(figures.BLOCKS)


def test_the_measured_yield_balances_and_keeps_what_is_promised(figures):
    """At least 97 % of the seconds of shots that are long enough are in clips."""
    numbers = json.loads((DOCS / "numbers.json").read_text())
    for method in ("auto", "copy"):
        one = numbers[method]
        assert round(1000 * one["in"]) == round(1000 * one["out"]) + sum(round(1000 * s) for s in one["lost"].values())
    auto = numbers["auto"]
    assert auto["out"] >= 0.97 * (auto["shots"] - auto["lost"]["too_short"])
