"""Which sizes of pictures fit a latent grid; known without the network, so that a wrong one is told at once."""

from __future__ import annotations

from kineograph.errors import InputError


def check_size(factor: int, height: int, width: int) -> None:
    """Refuse sizes that do not fit a grid of latents.

    Args:
        factor: Pixels per latent position along an edge.
        height: Pixels.
        width: Pixels.

    Raises:
        InputError: Names the flag, what was given and the nearest sizes that fit.
    """
    check_side("--height", height, factor)
    check_side("--width", width, factor)


def check_side(flag: str, value: int, factor: int) -> None:
    """Refuse a side of a picture that does not fit a grid of latents.

    Raises:
        InputError: Names the flag, what was given and the nearest sides that fit.
    """
    if value < 1:
        raise InputError(f"{flag} must be at least {factor} pixels, a multiple of {factor}; not {value}.")
    if value % factor:
        low = value // factor * factor
        near = f"{low} or {low + factor}" if low else str(factor)
        raise InputError(f"{flag} {value} is not a multiple of {factor}; take {near}.")
