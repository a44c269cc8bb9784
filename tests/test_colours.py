"""Colours of what is written: tagged, and the same through a reader that goes by the tags."""

import av
import numpy as np
import pytest

from kineograph.video import Video

COLOURS = np.array([(220, 40, 40), (40, 200, 60), (40, 60, 220), (230, 210, 50), (128, 128, 128), (240, 240, 240)])


def bars(height, width):
    return COLOURS.astype(np.uint8).repeat(width // 6, 0)[None].repeat(height, 0)


@pytest.mark.parametrize("height", [64, 720])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "webm", "mkv"])
def test_flat_colours_through_another_reader(tmp_path, suffix, height):
    picture = bars(height, 192)
    path = Video.from_uint8(picture[None], 8).save(tmp_path / f"a.{suffix}", crf=None if suffix == "mkv" else 6)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if suffix == "mkv":
        assert (frame.color_range, frame.color_primaries, frame.color_trc) == (2, 1, 13)
    else:
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (1, 1, 1, 1)
    matrix = None if frame.format.is_rgb else frame.colorspace
    other = frame.reformat(format="rgb24", src_colorspace=matrix, src_color_range=frame.color_range, dst_color_range=2)
    for pixels in (other.to_ndarray(), Video.read(path).to_uint8()[0]):
        assert np.abs(pixels[height // 2, 16:192:32].astype(int) - COLOURS).max() <= 3
