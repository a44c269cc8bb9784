"""Make the figures of these pages with the library itself: `python docs/process/figures.py [NAME ...]`.

Where a network would stand, the exact denoiser of a known distribution stands: a mixture of two Gaussians, for which
E[x0 | x] is written down in `mixture_denoiser`. So every figure is reproducible, on any machine, in seconds.
"""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image

from kineograph.diffusion import noise as noises
from kineograph.diffusion.decomposed import decomposed
from kineograph.diffusion.guidance import classifier_free, interval_scale
from kineograph.diffusion.inversion import (
    bdia,
    bdia_end,
    bdia_inversion,
    ddim_inversion,
    edict,
    edict_inversion,
    refined_inversion,
)
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.noise import ClipGenerators, iid
from kineograph.diffusion.objective import WEIGHTS, loss_weight
from kineograph.diffusion.parameterization import add_noise, training_target
from kineograph.diffusion.process import (
    CosineLogSNR,
    Flow,
    VariancePreserving,
    exponential_sigmas,
    karras_sigmas,
)
from kineograph.diffusion.samplers import ddim, ddpm
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.solvers import dpm_solver_pp, heun, unipc

HERE = Path(__file__).parent
SCHEDULE = Schedule.named("scaled_linear")
CENTRES, SPREAD = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.15


def mixture_denoiser(process, centres=CENTRES, spread=SPREAD):
    """E[x0 | x] of a mixture of narrow Gaussians; `condition` is the list of weights of the centres, or None."""

    def denoiser(x, t, condition=None):
        alpha, sigma = process.alpha_sigma(t)
        variance = (alpha * spread) ** 2 + sigma**2
        weights = torch.tensor(condition or [1.0] * len(centres), dtype=torch.float64)
        distance = -((x[..., None] - alpha * centres) ** 2) / (2 * variance) + weights.log()
        share = distance.softmax(dim=-1)
        means = centres + alpha * spread**2 / variance * (x[..., None] - alpha * centres)
        return (share * means).sum(dim=-1)

    return denoiser


def bouncing_clip(num_frames=6, size=48):
    """A disc that crosses the picture, in [-1, 1]: (1, frames, 1, size, size)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    frames = []
    for k in range(num_frames):
        x, y = 8 + 6.4 * k, 14 + 20 * abs(math.sin(k))
        frames.append(((rows - y) ** 2 + (columns - x) ** 2 < 49).double() * 2 - 1)
    return torch.stack(frames)[None, :, None]


def save(figure, name):
    """Write a PNG of 48 colours, which keeps it below 150 KB."""
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)


def forward():
    """A clip at six timesteps, with independent and with shared noise."""
    clip, timesteps = bouncing_clip(), [0, 200, 400, 600, 800, 999]
    figure, axes = plt.subplots(2, 1, figsize=(7.2, 5.2))
    for axis, (name, prior) in zip(axes, {"iid": noises.iid, "mixed": noises.mixed}.items(), strict=True):
        noise = prior(tuple(clip.shape[1:]), [0], dtype=torch.float64)
        rows = []
        for k, timestep in enumerate(timesteps):
            frame = add_noise(clip, noise, *SCHEDULE.alpha_sigma(timestep))[0, :, 0]
            rows.append(torch.cat([*frame], dim=1) if k in (1, 2, 3, 5) else None)
        axis.imshow(torch.cat([row for row in rows if row is not None]), cmap="gray", vmin=-2, vmax=2)
        axis.set_yticks([24 + 48 * k for k in range(4)], ["t=200", "t=400", "t=600", "t=999"])
        axis.set_xticks([24 + 48 * k for k in range(6)], [f"frame {k}" for k in range(6)], fontsize=7)
        axis.set_title(f"noise: {name}")
    save(figure, "forward")


def schedules():
    """Log-SNR of every schedule, and the spacings of 10 steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    time = torch.linspace(0, 1, 1000, dtype=torch.float64)
    for kind in ("linear", "scaled_linear", "cosine", "sigmoid"):
        left.plot(time, -2 * Schedule.named(kind).ratios.log(), label=kind)
    zero = SCHEDULE.rescale_zero_terminal_snr()
    left.plot(time[:-1], -2 * zero.ratios[:-1].log(), "k:", label="scaled_linear, zero SNR")
    for label, process in {
        "cosine, continuous": CosineLogSNR(),
        "shifted to 256": CosineLogSNR.for_resolution(256),
    }.items():
        left.plot(time, process.log_snr(time), "--", label=label)
    alpha, sigma = Flow().alpha_sigma(time[1:-1])
    left.plot(time[1:-1], 2 * torch.log(alpha / sigma), "-.", label="flow")
    left.set(xlabel="t / T", ylabel="log SNR", ylim=(-14, 14))
    left.legend(fontsize=7)
    spacings = {
        name: [SCHEDULE.ratio_at(t) for t in SCHEDULE.timesteps(10, name).tolist()] for name in ("trailing", "leading")
    }
    spacings["Karras"] = karras_sigmas(10, float(SCHEDULE.ratios[0]), float(SCHEDULE.ratios[-1]))
    spacings["exponential"] = exponential_sigmas(10, float(SCHEDULE.ratios[0]), float(SCHEDULE.ratios[-1]))
    for k, (name, ratios) in enumerate(spacings.items()):
        right.plot([-2 * math.log(ratio) for ratio in ratios], [k] * 10, "o", label=name)
    right.set_yticks(range(4), list(spacings))
    right.set(xlabel="log SNR of the steps", ylim=(-0.5, 3.5))
    save(figure, "schedules")


