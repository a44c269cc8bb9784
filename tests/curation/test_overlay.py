"""A mark over moving pictures is found where it lies; without one, or without movement, nothing is."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kineograph.curation.overlay import Overlay, overlay_mask


def scenery(seed, steps=(0, 37, 81), height=180, width=320):
    """Give three frames of a camera that pans over a landscape of blobs and lines."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 40, 3), dtype=np.uint8)
    wide = Image.fromarray(coarse).resize((width * 2, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(wide)
    for _ in range(60):
        x, y = rng.integers(0, width * 2), rng.integers(0, height)
        draw.rectangle((x, y, x + 12, y + 20), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return np.stack([np.asarray(wide)[:, step : step + width] for step in steps])


def marked(strip, opacity=1.0, at=(240, 8)):
    """Lay a logo over each frame; also give the box of its ink."""
    height, width = strip.shape[1:3]
    layer = Image.new("L", (width, height))
    ImageDraw.Draw(layer).text(at, "KINO", fill=255, font=ImageFont.load_default(26))
    box = layer.getbbox()
    alpha = np.asarray(layer)[..., None] / 255 * opacity
    return (strip * (1 - alpha) + 255 * alpha).astype(np.uint8), box


@pytest.mark.parametrize("opacity", [1.0, 0.7])
def test_a_logo_is_found_where_it_lies(opacity):
    for seed in range(5):
        strip, (x0, y0, x1, y1) = marked(scenery(seed), opacity)
        mask = overlay_mask(strip)
        box = (x1 - x0) * (y1 - y0)
        inside = mask[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4].sum()
        assert inside > 0.8 * mask.sum()
        assert 0.3 * box < inside < 1.1 * box


def test_no_mark_no_score():
    scores = [Overlay().score(scenery(seed))["overlay"] for seed in range(8)]
    marks = [Overlay().score(marked(scenery(seed))[0])["overlay"] for seed in range(8)]
    assert 2 * max(scores) < 0.006 < min(marks)


def test_a_border_is_an_overlay():
    strip = scenery(3).copy()
    strip[:, :20] = strip[:, -20:] = 0
    assert Overlay().score(strip)["overlay"] > 0.005


def test_a_resting_camera_says_nothing():
    still = scenery(1)[:1].repeat(3, 0).copy()
    assert Overlay().score(still) == {"overlay": None}
    for i, x in enumerate((20, 120, 220)):  # someone walks through
        still[i, 30:150, x : x + 70] = scenery(9 + i)[0, 30:150, :70]
    assert Overlay().score(still) == {"overlay": None}
    flicker = np.stack([np.clip(scenery(1)[0] * light, 0, 255) for light in (0.8, 1.0, 1.15)]).astype(np.uint8)
    assert Overlay().score(flicker) == {"overlay": None}  # the light changes everywhere, the edges stay


def test_it_is_the_same_at_every_size():
    strip = marked(scenery(2))[0]
    large = np.stack([np.asarray(Image.fromarray(f).resize((640, 360), Image.Resampling.BICUBIC)) for f in strip])
    small, big = (Overlay().score(s)["overlay"] for s in (strip, large))
    assert big == pytest.approx(small, rel=0.35)
    assert len(Overlay().fingerprint) == 16
