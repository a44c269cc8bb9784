"""Which device there is and what it computes well in. The one file that names devices."""

from __future__ import annotations

import functools

import torch


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


@functools.cache
def has_bf16() -> bool:
    """Say whether bfloat16 arithmetic is done in hardware (on CPUs: AVX512-BF16 or AMX)."""
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
