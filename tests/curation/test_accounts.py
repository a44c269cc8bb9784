"""The account of a run: why files are filtered, where every second went, and what rows say of clips."""

import json
from fractions import Fraction

import pytest
from films import join, shot, write
from runs import QUICK

from kineograph.curation.accounts import by_source
from kineograph.curation.config import from_json
from kineograph.curation.report import write as write_report
from kineograph.curation.run import curate
from kineograph.curation.yields import LOSSES
from kineograph.data.manifest import read_manifest


def test_the_log_says_why_a_source_is_filtered(raw, tmp_path):
    out = tmp_path / "out"
    for resume in (False, True):
        curate(raw, out, QUICK, resume=resume, executor_name="inline")
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    told = {entry["path"]: entry["reason"] for entry in entries if entry["status"] == "filtered"}
    assert told.keys() == {"good.mp4", "short.mp4"}
    assert told["good.mp4"] == "the same bytes as below/copy.mp4"
    assert "longest shot has 0.25 s" in told["short.mp4"]
    assert len(entries) == 5, "once each"


def test_every_second_is_in_a_clip_or_lost_for_a_reason(raw, tmp_path):
    """To the thousandth, in all and for each file."""
    write(raw / "cuts.mp4", join(*(shot(50 + i, 7 + 9 * i, (48, 64)) for i in range(3))), fps=Fraction(30000, 1001))
    out = tmp_path / "out"
    summary = curate(raw, out, QUICK, executor_name="inline")
    found, each = summary.to_json()["yield"], by_source(out)
    assert set(found["lost"]) == set(LOSSES)
    assert found["clips"] == summary.clips == len(read_manifest(out))
    assert found["out"] == pytest.approx(sum(clip.extra["duration"] for clip in read_manifest(out)), abs=0.002)
    for one in (found, *each):
        assert thousands(one["in"]) == thousands(one["out"]) + sum(map(thousands, one["lost"].values()))
    for name in ("in", "out", "shots"):
        assert thousands(found[name]) == sum(thousands(one[name]) for one in each)
    assert (found["lost"]["duplicates"], found["lost"]["too_short"]) == (2.0, 0.484)
    assert found["unmeasured"] == 2
    assert [one["path"] for one in each if one["reason"].startswith("the same bytes")] == ["good.mp4"]
    assert curate(raw, out, QUICK, resume=True, executor_name="inline").footage == summary.footage
    page = write_report(out).read_text()
    assert "<h2>Yield</h2>" in page
    assert f"<tr><td>all</td><td>{found['in']:.3f}</td><td>{found['shots']:.3f}</td>" in page


def thousands(seconds):
    return round(seconds * 1000)


def test_rows_say_what_readers_of_the_clips_find(tmp_path):
    """Pixels that are not square, a size that is odd, a rate that varies: `data check` agrees with the manifest."""
    from kineograph.data.check import check

    raw, stamps = tmp_path / "raw", [sum((33, 100, 17)[j % 3] for j in range(i)) for i in range(48)]
    raw.mkdir()
    write(raw / "wide.mp4", shot(1, 24, (48, 64)), aspect=Fraction(64, 45))
    write(raw / "wide.avi", shot(2, 24, (48, 64)), codec="mpeg4", aspect=Fraction(4, 3))
    write(raw / "odd.mkv", shot(3, 24, (49, 65)), codec="ffv1")
    write(raw / "vfr.mkv", shot(4, 48, (48, 64)), pts=stamps, time_base=Fraction(1, 1000))
    for method in ("auto", "encode"):
        config = from_json({**QUICK.to_json(), "clips": {"min_seconds": 0.5, "method": method}})
        assert curate(raw, tmp_path / method, config, executor_name="inline").clips == 4
        report = check(tmp_path / method)
        assert report.ok, report.mismatched
        rows = {clip.source: (clip.width, clip.extra["aspect"]) for clip in read_manifest(tmp_path / method)}
        assert rows["wide.mp4"] == (64, pytest.approx(64 / 45, abs=1e-3))
