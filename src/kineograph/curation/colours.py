"""Colours of a picture in words and numbers, for the offline stand-ins of captions and scores."""

from __future__ import annotations

import numpy as np

HUES = (
    ("red", 0),
    ("orange", 30),
    ("yellow", 52),
    ("green", 80),
    ("green", 140),
    ("blue", 200),
    ("blue", 240),
    ("purple", 280),
    ("pink", 325),
    ("red", 352),
)
"""Names of hues in degrees; a pixel has the nearest one's name. Grass lies at 70 to 90 degrees, and people call it
green."""
GREYS = ("black", "grey", "white")
NAMES = (*dict.fromkeys(name for name, _ in HUES), *GREYS)
_STEP = 4


def colour_shares(frame: np.ndarray) -> dict[str, float]:
    """Share of a picture's pixels by the name of their colour.

    Args:
        frame: uint8 (height, width, 3), RGB.

    Returns:
        A share from 0 to 1 for each of `NAMES`; they sum to 1.
    """
    pixels = frame[::_STEP, ::_STEP].reshape(-1, 3).astype(np.float32) / 255
    top, bottom = pixels.max(1), pixels.min(1)
    chroma = top - bottom
    angles = np.array([degrees for _, degrees in HUES])
    apart = np.abs((hue(pixels)[:, None] - angles + 180) % 360 - 180)
    names = apart.argmin(1)
    plain = chroma < 0.15 * np.maximum(top, 0.25) + 0.05
    names = np.where(plain, len(HUES) + np.digitize((top + bottom) / 2, [0.22, 0.78]), names)
    names = np.where(top < 0.12, len(HUES), names)
    counts = np.bincount(names, minlength=len(HUES) + len(GREYS)) / max(1, len(names))
    shares = dict.fromkeys(NAMES, 0.0)
    for name, share in zip((*(name for name, _ in HUES), *GREYS), counts.tolist(), strict=True):
        shares[name] += share
    return shares


def hue(pixels: np.ndarray) -> np.ndarray:
    """Hue in degrees from 0 to 360 of RGB pixels (n, 3) in [0, 1]; 0 for greys."""
    top, chroma = pixels.max(1), np.ptp(pixels, axis=1)
    safe = np.where(chroma > 0, chroma, 1)
    red, green, blue = pixels.T
    sixths = np.select(
        [top == red, top == green], [(green - blue) / safe % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    return np.where(chroma > 0, 60 * sixths, 0.0)


def colourfulness(frame: np.ndarray) -> float:
    """How colourful a picture is (Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", eq. 12).

    Args:
        frame: uint8 (height, width, 3), RGB.

    Returns:
        0 for greys; about 15 slightly, 45 averagely, 80 highly colourful.
    """
    red, green, blue = frame.astype(np.float32).reshape(-1, 3).T
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))


def brightness_word(frame: np.ndarray) -> str:
    """Say `"dark"`, `"bright"` or `"evenly lit"`."""
    mean = float(frame.mean())
    return "dark" if mean < 70 else "bright" if mean > 165 else "evenly lit"
