"""Strips: three pictures in, three out."""

import numpy as np
import pytest
from films import texture

from kineograph.curation.strips import fitted, read_strip, write_strip
from kineograph.errors import MediaError


def test_pictures_come_back_in_rgb_and_in_order(tmp_path):
    pictures = [texture(seed, (90, 160)) for seed in (1, 2, 3)]
    write_strip(tmp_path / "s.jpg", [picture[..., ::-1] for picture in pictures])
    strip = read_strip(tmp_path / "s.jpg")
    assert strip.shape == (3, 90, 160, 3)
    assert strip.dtype == np.uint8
    for found, picture in zip(strip, pictures, strict=True):
        assert np.abs(found.astype(int) - picture.astype(int)).mean() < 6


def test_the_same_pictures_are_the_same_bytes(tmp_path):
    pictures = [texture(seed, (50, 80)) for seed in (1, 2, 3)]
    for name in ("a.jpg", "b.jpg"):
        write_strip(tmp_path / name, pictures)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_a_damaged_strip_is_named(tmp_path):
    (tmp_path / "s.jpg").write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(MediaError, match=r"s\.jpg"):
        read_strip(tmp_path / "s.jpg")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1280, 720), (640, 360)), ((720, 1280), (360, 640)), ((321, 181), (320, 180)), ((1, 1), (2, 2))],
)
def test_fitting(size, expected):
    assert fitted(*size) == expected
