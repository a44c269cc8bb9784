"""`kineograph systems`: list, pages, JSON, and the table of the README."""

import json
from pathlib import Path

import pytest

from kineograph import cli
from kineograph.cli import systems as command
from kineograph.errors import InputError
from kineograph.systems import systems

README = Path(__file__).parents[2] / "README.md"


def test_the_list_names_every_system(capsys):
    assert cli.main(["systems"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(systems())]] == list(systems())


def test_json_is_the_whole_registry(capsys):
    assert cli.main(["systems", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == list(systems())
    assert all("tiny" in entry["presets"] and entry["title"] and entry["bibtex"] for entry in found)


@pytest.mark.parametrize("name", list(systems()))
def test_every_page_renders(capsys, name):
    assert cli.main(["systems", "show", name]) == 0
    page = capsys.readouterr().out
    card = systems()[name].card
    assert card.title in page
    assert str(card.year) in page
    assert f"@misc{{{name}," in page
    assert max(len(line) for line in page.splitlines()) < 250


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["show"], "Name the system"),
        (["show", "modelscop"], "did you mean 'modelscope'?"),
        (["list", "modelscope"], "systems show modelscope"),
        (["shw"], "'list', 'show'"),
    ],
)
def test_wrong_requests_name_the_right_one(capsys, words, wanted):
    assert cli.main(["systems", *words]) == 2
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "bibtex"),
    [
        ("A B, C D et al.", "A B and C D and others"),
        ("A B and C D", "A B and C D"),
        ("A B", "A B"),
        ("A, B", "A and B"),
    ],
)
def test_authors_in_bibtex(names, bibtex):
    assert command._authors(names) == bibtex


def test_the_readme_table_is_up_to_date():
    text = README.read_text()
    assert command.with_registry_table(text) == text, "run `make readme`"


def test_a_text_without_marks_is_refused():
    with pytest.raises(InputError, match="registry: begin"):
        command.with_registry_table("# Title")
