"""Overhead of one sampler step without the network, and growth of memory over many steps.

    python benchmarks/sampler_overhead.py [--json]

The denoiser returns a tensor made beforehand, so what is timed is the sampler's own arithmetic on a 16 x 4 x 16 x 16
latent. Samplers are interleaved over rounds; the median is reported, beside diffusers' scheduler of the same name where
there is one, driven the same way in the same rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import tracemalloc
import warnings

import torch

from kineograph.diffusion.inversion import bdia, edict
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.noise import ClipGenerators, iid
from kineograph.diffusion.process import VarianceExploding, karras_sigmas
from kineograph.diffusion.samplers import consistency, ddim, ddpm
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.solvers import Churn, dpm_solver_pp, euler, heun, lms, plms, unipc

SHAPE, SEEDS, STEPS, ROUNDS = (16, 4, 16, 16), [0], 100, 15
SCHEDULE = Schedule.named("scaled_linear")
LEVELS = SCHEDULE.levels(SCHEDULE.timesteps(STEPS))
EDM = Levels.of(VarianceExploding(), [*karras_sigmas(STEPS), 0.0])
ESTIMATE = iid(SHAPE, [9]) * 0.5
TWICE = (iid(SHAPE, SEEDS), iid(SHAPE, SEEDS))


def denoiser(x, t, condition=None):
    """Return an estimate made beforehand: a network that costs nothing."""
    return ESTIMATE


def fresh():
    """Return a new source of noise."""
    return ClipGenerators(SEEDS)


SAMPLERS = {
    "ddpm": lambda x: ddpm(denoiser, x, LEVELS, noise=fresh()),
    "ddim": lambda x: ddim(denoiser, x, LEVELS),
    "ddim eta 1": lambda x: ddim(denoiser, x, LEVELS, eta=1.0, noise=fresh()),
    "euler": lambda x: euler(denoiser, x, LEVELS),
    "heun": lambda x: heun(denoiser, x, LEVELS),
    "heun churn": lambda x: heun(denoiser, x, EDM, churn=Churn(40.0, fresh())),
    "dpm-solver++": lambda x: dpm_solver_pp(denoiser, x, LEVELS),
    "sde-dpm-solver++": lambda x: dpm_solver_pp(denoiser, x, LEVELS, noise=fresh()),
    "unipc": lambda x: unipc(denoiser, x, LEVELS),
    "plms": lambda x: plms(denoiser, x, LEVELS),
    "lms": lambda x: lms(denoiser, x, LEVELS),
    "consistency": lambda x: consistency(denoiser, x, LEVELS, noise=fresh()),
    "edict": lambda x: edict(denoiser, TWICE, LEVELS),
    "bdia": lambda x: bdia(denoiser, TWICE, LEVELS),
}
PEERS = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "lms": ("LMSDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}),
}


def peer(name):
    """Return the loop of a diffusers pipeline around the scheduler of this name."""
    from diffusers import schedulers

    class_name, config = PEERS[name]
    scheduler = getattr(schedulers, class_name)(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon", **config
    )

    def run(x):
        scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            for t in scheduler.timesteps:
                scheduler.scale_model_input(x, t)
                x = scheduler.step(ESTIMATE, t, x).prev_sample
        return x

    return run


def milliseconds_per_step(run, x):
    """Time one run and divide it by its steps."""
    start = time.perf_counter()
    run(x)
    return 1e3 * (time.perf_counter() - start) / STEPS


def growth(run, x):
    """Bytes that Python still holds after ten more runs: 0 up to noise where nothing grows."""
    run(x)
    tracemalloc.start()
    run(x)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        run(x)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown


def measure():
    """Time everything, interleaved, and return the rows."""
    warnings.simplefilter("ignore")
    x = iid(SHAPE, SEEDS)
    runs = {**{("ours", n): r for n, r in SAMPLERS.items()}, **{("diffusers", n): peer(n) for n in PEERS}}
    for run in runs.values():
        run(x)
    times = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            times[key].append(milliseconds_per_step(run, x))
    rows = []
    for name, run in SAMPLERS.items():
        ours = statistics.median(times["ours", name])
        theirs = statistics.median(times["diffusers", name]) if name in PEERS else None
        rows.append(
            {"sampler": name, "ms_per_step": ours, "diffusers_ms_per_step": theirs, "bytes_grown": growth(run, x)}
        )
    return {"shape": SHAPE, "steps": STEPS, "rounds": ROUNDS, "threads": torch.get_num_threads(), "rows": rows}


def main():
    """Print the table, or JSON."""
    result = measure()
    if "--json" in sys.argv[1:]:
        print(json.dumps(result, indent=2))
        return
    print(f"latent {'x'.join(map(str, SHAPE))}, {STEPS} steps, median of {ROUNDS} rounds, {result['threads']} threads")
    print(f"{'sampler':18s} {'ms/step':>8s} {'diffusers':>10s} {'ratio':>6s} {'bytes grown':>12s}")
    for row in result["rows"]:
        theirs = row["diffusers_ms_per_step"]
        compared = f"{theirs:10.3f} {theirs / row['ms_per_step']:5.1f}x" if theirs else " " * 17
        print(f"{row['sampler']:18s} {row['ms_per_step']:8.3f} {compared} {row['bytes_grown']:12d}")


if __name__ == "__main__":
    main()
