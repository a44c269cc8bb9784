"""What every way of sampling does with its options: fill in the model's own, check limits, set precision."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

import kineograph
from kineograph.devices import has_bf16
from kineograph.diffusion import samplers
from kineograph.errors import InputError, KineographError, unknown

MAX_SEED = 2**63 - 1
Progress = Callable[[samplers.Step], None]
Limits = Sequence[tuple[str, float, float]]


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
            raise InputError(f"--{name.replace('_', '-')} must be from {low:g} to {high:g}, not {options[name]}.")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Refuse a seed that the generators cannot take.

    Raises:
        InputError: It is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"--seed must be from 0 to 2**63 - 1, not {seed}.")


def check_finite(tensor: Tensor, phase: str) -> Tensor:
    """Return the tensor, or refuse it if a value is NaN or infinite.

    Raises:
        KineographError: Names the phase.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise KineographError(
            f"{phase} produced values that are not finite. Try --precision fp32; if it stays, the weights are damaged."
        )
    return tensor


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the autocast context for a precision wish.

    Raises:
        InputError: The wish is not known.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise unknown("--precision", precision, ("auto", "bf16", "fp32"))
    wanted = precision == "bf16" or (precision == "auto" and has_bf16())
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    return {"kineograph": kineograph.__version__, "torch": torch.__version__, "python": platform.python_version()}
