"""The flags of every command are agreed, documented and kept in a list, so that growth is a decision."""

import re

import pytest
from flags import AGREED, actions, listing, members

from kineograph.cli import COMMANDS
from kineograph.cli._parse import completion, load

EVERY = [
    pytest.param(name, member, id=f"{name}-{member.__name__}")
    for name, (module, _) in COMMANDS.items()
    for member in members(load(module).Args)
]


def test_the_flags_are_the_agreed_ones():
    assert listing() == AGREED.read_text().splitlines(), "if the change is meant: make flags"


@pytest.mark.parametrize(("name", "member"), EVERY)
def test_every_flag_says_what_it_is(name, member):
    assert member.__doc__
    for words, text in actions(member):
        described = re.sub(r"\((default|required|fixed|optional|repeatable)[^)]*\)", "", text).strip()
        assert len(described) > 4, f"{name} {words} has no description"


@pytest.mark.parametrize(("name", "member"), EVERY)
def test_a_flag_without_a_default_value_says_what_leaving_it_out_means(name, member):
    for words, text in actions(member):
        unset = re.search(r"\(default: None\)\s*$", text)
        assert not unset or "efault" in text[: unset.start()], f"{name} {words}: {text}"


@pytest.mark.parametrize(("name", "member"), EVERY)
def test_results_have_a_json_form(name, member):
    assert "json" in {word.lstrip("-") for words, _ in actions(member) for word in words}


def test_flags_people_already_type_are_spelt_their_way():
    spelt = {word for line in listing() if line.startswith("generate ") for word in line.split()[2:]}
    usual = (
        "prompt negative-prompt num-frames height width num-inference-steps steps guidance-scale seed fps output json"
    )
    assert {f"--{word}" for word in usual.split()} | {"-o"} <= spelt
    assert {"--resume", "--dry-run"} <= {
        word for line in listing() if line.startswith("train ") for word in line.split()
    }


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell):
    script = completion([shell], COMMANDS)
    assert {*COMMANDS, "emoji", "synthetic", "--archives"} <= set(re.findall(r"[\w-]+", script))
