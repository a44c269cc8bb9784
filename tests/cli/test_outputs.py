"""Nothing is replaced unasked, and what cannot be written is refused before any work."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kineograph.cli._outputs import check_free, claimed
from kineograph.errors import InputError


def test_names_count_up_and_each_writer_has_its_own(tmp_path):
    def write(number):
        with claimed(tmp_path / "clip.mp4", overwrite=False) as file:
            file.write_text(str(number))
        return file

    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(write, range(24)))
    assert {file.name for file in files} == {"clip.mp4", *(f"clip-{i}.mp4" for i in range(2, 25))}
    assert sorted(int(file.read_text()) for file in files) == list(range(24))


def test_a_writer_that_fails_leaves_no_empty_file(tmp_path):
    (tmp_path / "kept.mp4").write_text("old")
    for overwrite in (False, True):
        with pytest.raises(OSError, match="full"), claimed(tmp_path / "kept.mp4", overwrite):
            raise OSError("full")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("kept.mp4", "old")]


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "there.mp4").touch()
    cases = {
        "folder.mp4": "is a folder",
        "there.mp4": "exists already.*--overwrite",
        "there.mp4/clip.mp4": "is a file",
    }
    for name, words in cases.items():
        with pytest.raises(InputError, match=words):
            check_free([tmp_path / name], "--output", overwrite=False)
    check_free([tmp_path / "there.mp4", tmp_path / "new" / "deep" / "clip.mp4"], "--output", overwrite=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_place_that_takes_no_files():
    with pytest.raises(InputError, match=r"nothing can be written in '/proc'"):
        check_free([Path("/proc/x.mp4")], "--output", overwrite=False)
