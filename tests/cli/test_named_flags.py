"""Every flag that a message, a help text, the README or a page names is one that its command has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flags import AGREED

ROOT = Path(__file__).parents[2]
FLAG = re.compile(r"(?<![\w(-])--[a-z][a-z0-9_-]*[a-z0-9](?![\w:])")
FOREIGN = {
    *("--help", "--version", "--print-completion", "--tyro-print-completion"),  # of the program and the parser
    *("--no-deps", "--force-reinstall", "--upgrade", "--pack-destination"),  # pip and npm
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def agreed() -> dict[str, set[str]]:
    """Return the flags of each command, all of its verbs together."""
    table: dict[str, set[str]] = {}
    for line in AGREED.read_text().splitlines():
        command, _, *words = line.split()
        table.setdefault(command, set()).update(word for word in words if word.startswith("-"))
    return table


def texts(file: Path) -> Iterator[str]:
    """Yield the strings of a source file that a user may read: neither docstrings nor the keys of hints."""
    source = file.read_text()
    if "--" not in source:
        return
    nodes = list(ast.walk(ast.parse(source)))
    silent = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            hints = any(isinstance(target, ast.Name) and target.id == "HINTS" for target in node.targets)
            silent |= {id(key) for key in node.value.keys if hints}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value


def named(text: str) -> set[str]:
    return {flag.replace("_", "-") for flag in FLAG.findall(text)}


def test_messages_name_only_flags_that_exist():
    known = FOREIGN.union(*agreed().values())
    wrong = {
        (str(file.relative_to(ROOT)), flag)
        for file in sorted((ROOT / "src").rglob("*.py"))
        for text in texts(file)
        for flag in named(text) - known
    }
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_pages_have_the_flags_they_show(page):
    table = agreed()
    for command, rest in re.findall(r"kineograph (\w+)((?: (?!kineograph)[^\n`|]*)?)", page.read_text()):
        if command in table:
            assert named(rest.split("  #")[0]) <= table[command] | FOREIGN, f"kineograph {command}{rest}"
