"""Films in stretches: the joined result is that of one pass, byte for byte, or the film is analysed in one go."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from films import dissolve, fade, join, open_gop, shot, write

from kineograph.curation import keyframes, stretches
from kineograph.curation.album import Album
from kineograph.curation.analyse import analyse
from kineograph.curation.config import CurationConfig, Limits, from_json
from kineograph.curation.parts import read_part
from kineograph.curation.probe import examine, footage
from kineograph.curation.run import curate

LIMITS = {"split_minutes": 0.05, "stretch_minutes": 0.04}
PLAIN = {"clips": {"min_seconds": 0.5}, "scorers": {}}


def config(**told) -> CurationConfig:
    return from_json({**PLAIN, "limits": LIMITS, **told})


def film_with_everything() -> np.ndarray:
    """Hard cuts, dissolves, fades and a flash, one after the other, so that borders fall into all of them."""
    shots = [shot(60 + i, 40, (48, 64), pan=(1, 0.5)) for i in range(8)]
    shots[5][20:22] = 255
    first = dissolve(dissolve(shots[0], shots[1], 20), shots[2], 12)
    second = join(fade(shots[3], 14), fade(shots[4], 14, into=True))
    return join(first, second, shots[5], dissolve(shots[6], shots[7], 24))


@pytest.fixture(scope="module")
def everything():
    return film_with_everything()


def made(path, told, borders=None):
    """Analyse in stretches; give the analysis or None, the album's pictures and the stretches."""
    with footage(str(path)) as container:
        stream, facts = examine(container, Limits())
        index = keyframes.index(container, stream)
    planned = stretches.plan(facts, index, told.limits)
    folder = path.parent / f"{path.stem}-parts"
    folder.mkdir(exist_ok=True)
    for one in planned:
        (folder / "scratch").mkdir(exist_ok=True)
        stretches.write(folder / one.name, str(path), one, told, folder / "scratch")
    with Album(folder / "joined") as album:
        found = stretches.join(folder, planned, facts, told, album, None) if planned else None
        pictures = {pts: album.encoded(pts) for pts in album.pts}
    return found, pictures, planned


def whole(path, told):
    with Album(path.parent / f"{path.stem}.album") as album:
        _, found = analyse(str(path), told.cuts, told.motion, told.limits, told.damage, album, decoding=told.decoding)
        return found, {pts: album.encoded(pts) for pts in album.pts}


def assert_the_same(path, told, least=3):
    found, pictures, planned = made(path, told)
    assert len(planned) >= least
    expected, expected_pictures = whole(path, told)
    assert found is not None, "analysed in one go"
    assert vars(found) == vars(expected)
    assert pictures == expected_pictures
    return found


def test_cuts_and_transitions_across_borders(tmp_path, everything):
    """A short stretch every few frames: borders fall before, into and after everything."""
    path = write(tmp_path / "film.mp4", everything, gop=8, options={"sc_threshold": "0", "bf": "2"})
    for minutes in (0.012, 0.027):
        found = assert_the_same(path, config(limits={**LIMITS, "stretch_minutes": minutes}))
        assert len(found.hard_cuts) >= 2
        assert len(found.gradual) >= 3


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "film.mov"])
def test_containers(tmp_path, everything, name):
    """With reordered pictures, whose decoding times Matroska does not store."""
    assert_the_same(write(tmp_path / name, everything, gop=24, options={"preset": "veryfast", "bf": "2"}), config())


@pytest.mark.parametrize("decoding", ["fast", "exact"])
def test_open_groups_of_pictures(tmp_path, everything, decoding):
    """The leading pictures of a stretch's first keyframe belong to the stretch before."""
    assert_the_same(open_gop(tmp_path / "open.mp4", everything, gop=16), config(decoding=decoding))


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_hevc(tmp_path, everything, name):
    x265 = "log-level=none:pools=1:frame-threads=1:keyint=24:min-keyint=24"
    path = write(tmp_path / name, everything, codec="libx265", options={"preset": "ultrafast", "x265-params": x265})
    assert_the_same(path, config())


def test_keyframes_alone(tmp_path, everything):
    """Of 24 keyframes a second, four have a place in the album, the same four."""
    found = assert_the_same(write(tmp_path / "film.mov", everything, codec="mjpeg", pixel_format="yuvj420p"), config())
    assert len(found.kept) < len(found.pts)


def test_a_variable_frame_rate(tmp_path, everything):
    rng = np.random.default_rng(0)
    pts = np.cumsum(rng.integers(10, 80, len(everything))).tolist()
    path = write(tmp_path / "vfr.mp4", everything, pts=pts, time_base=Fraction(1, 1000), gop=12)
    assert_the_same(path, config())


def test_fields_are_counted_once(tmp_path, everything):
    path = write(tmp_path / "film.mp4", everything, gop=24, options={"x264-params": "tff=1"})
    assert assert_the_same(path, config()).interlaced == len(everything)


