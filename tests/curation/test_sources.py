"""The sources of a run: which files count, how they are named, and which text belongs to them."""

import json

from kineograph.curation import rows, sources


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
    assert [one.shown for one in sources.find(made(tmp_path, **names))] == ["a.mp4", "b.json", "below/d.mp4"]


def test_the_results_of_a_run_are_no_sources(tmp_path):
    made(tmp_path, **{"a.mp4": "film", f"out__{rows.CONFIG_FILE}": "{}", "out__clips__b.mp4": "clip"})
    (tmp_path / "out" / rows.PARTS_OF_SOURCES).mkdir(parents=True)
    assert [one.shown for one in sources.find(tmp_path)] == ["a.mp4"]


def test_the_same_bytes_are_one_source(tmp_path):
    raw = made(tmp_path / "raw", **{"a.mp4": "film", "b.mp4": "film", "c.mp4": "another"})
    (tmp_path / "out").mkdir()
    found = sources.identify(raw, tmp_path / "out")
    assert sources.twins(found) == ["", "a.mp4", ""]
    assert [one.shown for one in sources.firsts(found)] == ["a.mp4", "c.mp4"]
    entries = [json.loads(line) for line in (tmp_path / "out" / rows.FILES_FILE).read_text().splitlines()]
    assert [entry["duplicate_of"] for entry in entries] == ["", "a.mp4", ""]


def test_files_that_did_not_change_are_not_read_again(tmp_path, monkeypatch):
    raw = made(tmp_path / "raw", **{"a.mp4": "film"})
    (tmp_path / "out").mkdir()
    first = sources.identify(raw, tmp_path / "out")
    monkeypatch.setattr(sources, "source_id", None)
    assert sources.identify(raw, tmp_path / "out") == first


def test_text_beside_a_film(tmp_path):
    made(tmp_path, **{"a.mp4": "film", "a.txt": "two\npictures"})
    assert sources.text(str(tmp_path / "a.mp4"), None) == ("two pictures", [])
    assert sources.text(str(tmp_path / "b.mp4"), None) == ("", [])
