"""Guidance: functions that take a denoiser and return a stronger one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.denoiser import Denoiser


def classifier_free(denoiser: Denoiser, condition: Any, unconditional: Any, scale: float) -> Denoiser:
    """Push the estimate away from the unconditional one.

    On x0 this is the same formula as on epsilon or v, because each is linear in x0 at fixed x.
    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6, with scale = 1 + w.

    Args:
        denoiser: The conditional model.
        condition: What is asked for.
        unconditional: The empty or negative condition, of the same form.
        scale: 1 is the conditional model alone (one network call), 0 the unconditional one.

    Returns:
        A denoiser that ignores the condition it is called with.
    """

    def guided(x: Tensor, t: Any, _condition: Any = None) -> Tensor:
        positive = denoiser(x, t, condition)
        return positive if scale == 1 else torch.lerp(denoiser(x, t, unconditional), positive, scale)

    return guided
