"""The latents of a clip, sampled here and by a pipeline of diffusers from the same noise."""

import torch

from kineograph.models.latent_video import draw_noise
from kineograph.sampling.generate import sample_latents


def options(steps=10, scale=7.5, **changes):
    return {
        "num_frames": 5,
        "height": 16,
        "width": 24,
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "guidance_interval": (0.0, 1.0),
        "draft_until": 1.0,
        "sampler": "scheduler",
        "negative_prompt": "blurred",
        **changes,
    }


def ours(model, wishes, prompt="a red dog", seed=4):
    with torch.no_grad():
        return sample_latents(model.parts, [prompt], [seed], wishes, None)


def theirs(pipe, model, wishes, prompt="a red dog", seed=4):
    shape = model.parts.latent_shape(wishes["num_frames"], wishes["height"], wishes["width"])
    noise = draw_noise(model.settings, shape, [seed])
    names = ("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "negative_prompt")
    pipe.set_progress_bar_config(disable=True)
    out = pipe(
        prompt,
        latents=noise.transpose(1, 2).clone(),
        output_type="latent",
        **{name: wishes[name] for name in names},
    )
    return out.frames.transpose(1, 2)


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()