def parameterizations():
    """Deviation of each target, and how an error of 1 in the output enters x0."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    ratios = torch.logspace(-2.5, 2.5, 41, dtype=torch.float64)
    level = VariancePreserving().alpha_sigma(ratios)
    x0, noise = (
        0.5 * iid((1, 1, 80, 80), range(41), dtype=torch.float64),
        iid((1, 1, 80, 80), range(41, 82), dtype=torch.float64),
    )
    for kind in ("epsilon", "x0", "v", "velocity", "edm"):
        left.plot(-2 * ratios.log(), training_target(kind, x0, noise, *level).flatten(1).std(dim=1), label=kind)
        right.semilogy(
            -2 * ratios.log(), loss_weight("snr", kind, *level) / loss_weight("snr", "x0", *level), label=kind
        )
    left.set(xlabel="log SNR", ylabel="deviation of the target", ylim=(0, 2.2))
    right.set(xlabel="log SNR", ylabel="squared error of x0 per unit of output")
    left.legend(fontsize=7)
    save(figure, "parameterizations")


def objectives():
    """Weight of the error of x0 under every objective."""
    figure, axis = plt.subplots(figsize=(5, 3.4))
    ratios = torch.logspace(-3, 3, 121, dtype=torch.float64)
    level = VariancePreserving().alpha_sigma(ratios)
    for name in WEIGHTS:
        kind = "v" if name == "simple" else "x0"
        weight = loss_weight(name, kind, *level)
        weight = weight / loss_weight("snr", kind, *level) * loss_weight("snr", "x0", *level)
        axis.loglog(ratios**-2, weight, label=name + (" (of v)" if name == "simple" else ""))
    axis.set(xlabel="SNR", ylabel="weight of the squared error of x0", ylim=(1e-6, 1e7))
    axis.legend(fontsize=7)
    save(figure, "objectives")


def samplers():
    """Paths of DDPM and DDIM from the same noise, and the error of each solver against its number of calls."""
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4))
    denoiser = mixture_denoiser(SCHEDULE)
    levels = SCHEDULE.levels(SCHEDULE.timesteps(250))
    x = iid((1, 1, 1, 24), [4], dtype=torch.float64)
    for axis, name in zip(axes, ("DDPM", "DDIM"), strict=False):
        path = [x]
        if name == "DDPM":
            ddpm(denoiser, x, levels, noise=ClipGenerators([4]), callback=lambda step, path=path: path.append(step.x))
        else:
            ddim(denoiser, x, levels, callback=lambda step, path=path: path.append(step.x))
        axis.plot([*levels.t], torch.stack(path).flatten(1), lw=0.7)
        axis.set(title=f"{name}, 250 steps", xlabel="timestep", ylim=(-3, 3), xlim=(1000, 0))
    _convergence(axes[2])
    save(figure, "samplers")


def _convergence(axis):
    process = VariancePreserving()
    denoiser = mixture_denoiser(process, spread=0.4)
    x = iid((1, 1, 1, 400), [1], dtype=torch.float64)
    grid = lambda steps: Levels.of(process, exponential_sigmas(steps + 1, 0.02, 30.0))
    truth = dpm_solver_pp(denoiser, x, grid(8000))
    counts = [8, 16, 32, 64, 128, 256, 512]
    for solver, calls in {ddim: 1, heun: 2, dpm_solver_pp: 1, unipc: 1}.items():
        errors = [float((solver(denoiser, x, grid(n // calls)) - truth).square().mean().sqrt()) for n in counts]
        axis.loglog(counts, errors, "o-", ms=3, label=solver.__name__)
    axis.loglog(counts, [4 / n for n in counts], "k:", lw=0.8, label="order 1, 2")
    axis.loglog(counts, [40 / n**2 for n in counts], "k:", lw=0.8)
    axis.set(title="error of the solution", xlabel="calls of the denoiser")
    axis.legend(fontsize=7)


def inversion():
    """Round-trip error of each inversion against the number of steps."""
    figure, axis = plt.subplots(figsize=(5.4, 3.6))
    denoiser = mixture_denoiser(SCHEDULE)
    data = ddim(denoiser, iid((1, 1, 8, 50), [2], dtype=torch.float64), SCHEDULE.levels(SCHEDULE.timesteps(1000)))
    data = data + 0.05 * iid((1, 1, 8, 50), [3], dtype=torch.float64)
    counts = [10, 20, 50, 100, 200]
    curves = {"DDIM": [], "refined, 5 calls": [], "BDIA": [], "EDICT": []}
    for steps in counts:
        levels = SCHEDULE.levels(SCHEDULE.timesteps(steps))
        returns = [
            ddim(denoiser, ddim_inversion(denoiser, data, levels), levels),
            ddim(denoiser, refined_inversion(denoiser, data, levels, iterations=5), levels),
            bdia(denoiser, bdia_inversion(denoiser, bdia_end(denoiser, data, levels), levels), levels)[1],
            edict(denoiser, edict_inversion(denoiser, (data, data), levels), levels)[0],
        ]
        for curve, back in zip(curves.values(), returns, strict=True):
            error = float((back - data).square().mean())
            curve.append(10 * math.log10(4 / error) if error > 0 else 320.0)
    for name, curve in curves.items():
        axis.semilogx(counts, curve, "o-", ms=3, label=name)
    axis.axhline(60, color="k", ls=":", lw=0.8)
    axis.set(xlabel="steps", ylabel="PSNR of the round trip [dB]")
    axis.legend(fontsize=7)
    save(figure, "inversion")


def guidance():
    """What a scale does to samples: three modes, one of them asked for with a leaning of 60 : 20 : 20."""
    figure, axis = plt.subplots(figsize=(6, 3.4))
    process, centres = VariancePreserving(), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    denoiser = mixture_denoiser(process, centres, 0.25)
    levels = Levels.of(process, [*exponential_sigmas(60, 0.01, 30.0), 0.0])
    x = iid((1, 1, 1, 20000), [1], dtype=torch.float64)
    for label, scale in {
        "1": 1.0,
        "3": 3.0,
        "8": 8.0,
        "8, only sigma in (0.3, 3]": interval_scale(8.0, 0.3, 3.0),
    }.items():
        samples = ddim(classifier_free(denoiser, [0.2, 0.2, 0.6], [1.0, 1.0, 1.0], scale), x, levels).flatten()
        counts = torch.histc(samples, 120, -2.2, 2.6) / len(samples) / 0.04
        axis.plot(torch.linspace(-2.18, 2.58, 120), counts, label=f"scale {label}")
    axis.set(xlabel="sample", ylabel="density")
    axis.legend(fontsize=7)
    save(figure, "guidance")


def priors():
    """Correlation between frames of every prior, measured on samples, and one row of pixels over the frames."""
    shape = (16, 4, 48, 48)
    response = noises.low_pass(16, 48, 48)
    draws = {
        "iid": noises.iid(shape, [0]),
        "mixed, alpha 1": noises.mixed(shape, [0]),
        "progressive, alpha 2": noises.progressive(shape, [0]),
        "decomposed, share 0.5": decomposed(shape, [0])[0],
        "motion warp (2, 0)": noises.motion_warp(noises.iid((1, 4, 48, 48), [0])[:, 0], 16, (2.0, 0.0)),
        "shuffled, window 8": noises.shuffled(shape, [0], window=8, stride=4),
        "FreeInit of mixed": noises.mix_frequencies(
            noises.mixed(shape, [0], alpha=3.0), noises.iid(shape, [1]), response
        ),
    }
    figure, axes = plt.subplots(2, len(draws), figsize=(12, 3.7))
    for (top, bottom), (name, noise) in zip(axes.T, draws.items(), strict=True):
        flat = noise[0].flatten(1)
        top.imshow(flat @ flat.T / flat.shape[1], vmin=-1, vmax=1, cmap="RdBu_r")
        bottom.imshow(noise[0, :, 0, 20], vmin=-2, vmax=2, cmap="gray", aspect="auto")
        top.set_title(name, fontsize=7)
        for axis in (top, bottom):
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("frame x frame", fontsize=7)
    axes[1, 0].set_ylabel("frame x column", fontsize=7)
    save(figure, "priors")


FIGURES = [forward, schedules, parameterizations, objectives, samplers, inversion, guidance, priors]

if __name__ == "__main__":
    wanted = sys.argv[1:]
    for figure in FIGURES:
        if not wanted or figure.__name__ in wanted:
            figure()
            size = (HERE / f"{figure.__name__}.png").stat().st_size
            print(f"{figure.__name__}.png {size / 1e3:.0f} KB")
            assert size < 150_000, "keep pictures small"
