"""Clips with several captions."""

from dataclasses import replace

import pytest

from kineograph.data.captions import weighted_captions
from kineograph.data.manifest import Clip
from kineograph.errors import DataError

CLIP = Clip(path="a.mp4", caption="a cat", fps=8, frames=2, width=8, height=8)


def test_one_caption_has_all_the_weight():
    assert weighted_captions(CLIP) == [("a cat", 1.0)]
    assert weighted_captions(replace(CLIP, extra={"captions": []})) == [("a cat", 1.0)]


def test_weights_are_made_to_sum_to_one():
    rows = [{"text": "a cat", "weight": 2, "captioner": "x"}, {"text": "kitty", "weight": 1}, {"text": "pet"}]
    pairs = weighted_captions(replace(CLIP, extra={"captions": rows}))
    assert pairs == [("a cat", 0.5), ("kitty", 0.25), ("pet", 0.25)]


@pytest.mark.parametrize(
    "rows", ["a cat", ["a cat"], [{"weight": 1}], [{"text": "x", "weight": -1}], [{"text": "x", "weight": 0}],
             [{"text": "x", "weight": float("nan")}], [{"text": "x", "weight": True}], {"text": "x"}]
)  # fmt: skip
def test_malformed_captions_name_the_clip(rows):
    with pytest.raises(DataError, match=r"'a\.mp4': captions has"):
        weighted_captions(replace(CLIP, extra={"captions": rows}))
