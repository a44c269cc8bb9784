"""PyTorch's files read as data: harmless bookkeeping is let through, code and objects are named and never run."""

import argparse
import collections
import datetime
import io
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kineograph._read_weights import read_weight_file
from kineograph._stand_ins import stand_in
from kineograph._torch_files import read_torch_file
from kineograph.errors import WeightsError

LAYOUTS = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])


def stored(content, zipped):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@LAYOUTS
def test_what_training_scripts_keep_beside_weights_is_harmless(tmp_path, zipped):
    content = {
        "state_dict": {"x": torch.arange(3.0)},
        "global_step": np.int64(470000),
        "small": [np.float32(0.5), np.float16(-2), np.bool_(True), np.uint8(200), np.dtype(">i4").type(3)],
        "array": np.arange(5),
        "word": np.str_("abc"),
        "random": np.random.RandomState(3).get_state(),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("x")),
        "seen": collections.defaultdict(list, {1: [2]}),
        "last": collections.deque([1, 2], maxlen=3),
        "when": datetime.datetime(2026, 1, 2),
        "names": {"a", "b"},
    }
    (tmp_path / "last.ckpt").write_bytes(stored(content, zipped))
    read = read_torch_file(tmp_path / "last.ckpt")
    assert read["state_dict"]["x"].tolist() == [0, 1, 2]
    assert read["global_step"] == 470000
    assert type(read["global_step"]) is int
    assert read["small"] == [0.5, -2.0, True, 200, 3]
    assert (read["names"], read["last"], read["seen"]) == ({"a", "b"}, [1, 2], {1: [2]})


class EasyDict(dict):
    """Settings as many training scripts keep them: keys that are attributes, too."""

    def __init__(self, **values):
        super().__init__(values)
        self.__dict__.update(values)


class Dates(dict):
    """A dictionary where none is expected."""


@LAYOUTS
def test_settings_in_dictionaries_of_other_packages(tmp_path, monkeypatch, zipped):
    for kind, name in ((EasyDict, "easydict"), (Dates, "omegaconf.dates")):
        monkeypatch.setattr(kind, "__module__", name)
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{kind.__name__: kind}))
    (tmp_path / "x").write_bytes(stored({"config": EasyDict(lr=0.1), "x": torch.ones(1)}, zipped))
    assert read_torch_file(tmp_path / "x")["config"] == {"lr": 0.1}
    (tmp_path / "x").write_bytes(stored({"config": Dates(lr=0.1), "x": torch.ones(1)}, zipped))
    with pytest.raises(WeightsError, match=r"holds Python objects beside its weights \(omegaconf\.dates\.Dates\)"):
        read_torch_file(tmp_path / "x")


def test_what_is_let_through_is_never_the_real_thing():
    for name in ("numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"):
        ours = stand_in(name)
        assert ours.__module__ == "kineograph._stand_ins"
    for name in ("numpy.testing._private.utils.runstring", "os.system", "builtins.eval", "numpy.load", "my.Class"):
        assert stand_in(name) is None


class Call:
    """Calls a function when a careless program unpickles it."""

    def __init__(self, function, *words):
        self.function, self.words = function, words

    def __reduce__(self):
        return self.function, self.words


class Settings:
    """A class of some training script."""


CALLS = {
    "holds Python code beside its weights (posix.system)": Call(os.system, "touch boom"),
    "holds Python code beside its weights (builtins.eval)": Call(eval, "open('boom', 'w')"),
    "holds Python code beside its weights (subprocess.Popen)": Call(subprocess.Popen, ["touch", "boom"]),
    "holds Python code beside its weights (torch.serialization.load)": Call(torch.load, "boom"),
    f"holds Python objects beside its weights ({Settings.__module__}.Settings)": Settings(),
    "holds a whole network as a Python object (torch.nn.modules.linear.Linear)": nn.Linear(2, 2),
}


@LAYOUTS
@pytest.mark.parametrize("words", list(CALLS), ids=lambda words: words.rpartition("(")[2])
def test_code_and_objects_are_told_apart_and_neither_is_made(tmp_path, monkeypatch, words, zipped):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(stored({"step": np.int64(3), "x": torch.zeros(1), "y": CALLS[words]}, zipped))
    with pytest.raises(WeightsError) as caught:
        read_torch_file(tmp_path / "x")
    assert words in str(caught.value)
    assert "never does" in str(caught.value)
    assert not (tmp_path / "boom").exists()


@LAYOUTS
def test_cut_at_any_place_it_is_called_cut(tmp_path, zipped):
    whole = stored({"state_dict": {"x": torch.zeros(4000), "y": torch.zeros(60).half()}, "n": np.int64(1)}, zipped)
    for length in (80, 250, 600, 5000, len(whole) - 200, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=f"it is cut: {length:,} bytes are there, and ") as caught:
            read_weight_file(tmp_path / "cut.pt")
        assert "code" not in str(caught.value)
    (tmp_path / "cut.pt").write_bytes(whole[:5000])
    with pytest.raises(WeightsError) as caught:
        read_weight_file(tmp_path / "cut.pt")
    declared = int(str(caught.value).partition("declares ")[2].removeprefix("at least ").split(".")[0].replace(",", ""))
    assert 16120 < declared <= len(whole)
    assert zipped or declared == len(whole)


def test_other_protocols_and_programs_are_named(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "four.pt", pickle_protocol=4)
    with pytest.raises(WeightsError, match="pickled with protocol 4, and only protocol 2 can be read as data"):
        read_weight_file(tmp_path / "four.pt")
    buffer = io.BytesIO()
    with torch.package.PackageExporter(buffer) as package:
        package.save_pickle("model", "data.txt", {"x": 1})
    (tmp_path / "package.pt").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match="a zip archive of"):
        read_weight_file(tmp_path / "package.pt")
