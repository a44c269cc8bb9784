"""How a clip shows itself in a session and in a notebook."""

import base64
import re

import numpy as np
import pytest
import torch

from kineograph._notebook import LIMIT, LONG_SIDE
from kineograph.video import Video


@pytest.mark.parametrize(
    ("video", "text"),
    [
        (Video(torch.zeros(16, 3, 96, 128), 8), "Video(16 frames, 128x96, 8 fps, 2 s)"),
        (Video(torch.zeros(1, 4, 9, 8), 7.5), "Video(1 frame, 8x9, alpha, 7.5 fps, 0.1333 s)"),
        (Video(torch.zeros(2, 3, 8, 8), 2, (0.0, 0.3)), "Video(2 frames, 8x8, 2 fps on average, 0.8 s)"),
    ],
)
def test_repr_is_short(video, text):
    assert repr(video) == text


def picture(html):
    return base64.b64decode(re.search(r'src="data:image/webp;base64,([^"]+)"', html)[1])


def test_a_notebook_plays_the_clip(tmp_path):
    rng = np.random.default_rng(0)
    video = Video.from_uint8(rng.integers(0, 256, (4, 24, 32, 3), np.uint8), 8, metadata={"prompt": '<a> "cat"'})
    html = video._repr_html_()
    assert 'alt="&lt;a&gt; &quot;cat&quot;"' in html
    (tmp_path / "a.webp").write_bytes(picture(html))
    shown = Video.read(tmp_path / "a.webp")
    assert (len(shown), shown.height, shown.width, shown.fps) == (4, 24, 32, 8)


def test_what_a_notebook_stores_is_bounded(tmp_path):
    """Noise is what compresses worst: many frames, and larger than is shown."""
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 256, (1, 3, 100, 400), np.uint8)).float() / 127.5 - 1
    video = Video(noise.expand(120, -1, -1, -1), 24)
    data = picture(video._repr_html_())
    assert len(data) <= LIMIT
    (tmp_path / "a.webp").write_bytes(data)
    shown = Video.read(tmp_path / "a.webp")
    assert max(shown.height, shown.width) <= LONG_SIDE
    assert shown.duration == pytest.approx(video.duration, abs=2e-3)


def test_a_clip_that_is_no_picture_says_so():
    video = Video(torch.full((1, 3, 4, 4), float("nan")), 8)
    assert "Video(1 frame, 4x4, 8 fps, 0.125 s): Frame 0 of 1 holds NaN" in video._repr_html_()
