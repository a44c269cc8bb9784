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
    for name, value in (("height", height), ("width", width)):
        if value < 1:
            raise InputError(f"--{name} must be at least {factor} pixels, a multiple of {factor}; not {value}.")
        if value % factor:
            low = value // factor * factor
            near = f"{low} or {low + factor}" if low else str(factor)
            raise InputError(f"--{name} {value} is not a multiple of {factor}; take {near}.")
