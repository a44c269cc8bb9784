"""The frame of the command line: parsing, suggestions, errors, exit codes, JSON and progress."""

import errno
import json
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

import kineograph
from kineograph import cli
from kineograph.cli import _errors, _output
from kineograph.errors import InputError, MissingExtraError

COMMAND = '''
"""A command for the tests."""

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from safetensors import SafetensorError
from tyro.conf import Positional, arg

from kineograph.cli._output import emit, progress
from kineograph.errors import InputError


@dataclass(frozen=True)
class Optimiser:
    """Nested settings."""

    learning_rate: float = 1e-4
    """Step size, per step."""


@dataclass(frozen=True)
class Args:
    """Do something."""

    words: Positional[tuple[str, ...]] = ()
    """What to do."""

    prompt: tuple[str, ...] = ()
    """The same, as a flag."""

    num_inference_steps: Annotated[int, arg(aliases=("--steps",))] = 30
    """Steps, a count."""

    output: Annotated[Path | None, arg(aliases=("-o",))] = None
    """Where to."""

    mode: Literal["fast", "slow"] = "slow"
    """How."""

    json: bool = False
    """Print JSON."""

    optimiser: Optimiser = field(default_factory=Optimiser)


def run(args):
    fault = {
        "input": InputError("Frames must be 1 to 64, given 0.\\nTry 16."),
        "full": OSError(errno.ENOSPC, "No space left on device", "/x/clip.mp4"),
        "weights": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "denied": PermissionError(errno.EACCES, "Permission denied", "/x"),
        "memory": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        "defect": ZeroDivisionError("division by zero"),
        "interrupt": KeyboardInterrupt(),
        "pipe": BrokenPipeError(),
    }.get(args.words[0] if args.words else "")
    if fault is not None:
        raise fault
    emit(args, "done", args.json)
    return 0
'''


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Run the command line with one made-up command, `make`."""
    (tmp_path / "made_up_command.py").write_text(COMMAND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "make", ("made_up_command", "Do something."))
    yield lambda *words: cli.main(["make", *words])
    sys.modules.pop("made_up_command", None)


def parsed(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


# Parsing


@pytest.mark.parametrize("flag", ["--num-inference-steps", "--num_inference_steps", "--steps"])
def test_a_flag_is_known_by_each_of_its_spellings(program, capsys, flag):
    assert program(flag, "7", "--json") == 0
    assert parsed(capsys)["num_inference_steps"] == 7


@pytest.mark.parametrize("flag", ["--optimiser.learning-rate", "--optimiser.learning_rate"])
def test_nested_settings_are_flags(program, capsys, flag):
    assert program(flag, "0.5", "--json") == 0
    assert parsed(capsys)["optimiser"] == {"learning_rate": 0.5}


def test_help_does_not_show_none_as_a_default(program, capsys, monkeypatch):
    for columns in range(40, 100, 3):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert program("--help") == 0
        lines = capsys.readouterr().out.splitlines()
        assert "None" not in " ".join(lines)
        assert "(default: slow)" in re.sub(r"\s+", " ", " ".join(lines))
        assert all(line == line.rstrip() for line in lines)


def test_prompts_are_words_or_a_flag(program, capsys):
    assert program("a man", "-o", "x.mp4", "--json") == 0
    assert parsed(capsys)["words"] == ["a man"]
    assert program("--prompt", "a man", "--output", "x.mp4", "--json") == 0
    assert parsed(capsys)["prompt"] == ["a man"]


def test_help_shows_defaults(program, capsys):
    assert program("--help") == 0
    said = capsys.readouterr()
    assert "Steps, a count. (default: 30)" in " ".join(said.out.split())
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--num-inference-step", "3"], "--num-inference-steps"),
        (["--jsn"], "--json"),
        (["--mode", "quick"], "'fast', 'slow'"),
        (["--steps", "many"], "--steps"),
        (["--optimiser.learning-rat", "1"], "--optimiser.learning-rate"),
    ],
)
def test_a_wrong_flag_or_value_names_the_right_one(program, capsys, words, wanted):
    assert program(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert wanted in said.err
    assert not set("╭│╰─") & set(said.err)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["generate", "a cat", "--size", "65"], "did you mean '--width N --height N'"),
        (["generate", "a cat", "--lr", "3"], "did you mean 'kineograph train --learning-rate'"),
        (["generate", "a cat", "--framez", "3"], "Unknown flag '--framez'"),
        (["generate", "a cat", "--heigth", "64"], "did you mean '--height'? All flags: kineograph generate --help"),
        (["evaluate", "x", "--metric", "fvd"], "did you mean '--metrics'"),
        (["train", "latent-image", "--data", "d", "--output-dir", "r", "--base", "emoji", "--size", "65"],
         "--size 65 is not a multiple of 8; take 64 or 72"),
        (["train", "autoencoder", "--data", "d", "--output-dir", "r", "--size", "0"], "--size must be at least 8"),
    ],
)  # fmt: skip
def test_flags_of_other_programs_and_slips_name_ours(capsys, words, wanted):
    assert cli.main(words) == 2
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["genrate"], "did you mean 'generate'?"),
        (["--versoin"], "did you mean '--version'?"),
        (["--print-completion", "bsh"], "bash"),
    ],
)
def test_a_wrong_command_names_the_nearest(capsys, words, wanted):
    assert cli.main(words) == 2
    assert wanted in capsys.readouterr().err


def test_version_and_overview(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"kineograph {kineograph.__version__}\n"
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {name} " in overview for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_only_the_chosen_command_is_imported(program, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "absent", ("no_such_module", "Never imported."))
    assert program("x") == 0


# Errors


@pytest.mark.parametrize(
    ("word", "status", "message"),
    [
        ("input", 2, "error: Frames must be 1 to 64, given 0. Try 16.\n"),
        (
            "full",
            2,
            "error: The disk is full: '/x/clip.mp4' could not be written. Free some space, or write to another disk.\n",
        ),
        (
            "weights",
            2,
            "error: The disk is full: the weights could not be written. Free some space, or write to another disk.\n",
        ),
        (
            "denied",
            2,
            "error: Permission denied: '/x'. You may not read or write there; name another place, or change its "
            "rights.\n",
        ),
        ("interrupt", 130, "error: interrupted.\n"),
    ],
)
def test_errors_are_one_paragraph(program, capsys, word, status, message):
    assert program(word) == status
    said = capsys.readouterr()
    assert said.err == message
    assert said.out == ""


@pytest.mark.parametrize("words", [["C:\\films\\a.mp4"], ["x", "-o", "C:\\out"], ["x", "--output=C:\\out"]])
def test_a_drive_of_windows_is_refused(program, capsys, words):
    assert program(*words) == 2
    assert "is a path of Windows" in (said := capsys.readouterr().err)
    assert "/mnt/c/" in said


def test_a_path_with_the_separators_of_windows_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "check", "films\\set"]) == 2
    assert "Here folders are separated by '/': 'films/set'." in capsys.readouterr().err
    assert cli.main(["data", "check", "films/set"]) == 2
    assert "separated" not in capsys.readouterr().err


def test_out_of_memory_is_advice(program, capsys):
    assert program("memory") == 2
    assert "fewer frames" in capsys.readouterr().err


def test_a_defect_shows_its_traceback_and_where_to_report(program, capsys):
    assert program("defect") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: ZeroDivisionError: division by zero. This is a defect")


def test_a_users_error_shows_its_traceback_on_request(program, capsys, monkeypatch):
    monkeypatch.setenv(_errors.TRACEBACK, "1")
    assert program("input") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_extra_reads_as_an_error_of_the_user():
    assert _errors.explained(MissingExtraError("needs x")) == "needs x"
    assert _errors.explained(OSError(errno.EIO, "Input/output error", "/x")) is None


def test_errors_wrap_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")

    def fail() -> int:
        raise InputError("word " * 30)

    assert _errors.guarded(fail) == 2
    assert max(len(line) for line in capsys.readouterr().err.splitlines()) <= 40


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from kineograph.cli._errors import guarded; sys.exit(guarded(lambda: print('x' * 10**6) or 0))"
    script = f'{sys.executable} -c {shlex.quote(code)} | head -c 1; echo " ${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["x", "141"]
    assert done.stderr == ""


# Output


@dataclass(frozen=True)
class Scored:
    name: str
    values: tuple[float, ...]
    path: Path


def test_json_is_one_document_of_plain_data(capsys):
    torch = pytest.importorskip("torch")
    _output.emit({"a": Scored("é", (1.0, float("nan")), Path("x")), 3: torch.tensor(2.5)}, "text", as_json=True)
    assert parsed(capsys) == {"a": {"name": "é", "values": [1.0, None], "path": "x"}, "3": 2.5}


def test_what_has_no_json_form_is_refused():
    with pytest.raises(TypeError, match="object"):
        _output.plain(object())


def test_tables():
    assert _output.table([(1, "b"), ("long", 2)], ("x", "y")) == "x     y\n----  -\n1     b\nlong  2"
    assert _output.markdown([("a|b", 1)], ("x", "y")) == "| x | y |\n| --- | --- |\n| a\\|b | 1 |"


def test_progress_in_a_pipe_is_plain_lines_on_stderr(capsys):
    with _output.progress("sampling", 3) as report:
        for step in range(3):
            report(step + 1, "seed 1")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sampling: 3/3 steps, ")
    assert said.err.endswith(", seed 1\n")
    assert said.err.count("\n") == 1


def test_stages_in_a_pipe_close_with_a_line_each(capsys):
    with _output.stages("clips") as told:
        told(1, 2, "reading")
        told(2, 2, "reading")
        told(3, 3, "writing")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["reading: 2/2 clips", "writing: 3/3 clips"]


def test_progress_on_a_terminal_is_a_bar():
    code = """
        import io, sys
        class Terminal(io.StringIO):
            isatty = lambda self: True
        sys.stderr = Terminal()
        from kineograph.cli._output import progress
        with progress("sampling", 2) as report:
            report(1); report(2, "done")
        sys.stdout.write(sys.stderr.getvalue())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "sampling" in done.stdout
    assert "2/2" in done.stdout
