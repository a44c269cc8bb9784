"""What the name of an output means, for `Video.save` and for the command line."""

import os

import numpy as np
import pytest

from kineograph._targets import SUFFIXES, ending, is_folder
from kineograph.errors import InputError, MediaError
from kineograph.video import Video

CLIP = Video.from_uint8(np.zeros((2, 8, 8, 3), np.uint8), 8)
posix = pytest.mark.skipif(os.sep != "/", reason="backslashes divide folders here")


@pytest.mark.parametrize("name", ["out_v1.5/", "clip.mp4/", "out", "out_v1.5", "run.2024-05-01", "c.10-final"])
def test_folders_with_dots_are_folders(tmp_path, name):
    assert is_folder(name)
    assert ending(name, SUFFIXES, "--output") == ""
    made = CLIP.save(f"{tmp_path / name.partition('/')[0]}{'/' if name.endswith('/') else ''}")
    assert sorted(file.name for file in made.iterdir()) == ["000000.png", "000001.png", "video.json"]


def test_a_folder_that_is_there_is_one(tmp_path):
    (tmp_path / "set.final").mkdir()
    assert is_folder(str(tmp_path / "set.final"))
    assert ending(str(tmp_path / "set.final"), SUFFIXES, "--output") == ""
    assert len(list(CLIP.save(tmp_path / "set.final").iterdir())) == 3


def test_files_are_files():
    assert not is_folder("clip.mp4")
    assert ending("out.v2/clip.MP4", SUFFIXES, "--output") == ".mp4"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.mp5", r"'a\.mp5' has an unknown ending '\.mp5', did you mean '\.mp4'\? Known: \.mp4, .*'a\.mp5/'"),
        ("a.jpg", r"unknown ending '\.jpg'.* Known: \.mp4"),
        ("a.wepp", r"did you mean '\.webp'"),
    ],
)
def test_unknown_endings_name_the_known_ones(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        ending(name, SUFFIXES, "--output")
    with pytest.raises(InputError, match=words):
        CLIP.save(name)
    assert not list(tmp_path.iterdir())


@posix
@pytest.mark.parametrize(
    ("name", "words"),
    [("C:\\films\\a.mp4", "Under WSL it is '/mnt/c/films/a.mp4'"), ("films\\a.mp4", "Write '/' instead: 'films/a.mp4'"),
     ("C:\\films\\new", "'/mnt/c/films/new'")],
)  # fmt: skip
def test_paths_of_windows_get_a_hint(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        CLIP.save(name)
    with pytest.raises(MediaError, match=words):
        Video.read(name)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(MediaError, match=r"a' is a file, no folder"):
        CLIP.save(tmp_path / "a" / "b.mp4")
    with pytest.raises(MediaError, match="a file of that name exists"):
        CLIP.save(f"{tmp_path}/a/")
