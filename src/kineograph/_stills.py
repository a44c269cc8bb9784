"""One picture as Pillow opens it, turned upright and brought to 8-bit RGB or RGBA.

Samples of 16 bits lose their lower byte, as Pillow does for colours. Samples without a largest value of their own
(floats, 32-bit and signed integers) are scaled where all lie in [0, 1], and refused otherwise: guessing a range would
give each frame of a clip another brightness.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kineograph._orientation import EXIF_ORIENTATION, Transform, from_exif
from kineograph.errors import MediaError

ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")


def stated_rotation(image: Any) -> int:
    """Return the clockwise degrees by which an opened picture is turned for display."""
    return _stated(image).rotation


def _orientation(image: Any) -> Transform:
    """Return how the pixels that Pillow gives are still to be turned; it turns a TIFF itself."""
    return Transform() if image.format == "TIFF" else _stated(image)


def _stated(image: Any) -> Transform:
    """Read the orientation of a picture's EXIF; broken EXIF turns nothing."""
    try:
        return from_exif(image.getexif().get(EXIF_ORIENTATION))
    except Exception:  # what is beside the pixels is of any program's making, and Pillow raises anything for it
        return Transform()


def shown_size(image: Any) -> tuple[int, int]:
    """Return (height, width) of an opened picture as it is displayed."""
    return _orientation(image).size(image.height, image.width)


def may_show_through(image: Any) -> bool:
    """Tell from its header whether a picture has an alpha channel or a transparent colour."""
    return image.mode in ALPHA_MODES or "transparency" in image.info


def shows_through(image: Any) -> bool:
    """Tell whether a decoded picture has a pixel that is not opaque."""
    return may_show_through(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def pixels_of(image: Any, alpha: bool, name: str | Path) -> np.ndarray:
    """Return a picture's pixels as displayed.

    Args:
        image: A picture of Pillow's, of any mode.
        alpha: Whether to return an alpha channel.
        name: What to call it in errors.

    Returns:
        uint8, (height, width, 4 with alpha, else 3), contiguous.

    Raises:
        MediaError: Its samples have no range, or its colours no way to RGB.
    """
    image.load()
    if image.mode in _DEEP_MODES or image.mode in ("I", "F"):
        pixels = _from_grey(image, alpha, name)
    else:
        pixels = np.array(_converted(image, "RGBA" if alpha else "RGB", name))
    return np.ascontiguousarray(_orientation(image).apply(pixels))


def _converted(image: Any, mode: str, name: str | Path) -> Any:
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of a PNG with 16 bits, which Pillow gives as 8
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    try:
        return image.convert(mode)
    except ValueError as error:
        raise MediaError(f"'{name}' has colours of the kind {image.mode}, which cannot be shown: {error}.") from error


def _from_grey(image: Any, alpha: bool, name: str | Path) -> np.ndarray:
    """Scale a grey picture of more than 8 bits."""
    values = np.asarray(image)
    grey = _eight_bits(image, values, name)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    pixels = np.repeat(grey[..., None], 4 if alpha else 3, -1)
    if alpha:
        pixels[..., 3] = np.where(values == image.info.get("transparency"), 0, 255)
    return pixels


def _eight_bits(image: Any, values: np.ndarray, name: str | Path) -> np.ndarray:
    if image.mode in _DEEP_MODES:
        return (values.astype(np.uint16) >> (_bits(image) - 8)).astype(np.uint8)
    if image.mode == "I" and image.format == "PPM":  # Pillow scales its samples to 16 bits
        return (values >> 8).astype(np.uint8)
    if values.size and values.min() >= 0 and values.max() <= 1 and image.mode == "F":
        return np.rint(values * 255).astype(np.uint8)
    kind = "floats" if image.mode == "F" else "signed or 32-bit integers"
    raise MediaError(
        f"'{name}' holds {kind} from {values.min():g} to {values.max():g}, and nothing says which are black and white. "
        f"Scale them to 0 to 1 (floats) or to all of 16 or 8 unsigned bits, and save the picture again."
    )


def _bits(image: Any) -> int:
    """Return the bits of a sample: 16, or 12 of some TIFFs, which Pillow does not scale."""
    stored = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 16)
    return int(stored[0] if isinstance(stored, tuple) else stored)
