"""What every way of sampling does beside checking its wishes: precision, finite values, versions."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

import kineograph
from kineograph.devices import has_bf16
from kineograph.diffusion import samplers
from kineograph.errors import KineographError, unknown

Progress = Callable[[samplers.Step], None]


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
