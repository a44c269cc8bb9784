"""How many frames a clip gives, and which clips serve a run."""

import pytest
import torch

from kineograph.data.lengths import fitting, frames_at, frames_within
from kineograph.data.manifest import Clip
from kineograph.video import Video


@pytest.mark.parametrize(("frames", "own", "fps"), [(6, 24.0, 8.0), (7, 10.0, 8.0), (5, 8.0, 8.0), (9, 30.0, 12.5)])
def test_frames_are_counted_as_reading_takes_them(tmp_path, frames, own, fps):
    Video(torch.zeros(frames, 3, 16, 16), fps=own).save(tmp_path / "a.mkv")
    clip = Clip("a.mkv", "", own, frames, 16, 16)
    assert frames_at(clip, fps) == len(Video.read(tmp_path / "a.mkv", fps=fps))
    assert frames_at(clip, None) == frames


def test_a_clip_gives_at_least_its_first_frame():
    assert frames_within(0.001, 8.0) == 1
    assert frames_within(0.5, 8.0) == 4
    assert frames_within(0.5005, 8.0, slack=0.001) == 4
    assert frames_at(Clip("a.png", "", 0.0, 1, 16, 16), 8.0) == 1


def test_clips_that_are_too_short_are_dropped_by_name():
    fit = fitting([4, 3, 1, 9], 4, 8.0)
    assert fit.kept == [0, 3]
    assert str(fit) == (
        "a run of 4 frames at 8 fps keeps 2 of 4 clips; 1 dropped: shorter than 4 frames at 8 fps; "
        "1 dropped: a single frame at 8 fps"
    )
    assert fitting([1, 3], 1).kept == [0, 1]
