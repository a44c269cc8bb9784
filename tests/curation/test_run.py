"""Whole runs: accounts, resuming, kills at every write, one bad file among many."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from films import join, shot, write
from runs import QUICK, tree

from kineograph.curation.config import CurationConfig, from_json
from kineograph.curation.parts import read_part
from kineograph.curation.pipeline import fail
from kineograph.curation.run import curate, gc
from kineograph.curation.sources import survey
from kineograph.data.manifest import read_manifest

HERE = Path(__file__).parent


def test_every_file_is_accounted_for_once(raw, tmp_path):
    out = tmp_path / "out"
    summary = curate(raw, out, QUICK, executor_name="inline")
    assert summary.sources == {"in": 5, "ok": 1, "filtered": 2, "failed": 2}
    assert summary.statuses == {"ok": 1, "filtered": 2, "unreadable": 2}
    assert summary.clips == 2
    entries = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    assert [entry["shown"] for entry in entries if entry["duplicate_of"]] == ["good.mp4"]
    reasons = [read_part(part)[0]["reason"] for part in sorted((out / "parts/sources").iterdir())]
    assert len(reasons) == 4
    assert sum("no clip of 0.5 s fits" in reason for reason in reasons) == 1
    assert summary.skipped == {".md": 1}
    assert (out / "skipped.txt").read_text() == "notes.md\n"


def test_the_manifest_is_what_training_reads(raw, tmp_path):
    curate(raw, tmp_path / "out", QUICK, executor_name="inline")
    clips = read_manifest(tmp_path / "out")
    assert [(clip.frames, clip.fps, clip.width, clip.height) for clip in clips] == [(24, 24.0, 64, 48)] * 2
    assert all((tmp_path / "out" / clip.path).is_file() for clip in clips)
    assert {"motion_score", "start_pts", "clip_id"} <= set(clips[0].extra)


def test_a_truncated_film_counts_as_failed_and_gives_its_good_part(tmp_path):
    shots = join(*(shot(40 + i, 24, (48, 64)) for i in range(4)))
    whole = write(tmp_path / "whole.mp4", shots, gop=12, container={"movflags": "+faststart"}, options={"crf": "10"})
    (tmp_path / "raw").mkdir()
    content = whole.read_bytes()
    (tmp_path / "raw" / "cut.mp4").write_bytes(content[: int(len(content) * 0.7)])
    summary = curate(tmp_path / "raw", tmp_path / "out", QUICK, executor_name="inline")
    assert summary.statuses == {"truncated": 1}
    assert summary.sources["failed"] == 1
    assert summary.clips == len(read_manifest(tmp_path / "out")) >= 2


def test_a_caption_beside_a_film_is_taken(tmp_path, film):
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(film, raw / "a.mp4")
    (raw / "a.txt").write_text("two\npictures")
    curate(raw, tmp_path / "out", QUICK, executor_name="inline")
    assert {clip.caption for clip in read_manifest(tmp_path / "out")} == {"two pictures"}


def test_interlaced_and_high_dynamic_range_films_can_be_left_out(tmp_path, film):
    """They are woven and not tone mapped, so the rows say so and a rule drops them."""
    from kineograph.curation import export, select

    raw, out, pictures = tmp_path / "raw", tmp_path / "out", shot(7, 24, (48, 64))
    raw.mkdir()
    shutil.copy(film, raw / "plain.mp4")
    write(raw / "fields.mp4", pictures, gop=12, options={"x264-params": "tff=1"})
    pq = {"x264-params": "transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"}
    write(raw / "pq.mp4", pictures, gop=12, pixel_format="yuv420p10le", options=pq)
    curate(raw, out, QUICK, executor_name="inline")
    sources = {row["name"]: (row["interlaced"], row["transfer"], row["pixel_format"]) for row in _sources(out)}
    assert sources == {
        "plain.mp4": (0.0, "", "yuv420p"),
        "fields.mp4": (1.0, "", "yuv420p"),
        "pq.mp4": (0.0, "smpte2084", "yuv420p10le"),
    }
    assert select.run(out, ["hdr<=0"], "one").kept == 3
    both = select.run(out, ["interlaced<=0", "hdr<=0"], "both")
    assert (both.kept, both.population) == (2, 4)
    lines = export.manifest(out, tmp_path / "m.jsonl", "both").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == {"plain.mp4"}


def test_two_runs_give_the_same_bytes(raw, tmp_path):
    for name in ("one", "two"):
        curate(raw, tmp_path / name, QUICK, executor_name="inline")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_new_content_at_an_old_path_is_a_new_source(tmp_path, film):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    shutil.copy(film, raw / "a.mp4")
    curate(raw, out, QUICK, executor_name="inline")
    before = {clip.path for clip in read_manifest(out)}
    write(raw / "a.mp4", join(shot(5, 24, (48, 64)), shot(6, 24, (48, 64))), gop=12)
    summary = curate(raw, out, QUICK, resume=True, executor_name="inline")
    assert (summary.computed, summary.clips) == (1, 2)
    assert len(list((out / "parts/sources").iterdir())) == 2
    swept = gc(out)
    assert {clip.path for clip in read_manifest(out)} - before
    assert all(path.exists() for path in (out / clip.path for clip in read_manifest(out)))
    assert swept == [] or before  # the older source's parts stay until its file is forgotten


def test_resuming_computes_nothing_that_is_done(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = curate(raw, out, QUICK, executor_name="inline")
    before = tree(out)
    monkeypatch.setattr("kineograph.curation.probe.footage", None)  # whoever opens a film fails
    monkeypatch.setattr("kineograph.curation.analyse.footage", None)
    monkeypatch.setattr("kineograph.curation.pipeline.footage", None)
    again = curate(raw, out, QUICK, resume=True, executor_name="inline")
    assert (again.computed, again.sources, again.clips) == (0, first.sources, first.clips)
    assert tree(out) == before


def test_another_clip_length_does_not_decode_again(tmp_path, film, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    shutil.copy(film, raw / "a.mp4")
    curate(raw, out, QUICK, executor_name="inline")
    monkeypatch.setattr("kineograph.curation.pipeline.analyse", None)
    longer = from_json({**QUICK.to_json(), "clips": {"min_seconds": 1.5}})
    summary = curate(raw, out, longer, resume=True, executor_name="inline")
    assert (summary.clips, summary.statuses) == (0, {"filtered": 1})
    back = curate(raw, out, QUICK, resume=True, executor_name="inline")
    assert (back.computed, back.clips) == (0, 2)
    shorter = from_json({**QUICK.to_json(), "clips": {"min_seconds": 0.25}})
    assert curate(raw, out, shorter, resume=True, executor_name="inline").clips == 2


def test_sweeping_an_older_configuration(tmp_path, film):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    shutil.copy(film, raw / "a.mp4")
    curate(raw, out, QUICK, executor_name="inline")
    before = tree(out)
    other = from_json({**QUICK.to_json(), "clips": {"min_seconds": 0.5, "max_seconds": 0.5}})
    curate(raw, out, other, resume=True, executor_name="inline")
    (out / "tmp" / "9-9").mkdir(parents=True)
    (out / "tmp" / "9-9" / "half.mp4").write_text("x")
    curate(raw, out, QUICK, resume=True, executor_name="inline")
    listed = gc(out, dry_run=True)
    assert gc(out) == listed != []
    assert tree(out) == before
    assert not (out / "tmp" / "9-9").exists()


@pytest.mark.parametrize("status", ["timeout", "oom", "crashed", "quarantined"])
def test_accidents_are_tried_again_on_demand(raw, tmp_path, status):
    """And end in the bytes of a run without them; what is wrong with a file is not tried again."""
    out = tmp_path / "out"
    curate(raw, out, QUICK, executor_name="inline")
    before = tree(out)
    [part] = [p for p in (out / "parts/sources").iterdir() if read_part(p)[0]["status"] == "ok"]
    told = {"path": str(raw / "good.mp4"), "shown": "below/copy.mp4", "out": str(out), "config": QUICK.to_json()}
    fail({**told, "source_id": part.name.split(".")[0]}, status, "the machine was busy")
    (out / "summary.json").unlink()
    again = curate(raw, out, QUICK, resume=True, executor_name="inline")
    assert (again.computed, again.sources["ok"], again.sources["failed"]) == (0, 0, 3)
    assert again.clips == 0
    retried = curate(raw, out, QUICK, resume=True, retry=True, executor_name="inline")
    assert (retried.computed, retried.sources) == (1, {"in": 5, "ok": 1, "filtered": 2, "failed": 2})
    assert tree(out) == before
    assert curate(raw, out, QUICK, resume=True, retry=True, executor_name="inline").computed == 0


def test_names_and_links(tmp_path, film):
    raw = tmp_path / "raw"
    raw.mkdir()
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(film.read_bytes())
    (raw / "link.mp4").symlink_to(outside)
    (raw / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (raw / "a; rm -rf x\n-i.mp4").write_bytes(film.read_bytes())
    with open(os.fsencode(raw) + b"/caf\xe9.mp4", "wb") as file:  # noqa: PTH123
        file.write(film.read_bytes() + b"\0")
    (raw / "inside.mp4").symlink_to(raw / "a; rm -rf x\n-i.mp4")
    os.mkfifo(raw / "pipe.mp4")
    summary = curate(raw, tmp_path / "out", QUICK, executor_name="inline")
    assert summary.statuses == {"ok": 2, "filtered": 1, "unsupported": 2, "unreadable": 1}
    shown = {one.shown for one in survey(raw).found}
    assert "caf\\xe9.mp4" in shown
    assert json.loads((tmp_path / "out/manifest.jsonl").read_text().splitlines()[0])["source"]


# Kills -----------------------------------------------------------------------------------------------------------

KILLER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from kineograph.curation import parts
from kineograph.curation.config import from_json
from kineograph.curation.run import curate

left = {after}
def count(function):
    def counted(*args, **told):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **told)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return counted

os.replace = count(os.replace)
os.fsync = count(os.fsync)
curate({raw!r}, {out!r}, from_json({config!r}), resume=True, executor_name="inline")
print("finished")
"""