def test_intra_refresh_is_noticed(tmp_path, everything):
    """Its recovery points claim to be keyframes, but pictures are whole only later; the overlap tells."""
    options = {"x264-params": "intra-refresh=1:keyint=24:bframes=0:scenecut=0", "preset": "veryfast"}
    path = write(tmp_path / "refresh.ts", everything, gop=24, options=options)
    found, _, _ = made(path, config())
    assert found is None or vars(found) == vars(whole(path, config())[0])


def test_damage_is_left_to_one_pass(tmp_path, everything):
    path = write(tmp_path / "film.mp4", everything, gop=12, container={"movflags": "+faststart"})
    content = bytearray(path.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    assert whole(path, config())[0].holes
    assert made(path, config())[0] is None


def test_a_stretch_that_disagrees_is_noticed(tmp_path, everything, monkeypatch):
    """One wrong frame in the overlap is enough."""
    path = write(tmp_path / "film.mp4", everything, gop=12)
    found, _, planned = made(path, config())
    assert found is not None
    part = path.parent / "film-parts" / planned[1].name
    row = read_part(part)[0]
    row["checks"][3] ^= 1
    stretches.write_part(part, [row], stretches.schema_of(stretches._COLUMNS))
    with footage(str(path)) as container, Album(tmp_path / "again") as album:
        facts = examine(container, Limits())[1]
        assert stretches.join(part.parent, planned, facts, config(), album, None) is None


def test_films_that_are_not_split(tmp_path, everything):
    path = write(tmp_path / "film.mp4", everything, gop=1000, options={"sc_threshold": "0"})
    assert made(path, config())[2] == [], "one keyframe"
    with footage(str(path)) as container:
        facts = examine(container, Limits())[1]
    assert stretches.is_long(facts, config().limits)
    assert not stretches.is_long(facts, Limits())
    assert not stretches.is_long(facts, Limits(split_minutes=0))
    assert not stretches.is_long(replace(facts, duration=None), config().limits)


# Whole runs ------------------------------------------------------------------------------------------------------


def tree(out):
    skipped = {"log.jsonl", ".lock", "config.json"}  # the configuration names the lengths
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name not in skipped)
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def raw(tmp_path_factory, everything):
    folder = tmp_path_factory.mktemp("raw")
    write(folder / "long.mp4", everything, gop=12)
    write(folder / "short.mp4", shot(1, 24, (48, 64)), gop=12)
    return folder


@pytest.mark.parametrize("executor", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_split_run_ends_in_the_same_bytes(tmp_path, raw, executor, monkeypatch):
    """Rows, clips, strips, scores, ids and manifest."""
    shown = []
    scored = {**PLAIN, "scorers": {"overlay": {}}}
    unsplit = from_json({**scored, "limits": {"split_minutes": 0}})
    one = curate(raw, tmp_path / "one", unsplit, executor_name="inline")
    monkeypatch.setattr("kineograph.curation.run.CLIPS_PER_TASK", 2)
    tell = lambda done, total, what, counts, rate: shown.append((what, total))
    split = from_json({**scored, "limits": LIMITS})
    two = curate(raw, tmp_path / "two", split, executor_name=executor, workers=2, progress=tell)
    assert any(what == "overlay" and total >= 3 for what, total in shown)
    assert any(what == "stretches of long films" and total >= 3 for what, total in shown)
    assert (two.statuses, two.clips) == (one.statuses, one.clips) == ({"ok": 2}, one.clips)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert not (tmp_path / "two" / stretches.FOLDER).exists()


def test_stretches_that_are_done_are_kept_by_a_resumed_run(tmp_path, raw, monkeypatch):
    """Killed while joining: only joining is done again."""
    out = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(stretches, "join", None)
        with pytest.raises(TypeError):
            curate(raw, out, config(), executor_name="inline")
    assert len(list((out / stretches.FOLDER).rglob("*.parquet"))) >= 3
    monkeypatch.setattr(stretches, "trace", None)
    assert curate(raw, out, config(), resume=True, executor_name="inline").statuses == {"ok": 2}


def test_a_stretch_that_crashes_costs_its_film_only(tmp_path, raw, monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr("kineograph.curation.run.STRETCH", "bad_stage:stretch")
    summary = curate(raw, tmp_path / "out", config(), workers=2)
    assert summary.statuses == {"ok": 1, "crashed": 1}


@pytest.mark.slow  # a process per kill
def test_a_split_run_killed_anywhere_and_resumed_ends_in_the_same_bytes(tmp_path, everything):
    from test_run import killed_after

    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "long.mp4", everything, gop=12)
    unsplit = from_json({**PLAIN, "limits": {"split_minutes": 0}})
    curate(tmp_path / "raw", tmp_path / "whole", unsplit, executor_name="inline")
    expected, finished = tree(tmp_path / "whole"), False
    for count in range(5, 200, 10):
        out = tmp_path / f"killed-{count}"
        finished = killed_after(count, tmp_path / "raw", out, config())
        curate(tmp_path / "raw", out, config(), resume=True, executor_name="inline")
        assert tree(out) == expected, count
        if finished:
            break
    assert finished
    assert count > 40
