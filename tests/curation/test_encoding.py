"""Encoded clips show their film's colours, whatever range, matrix and format it has, and hold every frame as long."""

from fractions import Fraction

import av
import numpy as np
import pytest
from films import write
from test_clipping import cut

from kineograph.curation.config import ClipConfig
from kineograph.video import Video, probe

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [40, 60, 220], [230, 210, 50], [128, 128, 128], [240] * 3], np.uint8)


def bars(height: int, frames: int = 12) -> np.ndarray:
    """Six upright bars of flat colour, 32 pixels wide."""
    picture = np.repeat(np.repeat(COLOURS[None], height, 0), 32, 1)
    return np.repeat(picture[None], frames, 0)


def middles(path) -> np.ndarray:
    """Return the colour in the middle of each bar of a file's first frame."""
    picture = Video.read(path, num_frames=1).to_uint8()[0].astype(int)
    return picture[picture.shape[0] // 2, 16::32][: len(COLOURS)]


@pytest.mark.parametrize(
    ("name", "height", "told"),
    [
        ("untagged.mp4", 96, {}),
        ("untagged_hd.mp4", 720, {}),
        ("709.mp4", 96, {"options": {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}}),
        ("601_hd.mp4", 720, {"options": {"x264-params": "colormatrix=smpte170m"}}),
        ("2020.mp4", 96, {"pixel_format": "yuv420p10le", "options": {"x264-params": "colormatrix=bt2020nc"}}),
        ("full.mp4", 96, {"pixel_format": "yuvj420p"}),
        ("mjpeg.avi", 96, {"codec": "mjpeg", "pixel_format": "yuvj422p", "options": {"qscale": "1"}}),
        ("rgb.mkv", 96, {"codec": "ffv1", "pixel_format": "bgr0"}),
        ("rgb_hd.mkv", 720, {"codec": "ffv1", "pixel_format": "bgr0"}),
        ("planar.mp4", 96, {"codec": "libx264rgb", "pixel_format": "rgb24"}),
        ("grey.mkv", 96, {"codec": "ffv1", "pixel_format": "gray"}),
        ("palette.mov", 96, {"codec": "qtrle", "pixel_format": "rgb24"}),
        ("deep.mkv", 96, {"codec": "ffv1", "pixel_format": "gbrp10le"}),
        ("444.mkv", 96, {"codec": "ffv1", "pixel_format": "yuv444p"}),
        ("vp8.webm", 96, {"codec": "libvpx", "options": {"b": "4M", "deadline": "realtime"}}),
    ],
)
def test_flat_colours_change_by_at_most_three_levels(tmp_path, name, height, told):
    path = write(tmp_path / name, bars(height), **told)
    _, _, spans, files = cut(path, tmp_path, ClipConfig("encode", min_seconds=0.3, crf=4))
    assert [span.method for span in spans] == ["encode"]
    assert np.abs(middles(path) - middles(files[0])).max() <= 3
    with av.open(str(files[0])) as clip:
        context = clip.streams.video[0].codec_context
        assert (context.color_range, context.pix_fmt) == (1, "yuv420p")
        assert context.colorspace != 2, "readers would have to guess"


def test_turned_films_keep_their_colours(tmp_path):
    """A film of 640 columns and 720 rows, shown turned: readers would take another matrix for the upright clip."""
    from test_analyse import rotated

    path = rotated(write(tmp_path / "plain.mp4", bars(752)), tmp_path / "turned.mp4", 90)
    _, _, _, files = cut(path, tmp_path, ClipConfig("encode", min_seconds=0.3, crf=4))
    film, clip = (Video.read(p, num_frames=1).to_uint8()[0].astype(int) for p in (path, files[0]))
    assert film.shape == clip.shape == (192, 752, 3)
    assert np.abs(film - clip)[16::32, 300].max() <= 3


def test_frames_of_uneven_rate_are_shown_as_long_as_in_the_film(tmp_path):
    """Rate and frames of the clip's file are those of the film, though the last frame's end follows from no index."""
    steps = [33, 100, 17, 17, 100, 33, 17, 100] * 6
    pts = [sum(steps[:i]) for i in range(len(steps))]
    path = write(tmp_path / "vfr.mkv", bars(96, len(pts)), pts=pts, time_base=Fraction(1, 1000))
    facts, _, spans, files = cut(path, tmp_path, ClipConfig("encode", min_seconds=0.3))
    found = probe(files[0])
    seconds = float(spans[0].length * Fraction(facts.time_base))
    assert found.frames == len(pts)
    assert found.fps == pytest.approx(found.frames / seconds, rel=1e-3)
    assert Video.read(files[0]).frame_times == pytest.approx([stamp / 1000 for stamp in pts], abs=1e-3)
