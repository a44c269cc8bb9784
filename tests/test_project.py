"""The project's own files agree with each other and with the code."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import kineograph

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def declared() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    needs = [Requirement(line) for group in groups for line in group]
    return [need for need in needs if need.name != "kineograph"]


@pytest.mark.parametrize("need", declared(), ids=str)
def test_every_declared_package_has_a_lower_bound_and_a_tested_version_within_it(need):
    assert [clause.operator for clause in need.specifier] == [">="]
    assert need.specifier.contains(pins()[canonicalize_name(need.name)])


def test_extras_that_name_extras_name_existing_ones():
    extras = PROJECT["optional-dependencies"]
    named = [Requirement(line) for group in extras.values() for line in group if line.startswith("kineograph[")]
    assert {extra for need in named for extra in need.extras} <= set(extras)


def extras_in_code() -> list[tuple[str, str]]:
    """Return each `require(module, extra)` of the sources with its place."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).split(".")[-1] == "require"
                and len(node.args) == 2
            ):
                extra = node.args[1]
                assert isinstance(extra, ast.Constant), f"{path}:{node.lineno}: name the extra literally"
                found.append((str(extra.value), f"{path.relative_to(ROOT)}:{node.lineno}"))
    return found


def test_every_extra_that_an_error_message_names_exists():
    wrong = [(extra, where) for extra, where in extras_in_code() if extra not in PROJECT["optional-dependencies"]]
    assert wrong == []


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == kineograph.__version__


def test_citation_has_the_required_fields():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))


def test_the_changelog_has_its_headings_in_order():
    text = (ROOT / "CHANGELOG.md").read_text()
    first = text.split("\n## ")[1]
    assert first.startswith("[Unreleased]")
    assert re.findall(r"^### (\w+)", first, flags=re.MULTILINE) == ["Added", "Changed", "Fixed", "Removed", "Numerics"]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", ".ci/run", ".pre-commit-config.yaml", "constraints.txt"]
)
def test_documents_name_make_targets_that_exist(document):
    text = (ROOT / document).read_text()
    named = (
        set(re.findall(r"^make (?:--[a-z-]+ )*([a-z]+(?:-[a-z0-9]+)*)", text, flags=re.MULTILINE))
        if document == ".ci/run"
        else set()
    )
    named |= set(re.findall(r"(?:`|^ +)make ([a-z]+(?:-[a-z0-9]+)*)", text, flags=re.MULTILINE))
    assert named, document
    assert named <= targets()


def test_every_target_has_a_line_of_help():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^ *make ([a-z0-9-]+)", done.stdout, flags=re.MULTILINE))
    assert listed == targets()


def test_scripts_are_executable_bash_that_parses():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_hooks_are_local():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    assert {hook["language"] for repo in repos for hook in repo["hooks"]} == {"system"}


MIRRORED = (
    "diffusion",
    "temporal",
    "models",
    "metrics",
    "cli",
    "data",
    "training",
    "sampling",
    "systems",
    "checkpoints",
    "curation",
)


@pytest.mark.parametrize("part", MIRRORED)
def test_tests_mirror_the_sources(part):
    has_code = any(path.name != "__init__.py" for path in (ROOT / "src" / "kineograph" / part).glob("*.py"))
    assert not has_code or any((ROOT / "tests" / part).glob("test_*.py"))
