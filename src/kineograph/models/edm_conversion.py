"""From an image network over timesteps to one in Stable Video Diffusion's coordinates, without training.

Blattmann et al. 2023, arXiv:2311.15127, appendix D: the authors finetune their image model until it takes EDM's noise
levels, and then train time into it. A network that predicts v needs no such finetuning here: `c_in * x`, v and x0 are
the same in both coordinates, only the number it is told differs, `log(sigma) / 4` in place of a timestep. That number
passes two linear layers before anything else sees it, and those are solved for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kineograph.diffusion.parameterization import V, quarter_log, row
from kineograph.diffusion.scheduler_config import Plan
from kineograph.errors import InputError

SIGMAS = (0.002, 700.0)  # range of the released scheduler
SAMPLES = 2048
RIDGE = 1e-8  # share of the mean squared activation: keeps the solution small where samples do not decide


@torch.no_grad()
def tell_quarter_log(unet: Any, plan: Plan) -> float:
    """Let a network that predicts v be told `log(sigma) / 4` in place of a timestep, in place.

    The first layer becomes a row of ramps along the noise level, the second is solved by least squares, so that both
    give what they gave for the timestep of the same noise level.

    Args:
        unet: An image U-Net of diffusers, with sinusoids and two linear layers before its blocks.
        plan: Its process.

    Returns:
        The error of the new embeddings, relative to the deviation of the old.

    Raises:
        InputError: The network predicts something else than v, or its time embedding is of another kind.
    """
    if plan.schedule is None or row(plan.kind).target is not V.target:
        raise InputError(
            "Stable Video Diffusion's process needs an image network that predicts v; this one predicts something else."
        )
    layers = unet.time_embedding
    if unet.config["time_embedding_type"] != "positional" or getattr(layers, "cond_proj", None) is not None:
        raise InputError("The time embedding of this image network is not of the sinusoidal kind.")
    sigmas = torch.logspace(math.log10(SIGMAS[0]), math.log10(SIGMAS[1]), SAMPLES, dtype=torch.float64)
    timesteps = torch.tensor([plan.schedule.timestep_at(sigma) for sigma in sigmas.tolist()])
    wanted = layers(unet.time_proj(timesteps).to(unet.dtype)).double()
    codes = unet.time_proj(quarter_log(1.0, sigmas).float())
    _ramps(layers.linear_1, codes)
    hidden = layers.act(layers.linear_1(codes.to(unet.dtype))).double()
    _solve(layers.linear_2, hidden, wanted)
    found = layers(codes.to(unet.dtype)).double()
    return float((found - wanted).square().mean().sqrt() / wanted.std())


def _ramps(layer: nn.Linear, codes: Tensor) -> None:
    """Let unit j of a layer rise from the j-th of evenly spaced noise levels on.

    One sinusoid of the code, a slow sine, is nearly linear in the noise level; the layer reads only this one.
    """
    spread = codes.amax(0) - codes.amin(0)
    rising = (codes.diff(dim=0) > 0).all(0) & (codes.amax(0) < math.sin(1.3))  # no flat ends
    place = int(torch.where(rising, spread, torch.zeros_like(spread)).argmax())
    knots = torch.linspace(float(codes[0, place]), float(codes[-1, place]), layer.out_features)
    steep = layer.out_features / float(spread[place])
    layer.weight.zero_()[:, place] = steep
    layer.bias.copy_(-steep * knots)


def _solve(layer: nn.Linear, inputs: Tensor, outputs: Tensor) -> None:
    """Set a layer to the least-squares map from inputs to outputs, both `(samples, width)` in float64."""
    given = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    normal = given.T @ given
    normal += RIDGE * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    solution = torch.linalg.solve(normal, given.T @ outputs)
    layer.weight.copy_(solution[:-1].T)
    layer.bias.copy_(solution[-1])


def take_numbers(unet: Any, width: int) -> None:
    """Give a network an embedding of further numbers, added to that of its noise level, in place.

    Its last layer starts at zero: nothing changes until it is trained. Stable Video Diffusion tells the network frames
    per second, amount of motion and noise of the picture.

    Args:
        unet: An image U-Net of diffusers.
        width: Width of the code of all numbers together, `temporal.position.scalar_waves`.

    Raises:
        InputError: The network is already told classes or numbers.
    """
    from diffusers.models.embeddings import TimestepEmbedding

    if unet.class_embedding is not None:
        raise InputError("This image network is already told a class or numbers beside its noise level.")
    embedding = TimestepEmbedding(width, unet.time_embedding.linear_2.out_features)
    for parameter in embedding.linear_2.parameters():
        nn.init.zeros_(parameter)
    unet.class_embedding = embedding.to(unet.time_embedding.linear_2.weight)
    unet.register_to_config(class_embed_type="projection", projection_class_embeddings_input_dim=width)
