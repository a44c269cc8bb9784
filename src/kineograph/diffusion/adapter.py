"""Any scheduler of diffusers as a sampler: the one place of this package that imports diffusers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.denoiser import Network
from kineograph.diffusion.noise import ClipGenerators
from kineograph.diffusion.samplers import Callback, Step, working
from kineograph.errors import InputError, unknown


def scheduler_from_config(config: Mapping[str, Any]) -> Any:
    """Build the diffusers scheduler that a `scheduler_config.json` names.

    Args:
        config: The file's content, with `_class_name`.

    Raises:
        InputError: The class or one of its fields is unknown to the installed diffusers.
    """
    from diffusers import schedulers

    known = [name for name in dir(schedulers) if name.endswith("Scheduler")]
    name = config.get("_class_name")
    if name not in known:
        raise unknown("scheduler class", name, known)
    scheduler_class = getattr(schedulers, name)
    parameters = inspect.signature(scheduler_class.__init__).parameters
    fields = {key: value for key, value in config.items() if not key.startswith("_")}
    for field in fields:
        if field not in parameters:
            raise unknown(f"field of {name}", field, [p for p in parameters if p != "self"])
    return scheduler_class(**fields)


@torch.no_grad()
def run_scheduler(
    scheduler: Any,
    network: Network,
    x: Tensor,
    num_steps: int,
    condition: Any = None,
    *,
    generators: ClipGenerators | None = None,
    step_arguments: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Sample with any scheduler that has diffusers' `set_timesteps`, `scale_model_input` and `step`.

    The scheduler is copied first, so that two runs cannot disturb each other.

    Args:
        scheduler: Instance of a diffusers scheduler.
        network: `network(x, timestep, condition)`, whose output is of the scheduler's `prediction_type`. Guidance that
            is linear, such as `guidance.classifier_free`, may wrap it.
        x: Standard normal noise (batch, ...); it is scaled by the scheduler's `init_noise_sigma`, if it has
            one.
        num_steps: Steps to take; some schedulers call the network more often.
        condition: Handed to the network.
        generators: Fresh noise, one generator per clip, for schedulers that draw.
        step_arguments: Passed to `step`, such as `{"eta": 1.0}`.
        callback: Called after each step.

    Returns:
        The last state.

    Raises:
        InputError: `step` of this scheduler does not know one of the arguments.
    """
    scheduler = copy.deepcopy(scheduler)
    parameters = inspect.signature(scheduler.step).parameters
    arguments = dict(step_arguments or {})
    for name in arguments:
        if name not in parameters:
            raise unknown(f"argument of {type(scheduler).__name__}.step", name, parameters)
    if "generator" in parameters and generators is not None:
        arguments["generator"] = generators.generators
    if not hasattr(scheduler, "set_timesteps"):
        raise InputError(f"{type(scheduler).__name__} has no set_timesteps: it is not a sampler.")
    scheduler.set_timesteps(num_steps)
    x = working(x) * getattr(scheduler, "init_noise_sigma", 1.0)
    timesteps = list(scheduler.timesteps)
    for i, t in enumerate(timesteps):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(scaled, float(t), condition)
        result = scheduler.step(output, t, x, **arguments)
        x = result.prev_sample
        if callback is not None:
            callback(Step(i, len(timesteps), float(t), x, getattr(result, "pred_original_sample", None)))
    return x
