"""The sources of a run: which files count, how they are named, and which text belongs to them."""

import json

import pytest
from films import shot, write

from kineograph.curation import rows, sources
from kineograph.errors import InputError


def made(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_what_describes_a_film_and_what_is_hidden_is_no_source(tmp_path):
    names = {
        "a.mp4": "film",
        "a.txt": "words",
        "b.json": "alone",
        ".c.mp4": "x",
        "below__d.mp4": "film",
        ".e__f.mp4": "x",
    }
    survey = sources.survey(made(tmp_path, **names))
    assert [one.shown for one in survey.found] == ["a.mp4", "below/d.mp4"]
    assert survey.skipped == ["b.json"]


def test_the_results_of_a_run_are_no_sources(tmp_path):
    made(tmp_path, **{"a.mp4": "film", f"out__{rows.CONFIG_FILE}": "{}", "out__clips__b.mp4": "clip"})
    (tmp_path / "out" / rows.PARTS_OF_SOURCES).mkdir(parents=True)
    assert [one.shown for one in sources.survey(tmp_path).found] == ["a.mp4"]


def test_the_same_bytes_are_one_source(tmp_path):
    raw = made(tmp_path / "raw", **{"a.mp4": "film", "b.mp4": "film", "c.mp4": "another"})
    (tmp_path / "out").mkdir()
    found = sources.identify(sources.survey(raw).found, tmp_path / "out")
    assert sources.twins(found) == ["", "a.mp4", ""]
    assert [one.shown for one in sources.firsts(found)] == ["a.mp4", "c.mp4"]
    entries = [json.loads(line) for line in (tmp_path / "out" / rows.FILES_FILE).read_text().splitlines()]
    assert [entry["duplicate_of"] for entry in entries] == ["", "a.mp4", ""]


def test_files_that_did_not_change_are_not_read_again(tmp_path, monkeypatch):
    raw = made(tmp_path / "raw", **{"a.mp4": "film"})
    (tmp_path / "out").mkdir()
    first = sources.identify(sources.survey(raw).found, tmp_path / "out")
    monkeypatch.setattr(sources, "source_id", None)
    assert sources.identify(sources.survey(raw).found, tmp_path / "out") == first


def test_text_beside_a_film(tmp_path):
    made(tmp_path, **{"a.mp4": "film", "a.txt": "two\npictures"})
    assert sources.text(str(tmp_path / "a.mp4"), None) == ("two pictures", [])
    assert sources.text(str(tmp_path / "b.mp4"), None) == ("", [])


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.avi", "d.ts", "e.mpg", "f.flv", "g.mov", "h.wmv"])
def test_films_are_known_by_what_they_begin_with(tmp_path, name):
    """Under a name without an ending."""
    codec = {"e.mpg": "mpeg2video", "f.flv": "flv"}.get(name, "mpeg4")
    path = write(tmp_path / name, shot(1, 6, (48, 64)), fps=25, codec=codec)
    assert sources.is_film(str(path.rename(tmp_path / "nameless")))


def test_other_files_are_listed_and_no_sources(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    out.mkdir()
    made(raw, **{"a.MP4": "film", "notes.txt": "x", "below__photo.JPG": "x", "readme": "x", "b.txt": "x"})
    (raw / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    survey = sources.survey(raw)
    assert [one.shown for one in survey.found] == ["a.MP4"]
    sources.note_skipped(survey.skipped, out)
    assert (out / "skipped.txt").read_text().split() == [
        "b.txt",
        "below/photo.JPG",
        "notes.txt",
        "photo.heic",
        "readme",
    ]
    assert sources.endings(survey.skipped) == {".txt": 2, ".jpg": 1, ".heic": 1, "no ending": 1}
    sources.note_skipped([], out)
    assert not (out / "skipped.txt").exists()


def test_programs_in_typescript_are_no_transport_streams(tmp_path):
    made(tmp_path, **{"index.ts": 'import x from "y";\n\texport {};\n'})
    (tmp_path / "torn.ts").write_bytes(bytes(7) + b"G" + bytes(187) + b"G")
    write(tmp_path / "film.ts", shot(1, 4, (48, 64)), fps=25)
    survey = sources.survey(tmp_path)
    assert ([one.shown for one in survey.found], survey.skipped) == (["film.ts", "torn.ts"], ["index.ts"])


def test_a_folder_without_films_says_what_was_looked_for(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"holds no file.*\.mkv, .*\.webm"):
        sources.survey(tmp_path / "raw")
    made(tmp_path / "raw", **{"notes.txt": "x", "a.jpg": "x"})
    with pytest.raises(InputError, match=r"2 files are something else \(.*\.jpg 1.*\.mp4"):
        sources.survey(tmp_path / "raw")
