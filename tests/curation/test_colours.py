"""Colours have the names that people give them."""

import colorsys

import numpy as np
import pytest

from kineograph.curation.colours import NAMES, brightness_word, colour_shares, colourfulness, hue


def flat(colour):
    return np.full((40, 60, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((220, 30, 30), "red"),
        ((240, 140, 20), "orange"),
        ((240, 230, 40), "yellow"),
        ((40, 160, 60), "green"),
        ((150, 170, 40), "green"),  # sunlit grass
        ((110, 190, 240), "blue"),
        ((30, 60, 200), "blue"),
        ((130, 40, 190), "purple"),
        ((250, 120, 180), "pink"),
        ((10, 10, 12), "black"),
        ((128, 130, 126), "grey"),
        ((250, 250, 245), "white"),
        ((20, 8, 8), "black"),
    ],
)
def test_names(colour, name):
    shares = colour_shares(flat(colour))
    assert shares[name] == 1.0
    assert set(shares) == set(NAMES)


def test_shares_are_areas():
    frame = flat((30, 60, 200))
    frame[:, :15] = (220, 30, 30)
    shares = colour_shares(frame)
    assert shares["red"] == pytest.approx(0.25, abs=0.02)
    assert sum(shares.values()) == pytest.approx(1)


def test_hue_is_that_of_the_standard_library():
    pixels = np.random.default_rng(0).random((200, 3)).astype(np.float32)
    pixels[0] = 0.5
    expected = [360 * colorsys.rgb_to_hsv(*map(float, one))[0] for one in pixels]
    np.testing.assert_allclose(hue(pixels), expected, atol=1e-3)


def test_colourfulness_is_the_papers_formula():
    assert colourfulness(flat((90, 90, 90))) == 0
    frame = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    r, g, b = (frame[..., i].astype(float) for i in range(3))
    rg, yb = r - g, 0.5 * (r + g) - b
    expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert colourfulness(frame) == pytest.approx(expected, rel=1e-4)


def test_brightness():
    assert [brightness_word(flat(v)) for v in (20, 120, 220)] == ["dark", "evenly lit", "bright"]