def killed_after(count: int, raw: Path, out: Path, config: CurationConfig) -> bool:
    """Run in a process of its own that kills itself before or after its count-th flush or rename; say if it ended."""
    script = KILLER.format(here=str(HERE), after=count, raw=str(raw), out=str(out), config=config.to_json())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


@pytest.fixture
def raw_one(tmp_path, film):
    folder = tmp_path / "raw"
    folder.mkdir()
    shutil.copy(film, folder / "a.mp4")
    (folder / "b.mp4").write_text("no film")
    return folder


def test_killed_anywhere_and_resumed_the_bytes_are_the_same(raw_one, tmp_path):
    """A few write boundaries here; all of them in the slow test."""
    _kills(raw_one, tmp_path, (7, 24, 41))


@pytest.mark.slow
def test_killed_at_every_write_boundary(raw_one, tmp_path):
    last = _kills(raw_one, tmp_path, range(1, 200))
    assert last > 40


def _kills(raw, tmp_path, counts) -> int:
    curate(raw, tmp_path / "whole", QUICK, executor_name="inline")
    expected = tree(tmp_path / "whole")
    for count in counts:
        out = tmp_path / f"killed-{count}"
        if killed_after(count, raw, out, QUICK):
            return count
        curate(raw, out, QUICK, resume=True, executor_name="inline")
        assert tree(out) == expected, count
        shutil.rmtree(out)
    return 0


