"""Which version of AnimateDiff motion modules are, told from them or from `--preset`, and what follows from it.

Guo et al. 2023, arXiv:2307.04725, released code. Version 1 tells 24 frames apart and runs the image network's group
norms over the clip (`use_inflated_groupnorm: false`); later ones tell 32 apart with norms per frame; only version 2 has
a module in the middle block. Nothing in the weights alone says how norms are computed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kineograph.errors import WeightsError, unknown
from kineograph.systems.animatediff import PRESETS, AnimateDiffConfig

VERSIONS = tuple(name for name in PRESETS if name != "tiny")
FRAMES = {name: PRESETS[name].max_frames for name in VERSIONS}
"""Frames that the position code of each version tells apart."""
AS_DIFFUSERS = "diffusers"
"""What stands for diffusers' way of computing norms, where a version's authors have another."""


def refuse_preset(where: Path, preset: str) -> None:
    """Refuse a preset for a path that says itself what it is.

    Raises:
        WeightsError: There is one.
    """
    if preset:
        raise WeightsError(f"'{where}' says itself what it is; leave --preset {preset} out.")


def file_version(where: Path, frames: int | None, middle: bool, preset: str) -> str:
    """Return the version of a single file.

    Args:
        where: The file.
        frames: How many its position tables tell apart; None: it keeps none.
        middle: Whether it has a module in the middle block.
        preset: What the user or the widths of the modules say; empty: nothing.

    Raises:
        WeightsError: Nothing says it, there is no such version, or the file is of another one.
    """
    if preset:
        return _checked(where, frames, middle, preset)
    if middle and frames in (None, 32):
        return "v2"
    if not middle and frames is not None and (frames == FRAMES["v1"] or frames >= FRAMES["v3"]):
        return "v1" if frames == FRAMES["v1"] else "v3"
    told = "keeps no position tables (.pe)" if frames is None else f"tells {frames} frames apart"
    raise WeightsError(
        f"'{where}' does not say which version of AnimateDiff it is: it {told}"
        f"{' and has a module in the middle block' if middle else ''}. Version 1 runs the image network's norms over "
        "the clip and version 3 per frame, with the same names of weights. Say which: --preset v1 or --preset "
        f"{'v2' if middle else 'v3'} (preset= in Python)."
    )


def _checked(where: Path, frames: int | None, middle: bool, preset: str) -> str:
    """Return the version that was given.

    Raises:
        WeightsError: There is no such version, or the file cannot be of it.
    """
    if preset not in VERSIONS:
        raise unknown(f"--preset for '{where}'", preset, VERSIONS, WeightsError)
    own = PRESETS[preset]
    if frames in FRAMES.values() and frames != own.max_frames:
        raise WeightsError(
            f"'{where}' is not AnimateDiff's version {preset}, which tells {own.max_frames} frames apart: its tables "
            f"(.pe) are for {frames}. Leave --preset out."
        )
    if middle != own.middle:
        has, wants = ("has a" if middle else "has no", "one" if own.middle else "none")
        raise WeightsError(
            f"'{where}' is not AnimateDiff's version {preset}: it {has} module in the middle block, where the version "
            f"has {wants}."
        )
    return preset


def adapter_version(where: Path, options: AnimateDiffConfig, preset: str) -> str:
    """Return the version whose authors' norms a folder of diffusers' `MotionAdapter` is computed with.

    Args:
        where: The folder.
        options: What its configuration says.
        preset: What the user says: a version, `"diffusers"`, or nothing.

    Returns:
        A version, or nothing where norms are computed as diffusers does.

    Raises:
        WeightsError: There is no such version, the folder is of another one, or it holds version 1's modules, which
            their authors and diffusers compute differently, and nothing says which way is meant.
    """
    if preset == AS_DIFFUSERS:
        return ""
    if preset:
        return _checked(where, options.max_frames, options.middle, preset)
    if options.max_frames == FRAMES["v1"] and not options.middle:
        raise WeightsError(
            f"'{where}' holds motion modules for {options.max_frames} frames, as AnimateDiff's version 1. Its "
            "authors run the image network's norms over the clip, where diffusers runs them per frame; it does "
            "not say which is meant. Say it: --preset v1 (as the authors) or --preset diffusers (preset= in Python)."
        )
    return ""


def as_authors(options: AnimateDiffConfig, version: str) -> AnimateDiffConfig:
    """Return sizes with the norms that the authors of a version compute."""
    own = PRESETS[version]
    return replace(options, motion_norm=own.motion_norm, spatial_norm=own.spatial_norm)
