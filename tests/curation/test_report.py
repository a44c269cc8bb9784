"""The report names every source, shows both sides of each threshold, and runs nothing that a file says."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fabricated import CONFIG, output, scores, source, write_part

from kineograph.curation import report, rows, select
from kineograph.curation.catalogue import Catalogue
from kineograph.errors import DataError


class Page(HTMLParser):
    """Collect tags and check that they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.links = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key == "src"]
        self.links += [value for key, value in attrs if key == "href"]
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def out(tmp_path):
    output(tmp_path / "out", clips=12)
    return tmp_path / "out"


def test_without_a_selection(out):
    page = report.write(out)
    text = page.read_text()
    found = Page(text)
    assert page == out / "report.html"
    assert "<b>3</b> sources (2 ok, 0 filtered, 1 failed" in text
    assert "<b>12</b> clips (96.0 s)" in text
    assert "ok 2, unreadable 1" in text
    assert "Beside the thresholds" not in text
    assert found.tags.count("svg") == 2 + len(("motion_mean", *scores(0)))
    assert len(found.sources) == 12
    assert all((out / place).is_file() for place in found.sources + found.links)
    assert "script" not in found.tags
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_text_from_files_is_escaped(out):
    text = report.write(out).read_text()
    assert "not &lt;a&gt; video" in text
    assert "films/bad &amp; ugly.txt" in text
    kind = "list<struct<text: string, captioner: string, weight: double>>"
    with Catalogue(out) as catalogue:
        clips = catalogue.clips()
    evil = [{"text": "<script>alert(1)</script>", "captioner": "x", "weight": 1.0}]
    for part in sorted((out / "parts/scores/captions").iterdir()):
        mine = [c for c in clips if c["source_id"] == part.name.split(".")[0]]
        table = [{"clip_id": c["clip_id"], "captions": evil} for c in mine]
        write_part(part, table, rows.schema_of({"clip_id": "string", "captions": kind}))
    text = report.write(out).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)") == 12


def test_with_a_selection(out):
    select.run(out, ["motion_mean>=p25", "text_area<=0.05"])
    text = report.write(out).read_text()
    found = Page(text)
    assert "&#x27;default&#x27; keeps" in text
    for title in (
        "motion_mean&gt;=p25: just kept",
        "motion_mean&gt;=p25: just dropped",
        "text_area&lt;=0.05: just kept",
    ):
        assert f"<h3>{title}</h3>" in text
    assert "motion_mean (rule: motion_mean&gt;=p25)" in text
    assert text.count('<figure class="dropped">') > 0
    assert len(found.sources) > 12
    assert report.write(out, "default").read_text() == text
    with pytest.raises(DataError, match="Unknown selection"):
        report.write(out, "other")


def test_the_sides_of_a_threshold_are_the_nearest_clips():
    values = np.array([0.1, 0.5, 0.9, np.nan, 0.4, 0.6])
    rule = select.Frozen("x", ">=", 0.5, "x>=0.5", 0, 0, 0)
    kept, dropped = report.beside(np.array(list("abcdef")), values, rule, count=2)
    assert kept == [("b", 0.5), ("f", 0.6)]
    assert dropped == [("e", 0.4), ("a", 0.1)]


def test_long_runs_are_cut_and_say_so(out, monkeypatch):
    monkeypatch.setattr(report, "MAX_CLIPS", 5)
    monkeypatch.setattr(report, "MAX_TIMELINES", 1)
    text = report.write(out).read_text()
    assert "(7 more are not shown)" in text
    assert "1 more films are not drawn" in text
    assert len(Page(text).sources) == 5


def test_an_empty_run_has_a_report_too(tmp_path):
    row = dataclasses.asdict(source(1, status="no_video", reason="audio only"))
    write_part(rows.source_part(tmp_path, row["source_id"], CONFIG), [row], rows.schema(rows.SourceRow))
    text = report.write(tmp_path).read_text()
    Page(text)
    assert "audio only" in text
