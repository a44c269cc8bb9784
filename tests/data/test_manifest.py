"""The manifest: round trip, and errors that name file and line."""

import pytest

from kineograph.data.manifest import Clip, iterate_manifest, read_manifest, write_manifest
from kineograph.errors import DataError

CLIP = Clip(path="a.mp4", caption="a dog", fps=8.0, frames=16, width=64, height=48, extra={"motion": 1.5})


def test_round_trip_keeps_unknown_keys(tmp_path):
    write_manifest(tmp_path, [CLIP, CLIP])
    assert read_manifest(tmp_path) == [CLIP, CLIP]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "JSON object"),
        ('{"path": "a.mp4"}', "'caption' is missing"),
        ('{"path": 3, "caption": "", "fps": 1, "frames": 1, "width": 1, "height": 1}', "'path'"),
        ('{"path": "a", "caption": "", "fps": 1, "frames": 0, "width": 1, "height": 1}', "at least 1"),
        ('{"path": "a", "caption": "", "fps": true, "frames": 1, "width": 1, "height": 1}', "'fps'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    file = write_manifest(tmp_path, [CLIP])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"manifest\.jsonl:2") as caught:
        list(iterate_manifest(tmp_path))
    assert words in str(caught.value)


def test_missing_manifest_and_split_are_explained(tmp_path):
    with pytest.raises(DataError, match="kineograph data"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, [CLIP])
    with pytest.raises(DataError, match="its splits: \\['train'\\]"):
        read_manifest(tmp_path, split="test")