@pytest.mark.slow
def test_killed_again_and_again_it_still_arrives(raw_one, tmp_path):
    curate(raw_one, tmp_path / "whole", QUICK, executor_name="inline")
    out = tmp_path / "out"
    for _ in range(40):
        if killed_after(9, raw_one, out, QUICK):
            break
    curate(raw_one, out, QUICK, resume=True, executor_name="inline")
    assert tree(out) == tree(tmp_path / "whole")


# Many ------------------------------------------------------------------------------------------------------------


def many(folder: Path, film: Path, count: int) -> Path:
    """Make a folder of films that differ in a trailing byte or two, which no demuxer looks at."""
    folder.mkdir()
    content = film.read_bytes()
    for i in range(count):
        (folder / f"{i:04}.mp4").write_bytes(content + i.to_bytes(2, "big"))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("executor", "count"),
    [
        ("local", 8),
        pytest.param("local", 50, marks=pytest.mark.slow),  # fifty films and what hangs take time
        pytest.param("ray", 50, marks=pytest.mark.slow),
    ],
)
def test_a_crash_a_hang_and_a_glutton_cost_only_themselves(tmp_path, film, executor, count, monkeypatch):
    raw = many(tmp_path / "raw", film, count)
    for place, word in ((1, b"CRASH"), (4, b"HANG"), (6, b"GLUTTON")):
        (raw / f"{place:04}.mp4").write_bytes(word)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(str(HERE))
    config = from_json({**QUICK.to_json(), "limits": {"stall_seconds": 3, "memory_megabytes": 500}})
    summary = curate(raw, tmp_path / "out", config, executor_name=executor, workers=2, process="bad_stage:process")
    assert summary.statuses == {"ok": count - 3, "crashed": 1, "timeout": 1, "oom": 1}
    assert summary.sources == {"in": count, "ok": count - 3, "filtered": 0, "failed": 3}
    reasons = {row["status"]: row["reason"] for row in _sources(tmp_path / "out")}
    assert "SIGSEGV, twice" in reasons["crashed"]
    again = curate(raw, tmp_path / "out", config, resume=True, executor_name="inline", process="bad_stage:process")
    assert again.computed == 0


def _sources(out: Path) -> list[dict]:
    return [read_part(part)[0] for part in (out / "parts/sources").iterdir()]


@pytest.mark.slow
def test_a_finished_run_of_a_thousand_sources_resumes_in_two_seconds(tmp_path, film):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write(raw / "short.mp4", shot(3, 6, (48, 64)))
    content = (raw / "short.mp4").read_bytes()
    for i in range(1000):
        (raw / f"{i:04}.mp4").write_bytes(content + i.to_bytes(2, "big"))
    (raw / "short.mp4").write_bytes(film.read_bytes())
    first = curate(raw, out, QUICK, executor_name="inline")
    assert first.sources["in"] == 1001
    spent, waited = time.process_time(), time.monotonic()
    again = curate(raw, out, QUICK, resume=True, executor_name="inline")
    spent = time.process_time() - spent
    print(f"resumed 1,001 sources in {spent:.2f} s of processor time, {time.monotonic() - waited:.2f} s of the wall's")
    assert again.computed == 0
    assert again.sources == first.sources
    assert spent < 2
