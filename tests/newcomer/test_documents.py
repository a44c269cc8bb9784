"""No command stands in README or docs that a test does not run: every page is followed, command by command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from newcomer.commands import PAGES, ROOT, commands_of, name_of, replaced, short
from newcomer.stand_ins import prepare

ELSEWHERE = {
    r"make (demo|shell)": "tests/newcomer/test_day.py",
    r"make test": ".ci/run",
    r"pip install": "tests/test_project.py",
    r"kineograph data emoji": "tests/data/test_emoji.py",
    r"kineograph curate vote .*--voter": "tests/curation/test_study.py",
    r"kineograph convert IN -o OUT --to kineograph\|": "tests/checkpoints/test_convert.py",
    r"kineograph curate .* --captions coca": "tests/curation/test_captions.py",
    r"python -m pytest": "Makefile",
}
"""Commands that are run in another place: they ask a person, need a registry, or are tests themselves."""


REFUSED = {
    r"kineograph evaluate .* --protocol fvd2048": "needs 2048 generated clips, given 4",
    r"kineograph curate vote study/$": "holds no vote that counts",
}
"""Commands that want more than a test can give, and what they say then."""


def is_elsewhere(command: str) -> bool:
    return any(re.match(pattern, command) for pattern in ELSEWHERE)


def commands_here(page: Path) -> list[str]:
    return [command for command in commands_of(page) if not is_elsewhere(command)]


def test_places_elsewhere_exist_and_each_is_needed():
    everything = [command for page in PAGES for command in commands_of(page)]
    for pattern, place in ELSEWHERE.items():
        assert (ROOT / place).is_file()
        assert any(re.match(pattern, command) for command in everything), pattern


@pytest.mark.parametrize("page", [page for page in PAGES if commands_here(page)], ids=name_of)
def test_commands_name_verbs_and_flags_that_exist(page):
    from kineograph.cli import COMMANDS

    flags = set(re.findall(r"--[a-z][\w-]*", (ROOT / "tests" / "cli" / "flags.txt").read_text()))
    for command in commands_here(page):
        words = command.split()
        if words[0] == "kineograph":
            assert words[1] in COMMANDS, command
            assert {w.partition("=")[0] for w in words if w.startswith("--")} <= flags, command
        else:
            assert words[1] == "-m" or (ROOT / words[1]).is_file(), command


SHORT_SCRIPTS = {
    "benchmarks/curation.py": {"--rounds": "1"},
    "kineograph.metrics.motion_net": {"--minutes": "0.02"},
    "docs/systems/league.py": {"--minutes": "0.01"},
    "docs/emoji/evaluate.py": {"--count": "2"},
}


def run_script(command: str) -> int:
    """Run a script of the repository, with less work."""
    words = command.split()[1:]
    name = words[1] if words[0] == "-m" else words[0]
    for flag, value in SHORT_SCRIPTS.get(name, {}).items():
        words = replaced(words, flag, value)
    where = [] if words[0] == "-m" else [str(ROOT / words.pop(0))]
    return subprocess.run([sys.executable, *where, *words], check=False).returncode


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # a reader's warnings are no errors
@pytest.mark.parametrize("page", [page for page in PAGES if commands_here(page)], ids=name_of)
def test_a_page_is_followed_command_by_command(page, tmp_path, monkeypatch, capsys):
    from kineograph.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINEOGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kineograph.training.recipes.minilm_folder", lambda: ROOT / "src/kineograph/bundled/emoji")
    prepare(name_of(page), tmp_path)
    for command in commands_here(page):
        refusal = next((words for pattern, words in REFUSED.items() if re.match(pattern, command)), "")
        made = main(short(command)) if command.startswith("kineograph") else run_script(command)
        assert made == (2 if refusal else 0), command
        assert not refusal or refusal in capsys.readouterr().err, command
