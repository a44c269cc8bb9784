"""Documents: links lead somewhere, and the examples marked to be run do run."""

import re
from pathlib import Path

import pytest

import kineograph

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "src").rglob("*.md"),
    ]
)
LINK = re.compile(r"!?\[(?:[^\]\[]|\\.|\[[^\]]*\])*\]\(([^)\s]+)\)|<(?:img|video|source)[^>]*\ssrc=\"([^\"]+)\"")
EXAMPLE = re.compile(r"<!-- run(?P<needs>: model)? -->\n```python\n(?P<code>.*?)```", flags=re.DOTALL)
FENCE = re.compile(r"```.*?```", flags=re.DOTALL)


def name_of(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


def links(text: str) -> list[str]:
    """Return the targets of links and pictures outside code blocks."""
    return [a or b for a, b in LINK.findall(FENCE.sub("", text))]


def headings(text: str) -> set[str]:
    """Return the anchors that the headings of a Markdown text get."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(path: Path) -> list[str]:
    """List the relative links of a document that lead nowhere."""
    broken = []
    for target in links(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in headings(file.read_text())):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path):
    assert broken_links(path) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One title\n[a](page.md#one-title) [b](gone.md) ![c [d]](gone.png) [e](#no) [f](https://x.y)\n"
        '<img width="3" src="gone.gif">\n```\n[code](gone.py)\n```\n'
    )
    assert broken_links(page) == ["gone.md", "gone.png", "#no", "gone.gif"]


def examples(needs_model: bool) -> list[object]:
    """Return the code of every example marked to be run, with or without the bundled model."""
    found = []
    for path in DOCUMENTS:
        for i, match in enumerate(EXAMPLE.finditer(path.read_text())):
            if bool(match["needs"]) == needs_model:
                found.append(pytest.param(match["code"], id=f"{path.relative_to(ROOT)}-{i}"))
    return found


@pytest.mark.parametrize("code", examples(needs_model=False))
def test_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("code", examples(needs_model=True))
def test_examples_with_the_bundled_model_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {})


def test_python_blocks_of_the_readme_are_all_run():
    text = (ROOT / "README.md").read_text()
    assert text.count("```python") == len(EXAMPLE.findall(text)) > 0


def test_commands_in_the_readme_exist():
    from kineograph.cli import COMMANDS

    named = re.findall(r"^kineograph (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert named
    assert set(named) <= set(COMMANDS)


def test_names_of_the_public_face_exist():
    names = {name for path in DOCUMENTS for name in re.findall(r"\bkg\.(\w+)", path.read_text())}
    assert names
    assert names <= set(kineograph.__all__)
