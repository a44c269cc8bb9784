"""What may be wished of sampling, in the words of the flags; checked without torch, so that a slip costs no waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kineograph.errors import InputError, unknown
from kineograph.systems import systems

if TYPE_CHECKING:
    from kineograph.systems.card import System

MAX_SEED = 2**63 - 1
MOST_STEPS = 1000
"""Timesteps of nearly every published model; a model with fewer says so once it is loaded."""
MOST_FRAMES = 4
"""Clips may be so many times as long as those that a model was trained on."""
STRANGE = 0.25
"""A side that differs from the trained one by this share or more: the bundled model, trained at 128x128, squeezes its
pictures at 96x160 and gives every contour ghosts from 160x160 on, clearest at 256x256."""
SCHEDULER = "scheduler"
"""The sampler that the checkpoint's own scheduler configuration describes, with its spacing of timesteps."""
SAMPLER_NAMES = ("ddim", "ddpm", "euler-ancestral", "heun", "dpm++", "sde-dpm++", "unipc")
Limits = Sequence[tuple[str, float, float]]
NO_FLAG = {
    "min_guidance_scale": "min_guidance_scale",
    "max_guidance_scale": "--guidance-scale",
    "eta": "eta",
    "between": "between",
}
"""Options that have no flag of their own name, and what they are called."""


def spelt(option: str) -> str:
    """Return how an option is called in messages: as its flag, or as an argument where there is none."""
    return NO_FLAG.get(option, f"--{option.replace('_', '-')}")


def filled(own: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name; those that are None are taken from a model's settings."""
    return {name: getattr(own, name) if value is None else value for name, value in given.items()}


def check_limits(options: Mapping[str, Any], seed: int, limits: Limits) -> None:
    """Refuse options outside `(name, lowest, highest)`, and a seed that is none.

    Raises:
        InputError: Names the flag, what was given and what is allowed.
    """
    for name, low, high in limits:
        if not low <= options[name] <= high:
            raise InputError(f"{spelt(name)} must be from {low:g} to {high:g}, not {options[name]}.")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Refuse a seed that the generators cannot take.

    Raises:
        InputError: It is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"--seed must be from 0 to 2**63 - 1, not {seed}.")


def check_fps(fps: float | None) -> None:
    """Refuse a frame rate that is none.

    Raises:
        InputError: It is not above 0 and finite.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise InputError(f"--fps counts frames per second and must be more than 0, not {fps:g}.")


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse no prompt, or an empty one.

    Raises:
        InputError: Shows how a prompt is given.
    """
    if not prompts or any(not isinstance(prompt, str) or not prompt.strip() for prompt in prompts):
        raise InputError('There is no prompt. Say what to show, such as: kineograph generate "a juggling man"')


def check_system(name: str) -> System:
    """Return a training-free system.

    Raises:
        InputError: No such system, or one that needs trained temporal layers.
    """
    chosen = systems().find(name)
    if chosen.sampler is None:
        raise InputError(
            f"--system {chosen.name} needs trained temporal layers: give them as --model, with the image model as "
            f"--base, or train them: kineograph train {chosen.name}. Training-free: {', '.join(training_free())}."
        )
    return chosen


def check_sampler(name: str) -> None:
    """Refuse a sampler that does not exist.

    Raises:
        InputError: Names the nearest.
    """
    if name not in (SCHEDULER, *SAMPLER_NAMES):
        raise unknown("--sampler", name, (SCHEDULER, *SAMPLER_NAMES))


def check_steps(steps: int, num_timesteps: int = MOST_STEPS) -> None:
    """Refuse a number of steps that the process does not have.

    Raises:
        InputError: It is out of range.
    """
    if not 1 <= steps <= num_timesteps:
        raise InputError(f"--num-inference-steps must be from 1 to {num_timesteps}, not {steps}.")


def check_frames(frames: int, trained: int | None, name: str = "model") -> None:
    """Refuse a number of frames that a model cannot make.

    Args:
        frames: Wished for.
        trained: Frames that it was trained on; None where nobody knows yet, 1 for an image model.
        name: Of the model.

    Raises:
        InputError: It is out of range, or an image model is asked for a clip.
    """
    if frames < 1 or (trained is not None and frames > MOST_FRAMES * trained):
        if trained == 1 and frames > 1:
            raise InputError(f"--num-frames {frames}: {makes_pictures(name)}")
        upper = "at least 1" if trained is None else f"from 1 to {MOST_FRAMES * trained} (trained with {trained})"
        raise InputError(f"--num-frames must be {upper}, not {frames}.")
    if trained == 1 and frames > 1:
        raise InputError(f"--num-frames {frames}: {makes_pictures(name)}")


def makes_pictures(name: str) -> str:
    """Say what gives an image model time."""
    return (
        f"'{name}' is an image model and makes single pictures. For a clip give it time: --system "
        f"{' or '.join(training_free())}, which needs no training, or motion modules, --model MOTION with this one as "
        "--base."
    )


def training_free() -> list[str]:
    """Return the names of the systems that give an image model time without training."""
    registry = systems()
    return [name for name in registry if registry[name].sampler is not None]


def check_guidance(scale: float | None, interval: Sequence[float] | None) -> None:
    """Refuse a scale or an interval of guidance that is out of range.

    Raises:
        InputError: Names the flag.
    """
    if scale is not None and not 0 <= scale <= 100:
        raise InputError(f"--guidance-scale must be from 0 to 100, not {scale}.")
    if interval is not None and not 0 <= interval[0] <= interval[1] <= 1:
        raise InputError(
            f"--guidance-interval must be two shares of time, 0 <= LOW <= HIGH <= 1, not {interval[0]} {interval[1]}."
        )


def check_draft_until(until: float | None) -> None:
    """Refuse a wish for a draft that is no share of time.

    Raises:
        InputError: It is out of range.
    """
    if until is not None and not 0 <= until <= 1:
        raise InputError(f"--draft-until must be a share of time, from 0 to 1 (no draft), not {until}.")


def strange_size(height: int, width: int, own: Any) -> str:
    """Return a warning for a size far from the one that a model was trained at; empty if it is near.

    Args:
        height: Pixels of the clip.
        width: Likewise.
        own: Settings with the trained `height`, `width` and `name`.
    """
    sides = ((height, own.height), (width, own.width))
    if all(abs(given / trained - 1) < STRANGE for given, trained in sides):
        return ""
    return (
        f"{own.name} was trained at {own.width}x{own.height} pixels; at {width}x{height} it may show ghosts, or "
        f"things twice. For another size make the clip at --width {own.width} --height {own.height} and scale it."
    )
