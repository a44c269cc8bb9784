"""Files told from their content: what is no file of weights is named as what it is, and what is cut as cut."""

import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from kineograph._read_weights import read_metadata, read_safetensors_file, read_weight_file
from kineograph._weight_kinds import is_npz, layout_of, what_it_is
from kineograph.errors import WeightsError
from kineograph.models.text import load_tokenizer
from kineograph.models.weights import read_json, read_weights

WHOLE = save({"x": torch.arange(12.0).reshape(3, 4)}, {"said": "so"})


@pytest.fixture
def written(tmp_path):
    def write(content, name="model.ckpt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def zipped(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, WHOLE)
    return buffer.getvalue()


def taped(name):
    buffer, entry = io.BytesIO(), tarfile.TarInfo(name)
    entry.size = len(WHOLE)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(WHOLE))
    return buffer.getvalue()


def arrays(one=False):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3)) if one else np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


KINDS = {
    "an HTML page that begins with '<html>": b"\xef\xbb\xbf\n <html><body>Sign in</body></html>",
    "an XML document that begins with '<?xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    'a JSON file that begins with \'{"error"': b'{"error": "not found"}',
    "the index of weights in several files. Give the folder": json.dumps({"weight_map": {"x": "a.bin"}}).encode(),
    "a text file that begins with 'Entry not found'": b"Entry not found",
    "a text file that begins with 'Zugang'": "Zugang".encode("utf-16"),
    "Git LFS pointer that stands for 4,265,146,304 bytes, fetch the file itself with `git lfs pull`": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4265146304\n"
    ),
    "pointer of git-annex": b"/annex/objects/SHA256E-s12--ab.bin\n",
    "a zip archive of 'model.safetensors'. Unpack it": zipped("model.safetensors"),
    "a tar archive. Unpack it": taped("a"),
    "a gzip archive. Unpack it": gzip.compress(WHOLE),
    "a 7-Zip archive": b"7z\xbc\xaf'\x1c\x00\x04" + bytes(30),
    "a RAR archive": b"Rar!\x1a\x07\x01\x00",
    "an xz archive": b"\xfd7zXZ\x00\x00\x04",
    "a GGUF file": b"GGUF\x03\0\0\0" + bytes(30),
    "an ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x052.1.0",
    "a msgpack file, as Flax writes it": b"\x83\xa4text\x81\xa5inner\x01",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(30),
    "a picture (PNG). Pictures are given with --image": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "a picture (JPEG)": b"\xff\xd8\xff\xe0" + bytes(30),
    "a film or picture (MP4": b"\0\0\0\x20ftypisom" + bytes(30),
    "an archive of NumPy arrays": arrays(),
    "a single NumPy array": arrays(one=True),
    "a Python pickle that PyTorch did not write": b"\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94\x8c\x01x\x94K\x01s.",
    "Python pickle": b"(dp0\nVx\np1\nI1\ns.",
    "it is empty (0 bytes)": b"",
    "begins with zeros only": bytes(2000),
    "begins with the bytes fe fe": b"\xfe" * 30,
}


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("words", list(KINDS), ids=lambda words: words[:24])
def test_what_is_no_weights_is_named(written, words, ending):
    file = written(KINDS[words], f"model{ending}")
    with pytest.raises(WeightsError) as caught:
        read_weights(file)
    said = str(caught.value)
    assert words in said
    assert str(file) in said
    assert "code beside" not in said
    assert said.endswith(".")
    assert not said.endswith("..")


def test_weights_under_any_name(written):
    stored = io.BytesIO()
    torch.save({"x": torch.ones(2)}, stored)
    for name in ("a", "a.pt", "a.bin", "a.zip", "a.txt", "a.safetensors"):
        assert read_weights(written(WHOLE, name))["x"].shape == (3, 4)
        assert read_metadata(written(WHOLE, name)) == {"said": "so"}
        assert read_weights(written(stored.getvalue(), name))["x"].tolist() == [1, 1]
        assert read_metadata(written(stored.getvalue(), name)) == {}
    with pytest.raises(WeightsError, match="it is a PyTorch file. Write its tensors as safetensors"):
        read_safetensors_file(written(stored.getvalue()))


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize("length", [9, 40, len(WHOLE) - 1])
def test_a_cut_safetensors_file_says_what_is_there_and_what_was_declared(written, length, ending):
    with pytest.raises(WeightsError, match="not a readable safetensors file: it is cut") as caught:
        read_weight_file(written(WHOLE[:length], f"cut.{ending}"))
    begin = 8 + struct.unpack("<Q", WHOLE[:8])[0]
    declared = f"its header declares {len(WHOLE)}" if length > begin else f"its header alone takes {begin}"
    assert f"{length} bytes are there, and {declared}" in str(caught.value)


def test_a_link_to_nothing_says_so(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("../.git/annex/objects/x")
    with pytest.raises(WeightsError, match=r"is a link to '\.\./\.git/annex/objects/x', which is not there"):
        read_weights(tmp_path / "model.safetensors")


def test_a_file_that_is_too_long_says_so(written):
    with pytest.raises(WeightsError, match=f"{len(WHOLE) + 2} bytes long, and its header declares {len(WHOLE)}"):
        read_weight_file(written(WHOLE + b"\0\0"))


def test_kinds_are_not_mixed_up(written):
    assert is_npz(written(arrays()))
    assert not is_npz(written(KINDS["a tar archive. Unpack it"]))
    assert "text file that begins with 'BMW" in what_it_is(written(b"BMW is a car"))
    assert layout_of(written(WHOLE, "model.gguf")) == "safetensors"


def test_pointers_in_place_of_configurations_and_words(tmp_path):
    pointer = KINDS["Git LFS pointer that stands for 4,265,146,304 bytes, fetch the file itself with `git lfs pull`"]
    (tmp_path / "config.json").write_bytes(pointer)
    with pytest.raises(WeightsError, match=r"config\.json' cannot be read as JSON: it is a Git LFS pointer"):
        read_json(tmp_path / "config.json")
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_bytes(pointer)
    with pytest.raises(WeightsError, match=r"merges\.txt' is no file of a tokenizer: it is a Git LFS pointer"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"depth": 2}')
    assert read_json(tmp_path / "config.json") == {"depth": 2}
