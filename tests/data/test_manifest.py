"""The manifest: round trip, and errors that name file and line."""

import os
from dataclasses import replace

import pytest

from kineograph.data.manifest import Clip, content_key, iterate_manifest, read_manifest, write_manifest
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
        ('{"path": "a", "caption": "", "fps": 1, "frames": 0, "width": 1, "height": 1}', "from 1 to"),
        ('{"path": "a", "caption": "", "fps": NaN, "frames": 1, "width": 1, "height": 1}', "fps from 0 on"),
        ('{"path": "a", "caption": "", "fps": 1, "frames": 1, "width": 1e999, "height": 1}', "'width'"),
        ('{"path": "a", "caption": "", "fps": 1, "frames": 1' + 20 * "0" + ', "width": 1, "height": 1}', "from 1 to"),
        ('{"path": "a\\u0000", "caption": "", "fps": 1, "frames": 1, "width": 1, "height": 1}', "names no file"),
        ('{"path": "a", "caption": "", "fps": 1, "frames": 1, "width": 1, "height": 1, "split": 3}', "'split'"),
        ("[" * 99999, "not valid JSON"),
        ('{"path": "a", "caption": "", "fps": true, "frames": 1, "width": 1, "height": 1}', "'fps'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    file = write_manifest(tmp_path, [CLIP])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"manifest\.jsonl:2") as caught:
        list(iterate_manifest(tmp_path))
    assert words in str(caught.value)


def test_names_that_are_not_utf8_and_empty_fields(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    file = write_manifest(tmp_path, [replace(CLIP, path=name), CLIP])
    assert [clip.path for clip in read_manifest(tmp_path)] == [name, "a.mp4"]
    file.write_text(file.read_text().replace('"source": ""', '"source": null'))
    assert [clip.source for clip in read_manifest(tmp_path)] == ["", ""]


def test_missing_manifest_and_split_are_explained(tmp_path):
    with pytest.raises(DataError, match="kineograph data"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, [CLIP])
    with pytest.raises(DataError, match="its splits: \\['train'\\]"):
        read_manifest(tmp_path, split="test")


def test_the_content_key_follows_rows_and_files(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"one")
    file = write_manifest(tmp_path, [CLIP])
    keys = [content_key(tmp_path)]
    file.write_bytes(b"\r\n" + file.read_bytes().replace(b": ", b":  ").replace(b"\n", b"\r\n"))
    assert content_key(file) == keys[0]

    def changed() -> bool:
        keys.append(content_key(tmp_path))
        return len(set(keys)) == len(keys)

    (tmp_path / "a.mp4").write_bytes(b"longer")
    assert changed()
    os.utime(tmp_path / "a.mp4", ns=(1, 1_000_000_001))
    assert changed()
    os.utime(tmp_path / "a.mp4", ns=(1, 1_000_000_002))
    assert changed()
    write_manifest(tmp_path, [replace(CLIP, caption="a cat")])
    assert changed()
    (tmp_path / "a.mp4").unlink()
    assert changed()
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "a.mp4" / "0.png").write_bytes(b"picture")
    assert changed()
    (tmp_path / "a.mp4" / "0.png").write_bytes(b"other picture")
    assert changed()


def test_two_data_sets_have_two_content_keys(tmp_path):
    for name in ("one", "two"):
        write_manifest(tmp_path / name, [CLIP])
    assert content_key(tmp_path / "one") != content_key(tmp_path / "two")
