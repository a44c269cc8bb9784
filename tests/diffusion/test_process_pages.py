"""The pages under docs/process: their code runs, their figures exist and are small."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "process").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs_and_figures_are_there(page, capsys):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        assert len([line for line in block.splitlines() if line.strip()]) <= 20
        exec(compile(block, str(page), "exec"), {})
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert 0 < (page.parent / figure).stat().st_size < 150_000
    for link in re.findall(r"[^!]\[.*?\]\((\S+?\.md)\)", text):
        assert (page.parent / link).is_file()


def test_every_idea_has_a_page():
    names = {page.stem for page in PAGES}
    assert names >= {"forward", "schedules", "parameterizations", "samplers", "inversion", "guidance", "noise-priors"}
