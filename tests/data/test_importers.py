"""Other layouts become manifests, and whatever cannot is listed with its reason."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from kineograph.data.importers import import_data
from kineograph.data.manifest import Clip, read_manifest, write_manifest
from kineograph.errors import DataError
from kineograph.video import Video


def film(path, frames=3, size=(16, 24), fps=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(frames).integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    return Video.from_uint8(pixels, fps).save(path)


def table(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def test_folder_with_sidecars(tmp_path):
    film(tmp_path / "a.mp4").with_suffix(".txt").write_text("a red\nball \n", encoding="utf-8")
    film(tmp_path / "deep" / "b.webm", 5, fps=12)
    (tmp_path / "orphan.txt").write_text("no video")
    (tmp_path / "broken.mp4").write_text("not a video")
    (tmp_path / "readme.md").touch()
    (tmp_path / ".hidden.mp4").touch()
    report = import_data(tmp_path, licence="CC0")
    clips = read_manifest(tmp_path)
    assert [(c.path, c.caption, c.fps, c.frames, c.width, c.height, c.licence, c.split) for c in clips] == [
        ("a.mp4", "a red ball", 8, 3, 24, 16, "CC0", "train"),
        ("deep/b.webm", "", 12, 5, 24, 16, "CC0", "train"),
    ]
    assert (report.layout, report.found, report.clips) == ("folder", 3, 2)
    assert report.missing_captions == [str(tmp_path / "deep/b.webm")]
    assert report.orphan_captions == ["orphan.txt"]
    assert list(report.unreadable) == [str(tmp_path / "broken.mp4")]
    assert "text that begins 'not a video'" in report.unreadable[str(tmp_path / "broken.mp4")]
    assert report.ignored == {".md": 1}
    summary = report.summary()
    for line in ("2 of 3 clips written", "1 without a caption", "1 left out, unreadable", "1 caption files without"):
        assert line in summary
    assert report.to_json()["clips"] == 2
    again = import_data(tmp_path, overwrite=True)
    assert (again.found, again.clips, again.ignored) == (3, 2, {".md": 1})  # the manifest itself is no surprise


def test_manifest_elsewhere_has_absolute_paths(tmp_path):
    film(tmp_path / "in" / "a.mkv")
    import_data(tmp_path / "in", tmp_path / "out")
    (clip,) = read_manifest(tmp_path / "out")
    assert clip.path == str(tmp_path / "in" / "a.mkv")
    assert len(Video.read(clip.path)) == clip.frames


@pytest.mark.parametrize(
    ("path_name", "caption_name"), [("path", "caption"), ("File_Name", "Text"), ("video", "prompt")]
)
def test_table_columns_are_found_by_name(tmp_path, path_name, caption_name):
    film(tmp_path / "v" / "a.mkv")
    rows = [
        [path_name, caption_name, "split", "license", "fps", "score"],
        ["v/a.mkv", "hi, there", "test", "MIT", "99", "7"],
    ]
    report = import_data(table(tmp_path / "t.csv", rows))
    (clip,) = read_manifest(tmp_path)
    assert (clip.path, clip.caption, clip.split, clip.licence, clip.fps) == ("v/a.mkv", "hi, there", "test", "MIT", 8)
    assert clip.extra == {"score": "7"}
    assert report.layout == "table"


def test_tab_separated_and_named_columns(tmp_path):
    film(tmp_path / "a.mkv")
    source = table(tmp_path / "t.tsv", [["clipname", "words", "caption"], ["a.mkv", "right", "wrong"]], "\t")
    with pytest.raises(DataError, match=r"no column for files: it has clipname, words, caption.*--path-column"):
        import_data(source)
    with pytest.raises(DataError, match="Unknown column for captions .*did you mean 'words'"):
        import_data(source, path_column="clipname", caption_column="word")
    import_data(source, path_column="clipname", caption_column="words")
    assert read_manifest(tmp_path)[0].caption == "right"


def test_webvid(tmp_path):
    film(tmp_path / "videos" / "000001_000050" / "1001.mp4")
    film(tmp_path / "videos" / "1002.mp4")
    film(tmp_path / "videos" / "elsewhere" / "1003.webm")
    head = ["videoid", "contentUrl", "duration", "page_dir", "name"]
    rows = [[str(1000 + k), f"https://x/{k}.mp4", "PT00H00M10S", "000001_000050", f"Clip {k}"] for k in (1, 2, 3, 4)]
    report = import_data(table(tmp_path / "results_2M_val.csv", [head, *rows]), videos=tmp_path / "videos")
    clips = read_manifest(tmp_path)
    assert [(clip.caption, clip.source) for clip in clips] == [(f"Clip {k}", f"https://x/{k}.mp4") for k in (1, 2, 3)]
    assert clips[0].extra == {"page_dir": "000001_000050"}
    assert (report.found, report.clips) == (4, 3)
    assert report.missing_files == [f"{tmp_path / 'results_2M_val.csv'}:5: 1004"]


def test_ambiguous_identifiers(tmp_path):
    film(tmp_path / "a" / "7.mp4")
    film(tmp_path / "b" / "7.mp4")
    with pytest.raises(DataError, match="names '7', and 2 files fit"):
        import_data(table(tmp_path / "t.csv", [["id", "text"], ["7", "x"]]), videos=tmp_path)


def test_ragged_and_broken_tables(tmp_path):
    film(tmp_path / "a.mkv")
    with pytest.raises(DataError, match=r"t\.csv:3: the row has 3 cells, not the 2 columns"):
        import_data(table(tmp_path / "t.csv", [["path", "text"], ["a.mkv", "x"], ["a.mkv", "one", "two"]]))
    (tmp_path / "latin.csv").write_bytes("path,text\na.mkv,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        import_data(tmp_path / "latin.csv")


def test_a_file_named_twice(tmp_path):
    film(tmp_path / "a.mkv")
    report = import_data(table(tmp_path / "t.csv", [["path", "text"], ["a.mkv", "x"], ["./a.mkv", "y"]]))
    assert (report.found, report.clips, report.duplicates) == (2, 1, [str(tmp_path / "a.mkv")])
    assert read_manifest(tmp_path)[0].caption == "x"


@pytest.mark.parametrize("prompts", ["prompts.txt", "prompt.txt"])
def test_two_text_files(tmp_path, prompts):
    film(tmp_path / "v" / "a.mkv")
    film(tmp_path / "v" / "b.mkv", 1)
    (tmp_path / prompts).write_text("first\nsecond\nthird\n")
    (tmp_path / "videos.txt").write_text("v/a.mkv\nv/b.mkv\nv/c.mkv\n")
    report = import_data(tmp_path)
    assert [(clip.caption, clip.frames, clip.fps) for clip in read_manifest(tmp_path)] == [
        ("first", 3, 8),
        ("second", 1, 0),
    ]
    assert (report.layout, report.found, report.missing_files) == ("text-files", 3, [str(tmp_path / "v/c.mkv")])
    (tmp_path / prompts).write_text("first\nsecond\n")
    with pytest.raises(DataError, match="2 lines but .* has 3"):
        import_data(tmp_path, overwrite=True)
    (tmp_path / "videos.txt").write_text("v/a.mkv\n\n")
    with pytest.raises(DataError, match=r"videos\.txt:2: the line is empty|2 lines but"):
        import_data(tmp_path, overwrite=True)


def test_nothing_to_import(tmp_path):
    with pytest.raises(DataError, match="nothing at"):
        import_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no video file"):
        import_data(tmp_path)
    (tmp_path / "a.mp4").write_text("not a video")
    with pytest.raises(DataError, match="None of the 1 clips can be used: 0 files are missing and 1 are unreadable"):
        import_data(tmp_path)
    assert not (tmp_path / "manifest.jsonl").exists()
    with pytest.raises(DataError, match="no table"):
        import_data(tmp_path / "a.mp4")


def test_a_folder_with_only_a_table(tmp_path):
    film(tmp_path / "elsewhere" / "a.mkv")
    (tmp_path / "set").mkdir()
    table(tmp_path / "set" / "metadata.csv", [["file_name", "text"], ["a.mkv", "x"]])
    report = import_data(tmp_path / "set", videos=tmp_path / "elsewhere")
    assert (report.layout, report.clips) == ("table", 1)


def test_progress_is_told(tmp_path):
    for name in "abc":
        film(tmp_path / f"{name}.mkv")
    calls = []
    import_data(tmp_path, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3, "files"), (2, 3, "files"), (3, 3, "files")]


def test_a_manifest_is_renewed_only_when_told_and_loses_nothing(tmp_path):
    for name in ("a", "b", "far/c"):
        film(tmp_path / f"{name}.mkv")
    scores = {"clip_id": "7f", "motion": 1.5, "captions": [{"text": "two words", "weight": 1.0}]}
    facts = {"fps": 8.0, "frames": 3, "width": 24, "height": 16}
    old = [
        Clip("a.mkv", "a cat", source="film", licence="MIT", split="test", extra=scores, **facts),
        Clip(str(tmp_path / "far" / "c.mkv"), "a dog", extra={"motion": 2.5}, **facts),
        Clip("gone.mkv", "a fish", **facts),
    ]
    manifest = write_manifest(tmp_path, old)
    content = manifest.read_bytes()
    with pytest.raises(DataError, match=r"already holds a data set .*--overwrite"):
        import_data(tmp_path, licence="CC0")
    assert manifest.read_bytes() == content
    (tmp_path / "a.txt").write_text("a sleeping cat")
    (tmp_path / "far").rename(tmp_path / ".far")  # where an import does not look
    old[1] = replace(old[1], path=".far/c.mkv")
    write_manifest(tmp_path, old)
    report = import_data(tmp_path, overwrite=True)
    assert read_manifest(tmp_path) == [
        replace(old[0], caption="a sleeping cat"),
        Clip("b.mkv", "", **facts),
        old[1],
    ]
    assert (report.found, report.clips, report.kept, report.missing_files) == (4, 3, 1, ["gone.mkv"])
    assert "1 of them stay from the manifest before" in report.summary()
    import_data(tmp_path, split="held", licence="CC0", overwrite=True)
    assert [(clip.split, clip.licence) for clip in read_manifest(tmp_path)][:2] == [("held", "CC0"), ("held", "CC0")]


def test_paths_that_were_written_on_windows(tmp_path):
    film(tmp_path / "v" / "a.mkv")
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa cat\r\n")
    (tmp_path / "videos.txt").write_bytes(b"\xef\xbb\xbfv\\a.mkv\r\n")
    import_data(tmp_path)
    assert [(clip.path, clip.caption) for clip in read_manifest(tmp_path)] == [("v/a.mkv", "a cat")]
    import_data(table(tmp_path / "t.csv", [["path", "text"], ["v\\a.mkv", "a dog"]]), overwrite=True)
    assert [(clip.path, clip.caption) for clip in read_manifest(tmp_path)] == [("v/a.mkv", "a dog")]


def test_captions_in_the_place_of_paths_are_missing_files(tmp_path):
    """A long sentence is no name that a file can have."""
    film(tmp_path / "a.mkv")
    rows = [["path", "text"], ["a.mkv", "x"], ["a long sentence, " * 30, "y"]]
    report = import_data(table(tmp_path / "t.csv", rows))
    assert (report.clips, len(report.missing_files)) == (1, 1)
    (tmp_path / "videos.txt").write_text("a.mkv\n" + "long " * 100 + "\n")
    (tmp_path / "prompts.txt").write_text("x\ny\n")
    assert import_data(tmp_path, layout="text-files", overwrite=True).clips == 1
