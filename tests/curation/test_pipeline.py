"""One source in a child: what is committed, and what is not."""

import pytest
from films import join, shot, write

from kineograph.curation import clips, pipeline
from kineograph.curation.config import from_json
from kineograph.curation.parts import read_part
from kineograph.curation.strips import read_strip

CONFIG = from_json({"clips": {"min_seconds": 0.5}, "scorers": {}, "motion": {"algorithm": "none"}})


def item(path, out, **told):
    return {
        "path": str(path),
        "shown": path.name,
        "source_id": "ab" * 20,
        "out": str(out),
        "config": CONFIG.to_json(),
    } | told


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    return write(folder / "film.mp4", join(shot(1, 24, (48, 64)), shot(2, 24, (48, 64))), gop=12)


def parts(out, kind):
    return [row for part in sorted((out / "parts" / kind).iterdir()) for row in read_part(part)]


def test_clips_and_rows_of_a_film(film, tmp_path):
    told = item(film, tmp_path, caption="whole", spans=[[0.0, 0.9, "first"]])
    found = pipeline.process(told, lambda seconds: None)
    assert (found["status"], found["clips"]) == ("ok", 2)
    [source] = parts(tmp_path, "sources")
    assert (source["frames"], source["fps"], source["shots"], source["clips"]) == (48, 24.0, 2, 2)
    made = parts(tmp_path, "clips")
    assert [clip["caption"] for clip in made] == ["first", "whole"]
    assert [(clip["start"], clip["end"], clip["frames"]) for clip in made] == [(0.0, 1.0, 24), (1.0, 2.0, 24)]
    for clip, number in zip(made, (0, 24), strict=True):
        strip = read_strip(tmp_path / "strips" / clip["clip_id"][:2] / f"{clip['clip_id']}.jpg")
        assert strip.shape == (3, 48, 64, 3)
        expected = join(shot(1, 24, (48, 64)), shot(2, 24, (48, 64)))[number]
        assert abs(strip[0].astype(int) - expected.astype(int)).mean() < 12
    assert not list((tmp_path / "tmp").iterdir())


def test_copies_that_differ_from_the_source_are_encoded(film, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "check", lambda *told: "1 of 24 frames of its copy differ")
    assert pipeline.process(item(film, tmp_path), lambda seconds: None)["clips"] == 2
    assert {clip["method"] for clip in parts(tmp_path, "clips")} == {"encode"}


def test_a_muxer_that_refuses_leads_to_encoding(film, tmp_path, monkeypatch):
    made = clips.make

    def refuses(path, spans, *told):
        if any(span.packets is not None for span in spans):
            raise ValueError("could not write header")
        made(path, spans, *told)

    monkeypatch.setattr(clips, "make", refuses)
    assert pipeline.process(item(film, tmp_path), lambda seconds: None)["clips"] == 2
    assert {clip["method"] for clip in parts(tmp_path, "clips")} == {"encode"}


def test_a_source_without_its_own_part_counts_as_not_done(film, tmp_path, monkeypatch):
    """Clips and their rows are in place before the commit; a failure in between leaves no source."""

    def fails(path, rows, kind):
        raise OSError(28, "No space left on device") if kind is pipeline.SourceRow else AssertionError

    monkeypatch.setattr(
        pipeline, "write_rows", lambda path, rows, kind: None if kind is pipeline.ClipRow else fails(path, rows, kind)
    )
    with pytest.raises(OSError, match="No space"):
        pipeline.process(item(film, tmp_path), lambda seconds: None)
    assert not (tmp_path / "parts" / "sources").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_a_failure_is_a_row_too(tmp_path):
    (tmp_path / "x.mp4").write_text("no film")
    found = pipeline.process(item(tmp_path / "x.mp4", tmp_path / "out"), lambda seconds: None)
    assert found["status"] == "unreadable"
    [source] = parts(tmp_path / "out", "sources")
    assert (source["bytes"], source["status"], source["clips"]) == (7, "unreadable", 0)
