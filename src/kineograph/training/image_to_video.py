"""Training Stable Video Diffusion: one loss for its stages, from text, from a picture, between frames.

Blattmann et al. 2023, arXiv:2311.15127, appendix D. The stages are `stable_video_diffusion.STAGES`;
`models.image_to_video.widen_input` leads from one to the next, `masked_frames` makes the condition of interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.objective import log_normal_sigmas, weighted_mse
from kineograph.diffusion.parameterization import SVD, add_noise, expand, training_target
from kineograph.models.image_to_video import ImageCondition


def stage_sigmas(stage: Any, u: Tensor) -> Tensor:
    """Turn uniform numbers `(batch,)` into the noise levels that a stage is trained at.

    Args:
        stage: Has `sigma_mean` and `sigma_std`, such as an entry of `stable_video_diffusion.STAGES`.
        u: Uniform in [0, 1).
    """
    return log_normal_sigmas(u, stage.sigma_mean, stage.sigma_std)


def edm_v_loss(
    network: Callable[[Tensor, Tensor, ImageCondition], Tensor],
    latents: Tensor,
    condition: ImageCondition,
    noise: Tensor,
    sigma: Tensor,
    dropped: Tensor | None = None,
) -> Tensor:
    """Return the loss of each clip, the squared error of v.

    EDM's weight for data of deviation 1, `(sigma**2 + 1) / sigma**2` on the error of x0, is 1 on that of v.

    Args:
        network: A `ConditionedNetwork`.
        latents: Scaled latents `(batch, frames, c, h, w)`.
        condition: From `ImageToVideoModel.condition`, or of text and `masked_frames`.
        noise: Standard normal, of the shape of the latents.
        sigma: Noise levels `(batch,)`.
        dropped: Bool `(batch,)`: clips that are trained without their condition, for guidance.

    Returns:
        float32 `(batch,)`.
    """
    told = condition if dropped is None else condition.dropped(dropped)
    alpha = torch.ones_like(sigma)
    assert SVD.c_in is not None
    assert SVD.c_noise is not None
    x = add_noise(latents, noise, alpha, sigma)
    output = network(expand(SVD.c_in(alpha, sigma), x) * x, SVD.c_noise(alpha, sigma), told)
    return weighted_mse(output, training_target(SVD, latents, noise, alpha, sigma))
