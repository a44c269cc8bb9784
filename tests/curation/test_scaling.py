"""Planes of scaled frames: the same as FFmpeg's scaler and PyAV's copy give, whatever the frame's format and size."""

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from films import texture

from kineograph.curation.scaling import AREA, FAST_BILINEAR, Scaler, block_means


def frame(size, format):
    return av.VideoFrame.from_ndarray(texture(3, size), format="rgb24").reformat(format=format)


@pytest.mark.parametrize("method", [FAST_BILINEAR, AREA])
@pytest.mark.parametrize("size", [(128, 72), (66, 50), (2, 2)])
@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p", "yuv420p10le", "yuv422p", "yuv444p12le", "rgb24", "gray"])
def test_planes_are_those_of_pyav(format, size, method):
    whole = frame((98, 162), format)
    expected = VideoReformatter().reformat(whole, *size, format="yuv420p", interpolation=method).to_ndarray()
    found = Scaler(method)(whole, size)
    assert found.shape == (size[1] * 3 // 2, size[0])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [(1280, 720), (640, 360), (320, 144)])
def test_whole_blocks_are_averaged_without_ffmpeg(size):
    """Luma is FFmpeg's to a rounding; chroma, which FFmpeg takes for sited left, nearly."""
    whole = frame((720, 1280), "yuv420p")
    found = Scaler(AREA)(whole, size)
    assert np.array_equal(found, block_means(whole, size))
    expected = VideoReformatter().reformat(whole, *size, format="yuv420p", interpolation=AREA).to_ndarray()
    unlike = np.abs(found.astype(int) - expected)
    assert unlike[: size[1]].max() <= 1
    assert unlike[size[1] :].mean() < 0.5


def test_odd_sizes_and_changing_ones():
    """One scaler sees frames of several sizes and formats; what it returns is not overwritten by the next."""
    scale = Scaler(AREA)
    first = scale(frame((97, 161), "yuv420p"), (64, 36))
    kept = first.copy()
    second = scale(frame((63, 33), "yuv422p10le"), (64, 36))
    assert np.array_equal(first, kept)
    assert np.abs(first.astype(int) - second).mean() > 1
    grey = scale(av.VideoFrame.from_ndarray(np.full((97, 161), 90, np.uint8), format="gray"), (64, 36))
    assert np.unique(grey[36:]).tolist() == [128]
    assert abs(int(grey[:36].mean()) - 93) <= 2  # full range to 16..235
