"""`kineograph doctor`: the findings, the tips and the exit status."""

import dataclasses
import hashlib
import json

import pytest

from kineograph import cli
from kineograph.cli import doctor


@pytest.fixture(scope="module")
def found():
    return doctor.examine()


def test_the_core_works_here(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {"torch", "diffusers", "transformers", "accelerate", "peft", "av"} <= {
        p["name"] for p in document["packages"]
    }
    assert all(p["fits"] and p["failure"] is None for p in document["packages"])
    assert document["memory"]["total_gib"] > 0
    assert document["devices"]["cpu"]["usable_cores"] >= 1


def test_text_names_each_package_and_closes_with_the_verdict(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.rstrip().endswith("The core works.")
    assert "torch" in text
    assert "processor" in text


def test_declared_packages_are_read_with_bounds_and_extras():
    needs = doctor.requirements()
    assert needs[""]["torch"] == ">=2.6"
    assert "emoji" in needs["data"]
    assert "kineograph" not in needs["dev"]
    assert doctor.requirements("no-such-distribution") == {}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("torch>=2.6", ("torch", ">=2.6", "")),
        ('emoji>=2.14; extra == "data"', ("emoji", ">=2.14", "data")),
        ("kineograph[data,train]; extra == 'dev'", ("kineograph", "", "dev")),
        ("Pillow (>=10)", ("pillow", ">=10", "")),
    ],
)
def test_a_requirement_is_split(line, parts):
    assert doctor._requirement(line) == parts


def test_a_missing_core_package_fails_with_the_command(found, monkeypatch, capsys):
    gone = {"name": "einops", "version": None, "needs": ">=0.8", "fits": False, "failure": None}
    ill = dataclasses.replace(found, packages=[gone], problems=[])
    ill.problems.extend(doctor._problems(ill))
    assert not ill.ok
    monkeypatch.setattr(doctor, "examine", lambda: ill)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert 'PROBLEM: einops is not installed\n    mend: pip install "einops>=0.8"' in text
    assert text.rstrip().endswith("The core does not work.")


def test_a_package_that_does_not_import_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise OSError('libx.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._import_failure("broken_package") == "OSError: libx.so: cannot open shared object file"


def test_a_package_too_old_is_a_problem(found):
    old = {"name": "av", "version": "9.0", "needs": ">=14", "fits": doctor._fits("9.0", ">=14"), "failure": None}
    problems = list(doctor._package_problems(dataclasses.replace(found, packages=[old])))
    assert [(p.what, p.core) for p in problems] == [("av 9.0 is outside >=14", True)]


def test_a_missing_extra_names_the_exact_command_and_is_no_failure(found, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "emoji" else "99")
    extra = doctor._extra("data", {"emoji": ">=2.14"})
    assert extra == {"installed": False, "missing": ["emoji"], "install": 'pip install "kineograph[data]"'}
    problem = next(doctor._extra_problems(dataclasses.replace(found, extras={"data": extra})))
    assert (problem.tip, problem.core) == ('pip install "kineograph[data]"', False)


def test_a_missing_npm_is_named(found):
    without = dataclasses.replace(found, extras={}, programs={"npm": None})
    assert "apt-get install npm" in next(doctor._extra_problems(without)).tip
    assert doctor._program_version("no-such-program-anywhere") is None


def test_damaged_weights_are_found(tmp_path):
    weights = tmp_path / "emoji" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (weights.parent / doctor.CHECKSUMS).write_text(f"{digest}  model.safetensors\n")
    good = doctor._bundled_model(tmp_path)
    assert (good["present"], good["checked"], good["wrong"]) == (True, 1, [])
    weights.write_bytes(b"weighty")
    assert doctor._bundled_model(tmp_path)["wrong"] == ["emoji/model.safetensors"]
    weights.unlink()
    missing = doctor._bundled_model(tmp_path)
    assert [p.what for p in doctor._model_problems(missing)] == [
        "the bundled model is missing",
        "the bundled file emoji/model.safetensors is damaged",
    ]


def test_little_memory_and_disk_are_noted(found):
    poor = dataclasses.replace(
        found, memory={"total_gib": 2.0, "available_gib": 0.5}, disk={"path": "/x", "free_gib": 0.1}
    )
    assert [p.what for p in doctor._machine_problems(poor)] == [
        "only 0.5 GiB of memory are free",
        "only 0.1 GiB are free in /x",
    ]
