"""The switch that says whether this machine has arithmetic for bfloat16, and who listens to it."""

import pytest
import torch

from kineograph import devices
from kineograph.cli import doctor
from kineograph.errors import InputError


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize(("said", "answer"), [("1", True), ("0", False), ("auto", None), ("", None), (" AUTO ", None)])
def test_the_switch_answers_in_place_of_the_hardware(said, answer, hardware, monkeypatch):
    monkeypatch.setattr(devices, "_hardware_bf16", lambda: hardware)
    monkeypatch.setenv(devices.BF16_SWITCH, said)
    assert devices.has_bf16() is (hardware if answer is None else answer)


def test_another_word_is_refused_and_doctor_says_so(monkeypatch):
    monkeypatch.setenv(devices.BF16_SWITCH, "maybe")
    with pytest.raises(InputError, match=r"KINEOGRAPH_BF16 'maybe'.* Known: 0, 1, auto"):
        devices.has_bf16()
    found = doctor.examine()
    assert not found.ok
    assert any("KINEOGRAPH_BF16 'maybe'" in problem.what for problem in found.problems)


@pytest.mark.parametrize(("said", "word"), [("1", "bfloat16, as KINEOGRAPH_BF16=1"), ("0", "float32, as KINEOGRAPH")])
def test_doctor_names_the_arithmetic(said, word, monkeypatch, capsys):
    monkeypatch.setenv(devices.BF16_SWITCH, said)
    assert doctor.run(doctor.Args()) == 0
    assert f"arithmetic   {word}" in capsys.readouterr().out


@pytest.mark.parametrize("said", ["1", "0"])
def test_sampling_and_training_listen(said, monkeypatch):
    from kineograph.sampling.options import autocast
    from kineograph.training.loop import precision

    monkeypatch.setenv(devices.BF16_SWITCH, said)
    with autocast(torch.device("cpu"), "auto"):
        assert torch.is_autocast_enabled("cpu") is (said == "1")
    assert precision("auto") == ("bf16" if said == "1" else "no")


@pytest.mark.parametrize(
    ("said", "dtype", "cast", "answer"),
    [
        ("1", torch.bfloat16, False, True),
        ("1", torch.float32, True, True),
        ("1", torch.float32, False, False),
        ("0", torch.bfloat16, True, False),
    ],
)
def test_what_is_computed_in_bfloat16(said, dtype, cast, answer, monkeypatch):
    monkeypatch.setenv(devices.BF16_SWITCH, said)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        assert devices.computes_in_bf16(torch.zeros(1, dtype=dtype)) is answer
