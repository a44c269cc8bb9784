"""Histograms count what is there, timelines put cuts where they are, sheets show the clips."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from fabricated import clip, output, picture, source
from PIL import Image

from kineograph.curation.pictures import CUT, DROPPED, GRADUAL, HOLE, KEPT, contact_sheet, histogram, timeline
from kineograph.errors import DataError


def rects(svg, colour):
    root = ElementTree.fromstring(svg)
    found = [node.attrib for node in root.iter("{http://www.w3.org/2000/svg}rect") if node.attrib["fill"] == colour]
    return [{key: float(one[key]) for key in ("x", "y", "width", "height")} for one in found]


def test_bars_are_the_counts():
    values = np.array([0.0, 0.1, 0.1, 0.9, 1.0, np.nan])
    keep = np.array([False, False, True, True, True, True])
    svg = histogram(values, keep, 0.5, title="a < b", bins=2, width=212, height=142)
    kept, dropped = rects(svg, KEPT), rects(svg, DROPPED)
    unit = kept[0]["height"]  # one clip kept in the first bin, two dropped
    assert [round(bar["height"] / unit) for bar in kept] == [1, 2]
    assert [round(bar["height"] / unit) for bar in dropped] == [2]
    assert dropped[0]["y"] + dropped[0]["height"] == pytest.approx(kept[0]["y"], abs=0.11)
    assert "a &lt; b (1 without a value)" in svg
    assert f'M106.0 8V112" stroke="{HOLE}"' in svg  # the threshold is in the middle


def test_one_value_and_no_value_are_drawn():
    assert len(rects(histogram(np.full(5, 3.0), title="same"), KEPT)) == 1
    assert rects(histogram(np.full(5, np.nan), title="none"), KEPT) == []


def test_cuts_and_clips_lie_where_they_are():
    film = dataclasses.asdict(source(1, start_pts=12800, end_pts=12800 + 512000, holes=[[416000, 422400]]))
    film["hard_cuts"] = [12800 + 128000, 12800 + 256000]
    film["gradual"] = [[12800 + 320000, 12800 + 384000]]
    clips = [
        dataclasses.asdict(clip(i, source(1), start_pts=12800 + i * 128000, end_pts=12800 + i * 128000 + 102400))
        for i in range(3)
    ]
    svg = timeline(film, clips, {clips[0]["clip_id"]}, width=1012)
    (path,) = list(re.findall(rf'd="([^"]+)" stroke="{CUT}"', svg))
    assert [float(x) for x in re.findall(r"M([\d.]+)", path)] == [256.0, 506.0]  # 10 s and 20 s of 40 on 1000 px
    assert rects(svg, GRADUAL)[0] == {"x": 631.0, "y": 14, "width": 125.0, "height": 16}
    assert rects(svg, HOLE)[0]["x"] == pytest.approx(6 + 1000 * 31.5 / 40, abs=0.1)
    assert [bar["x"] for bar in rects(svg, KEPT)] == [6.0]
    assert [bar["x"] for bar in rects(svg, DROPPED)] == [256.0, 506.0]


def test_a_sheet_shows_middle_frames(tmp_path):
    made = output(tmp_path, clips=5)
    file = contact_sheet(tmp_path, [row.clip_id for row in made], tmp_path / "sheet.jpg", columns=3, width=100)
    with Image.open(file) as sheet:
        assert sheet.size == (3 * 104 + 4, 2 * 60 + 4)
        shown = np.asarray(sheet.crop((4, 4, 104, 60))).astype(int)
    expected = np.asarray(Image.fromarray(picture(0)[1]).resize((100, 56))).astype(int)
    assert np.abs(shown - expected).mean() < 6
    with Image.open(contact_sheet(tmp_path, [made[0].clip_id], tmp_path / "one.jpg", width=300, whole=True)) as sheet:
        assert sheet.size == (308, 4 + 56 + 4)
        last = np.asarray(sheet.crop((204, 4, 304, 60))).astype(int)
    expected = np.asarray(Image.fromarray(picture(0)[2]).resize((100, 56))).astype(int)
    assert np.abs(last - expected).mean() < 6
    with pytest.raises(DataError, match="at least one clip"):
        contact_sheet(tmp_path, [], tmp_path / "none.jpg")
    with pytest.raises(DataError, match="is missing"):
        contact_sheet(tmp_path, ["00" * 20], tmp_path / "none.jpg")
