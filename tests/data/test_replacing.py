"""A data set is not replaced unasked, and comes as a whole or not at all."""

import pytest

from kineograph.data.manifest import Clip, read_manifest, write_manifest
from kineograph.data.replacing import refuse_existing, replacing
from kineograph.data.synthetic import write_synthetic
from kineograph.errors import DataError, InputError

CLIP = Clip("clips/a.mkv", "a cat", 8.0, 2, 16, 16, extra={"motion": 1.0})


def content(folder):
    """Every file of a folder and its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["manifest.jsonl", "clips/000000.mkv", "flow/mine.npz"])
def test_synthetic_clips_replace_nothing_unasked(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"already holds a data set .*Nothing was changed.*--overwrite"):
        write_synthetic(tmp_path, 1, num_frames=1, size=16)
    assert content(tmp_path) == {name: b"precious"}


def test_synthetic_clips_replace_what_they_are_told_to(tmp_path):
    write_synthetic(tmp_path, 3, num_frames=1, size=16, flow=True)
    (tmp_path / "notes.txt").write_text("mine")
    write_synthetic(tmp_path, 2, num_frames=1, size=16, overwrite=True)
    assert sorted(content(tmp_path)) == ["clips/000000.mkv", "clips/000001.mkv", "manifest.jsonl", "notes.txt"]
    assert len(read_manifest(tmp_path)) == 2


def test_what_fails_on_the_way_changes_nothing(tmp_path):
    write_manifest(tmp_path, [CLIP])
    before = content(tmp_path)
    (tmp_path / ".part-killed").mkdir()

    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path, 2, num_frames=1, size=16, overwrite=True, progress=stop)
    with pytest.raises(InputError, match="16 pixels"):
        write_synthetic(tmp_path, 2, size=4, overwrite=True)
    assert content(tmp_path) == before
    assert not list(tmp_path.glob(".part-*"))


def test_a_move_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    write_manifest(tmp_path / "set", [CLIP])
    before, rename = content(tmp_path), type(tmp_path).rename

    def failing(self, target):
        if self.name == "manifest.jsonl" and ".part-" in str(self.parent) and ".replaced" not in str(self):
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", failing)
    with pytest.raises(OSError, match="busy"), replacing(tmp_path / "set", ["manifest.jsonl"]) as part:
        (part / "manifest.jsonl").write_text("new")
    assert content(tmp_path) == before


def test_a_file_is_no_place_for_a_data_set(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match="is a file"):
        refuse_existing(tmp_path / "a", True)
