"""Which device there is and what it computes well in. The one file that names devices."""

from __future__ import annotations

import functools
import os

import torch

from kineograph.errors import unknown

BF16_SWITCH = "KINEOGRAPH_BF16"
"""Environment variable that says whether this machine counts as one with arithmetic for bfloat16."""

_SWITCH_VALUES = {"": None, "auto": None, "1": True, "0": False}


def best_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def on_cpu() -> bool:
    """Say whether there is no accelerator."""
    return best_device().type == "cpu"


def has_bf16() -> bool:
    """Say whether bfloat16 arithmetic is done in hardware (on CPUs: AVX512-BF16 or AMX).

    `KINEOGRAPH_BF16` answers in place of the hardware: `1` yes, `0` no, `auto` or nothing: ask it. So what depends on
    the processor can be tried on any other: autocast where it must be emulated, float32 where it need not be.

    Raises:
        InputError: The variable holds something else.
    """
    answer = _bf16_switch()
    return _hardware_bf16() if answer is None else answer


def computes_in_bf16(x: torch.Tensor) -> bool:
    """Say whether products of a tensor like x are formed by bfloat16 hardware here: by its type, or by autocast."""
    kind = x.device.type
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16
    return (cast or x.dtype is torch.bfloat16) and has_bf16()


def _bf16_switch() -> bool | None:
    """Return what the environment says; None: nothing."""
    said = os.environ.get(BF16_SWITCH, "").strip().lower()
    if said not in _SWITCH_VALUES:
        raise unknown(BF16_SWITCH, said, ("auto", "1", "0"))
    return _SWITCH_VALUES[said]


@functools.cache
def _hardware_bf16() -> bool:
    """Ask the best device."""
    device = best_device().type
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    if device == "mps":
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_flag("avx512_bf16", "amx_bf16")


def _cpu_flag(*names: str) -> bool:
    """Say whether the CPU has one of these features; unknown systems say no."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123 - one line, no path object needed
            flags = next((line for line in info if line.startswith("flags")), "").split()
    except OSError:
        return False
    return any(name in flags for name in names)
