"""What the process does with a trained model: samplers side by side, and round trips of real clips.

    python docs/process/bundled.py samplers  [--model emoji] [--prompts "a juggling man" ...]
    python docs/process/bundled.py inversion [--model emoji] [--data DIR] [--count 16]

Each writes a picture and a JSON record beside this file, or where `-o` says. The functions take any denoiser, so a test
runs them without a model.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.guidance import classifier_free
from kineograph.diffusion.inversion import (
    bdia,
    bdia_end,
    bdia_inversion,
    ddim_inversion,
    edict,
    edict_inversion,
    null_text_guidance,
    null_text_inversion,
    refined_inversion,
)
from kineograph.diffusion.noise import ClipGenerators
from kineograph.diffusion.samplers import ddim, ddpm
from kineograph.diffusion.solvers import dpm_solver_pp, heun, unipc

HERE = Path(__file__).parent
PROMPTS = ["red apple", "smiling face with hearts", "dog face", "woman dancing", "loudly crying face", "automobile"]
RUNS = {
    "DDIM 1000": (ddim, 1000),
    "DDIM 50": (ddim, 50),
    "DDIM 20": (ddim, 20),
    "Heun 25": (heun, 25),
    "DPM-Solver++ 20": (dpm_solver_pp, 20, "log_snr"),
    "DPM-Solver++ 16": (dpm_solver_pp, 16, "log_snr"),
    "DPM-Solver++ 12": (dpm_solver_pp, 12, "log_snr"),
    "DPM-Solver++ 20, trailing": (dpm_solver_pp, 20),
    "UniPC 20": (unipc, 20, "log_snr"),
    "UniPC 16": (unipc, 16, "log_snr"),
    "UniPC 12": (unipc, 12, "log_snr"),
    "DDPM 1000": (ddpm, 1000),
}
"""Sampler, steps, and the spacing of timesteps where it is not trailing."""


def compare_samplers(denoiser, schedule, noise, seeds, runs=None, work=None):
    """Sample with each method from the same noise.

    Args:
        denoiser: What to sample with.
        schedule: Its schedule.
        noise: Where to start.
        seeds: One for each clip.
        runs: As `RUNS`.
        work: Folder that keeps what each method made, so that a stopped comparison continues.

    Returns:
        For each method its samples (clips, frames, ...), and a record: seconds; the distance to DDIM with the most
        steps, which is the error of the solution, as a share of its deviation; and how mean and deviation of the values
        differ from DDPM's, whose samples are others for the same noise.
    """
    runs, results, records = runs or RUNS, {}, {}
    for name, (sampler, steps, *spacing) in runs.items():
        levels = schedule.levels(schedule.timesteps(steps, *spacing))
        extra = {"noise": ClipGenerators(seeds)} if sampler is ddpm else {}
        make = lambda sampler=sampler, levels=levels, extra=extra: sampler(denoiser, noise, levels, **extra)
        results[name], seconds = kept(None if work is None else work / f"{name}.npz", make)
        records[name] = {"steps": steps, "seconds": seconds}
    exact = results[max((run[1], name) for name, run in runs.items() if run[0] is ddim)[1]]
    ancestral = next(results[name] for name, run in runs.items() if run[0] is ddpm)
    for name, samples in results.items():
        records[name]["error_of_solution"] = float((samples - exact).square().mean().sqrt() / exact.std())
        records[name]["mean_minus_ddpm"] = float((samples.mean() - ancestral.mean()) / ancestral.std())
        records[name]["deviation_over_ddpm"] = float(samples.std() / ancestral.std())
    return results, records


def kept(path, make):
    """Make samples, or read those of an earlier run; return them and the seconds they took."""
    if path is not None and path.is_file():
        stored = np.load(path)
        return torch.from_numpy(stored["samples"]), float(stored["seconds"])
    start = time.perf_counter()
    samples = make()
    seconds = time.perf_counter() - start
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (part := path.with_suffix(".part")).open("wb") as file:
            np.savez(file, samples=samples.cpu().numpy(), seconds=seconds)
        part.replace(path)
        print(f"{path.stem}: {seconds:.0f} s", flush=True)
    return samples, seconds


def round_trips(denoiser, schedule, latents, condition, empty, scale, steps, null_text=True):
    """Invert clips and sample them again, each way.

    Args:
        denoiser: Takes float64 states.
        schedule: Discrete schedule.
        latents: (clips, frames, channels, height, width).
        condition: Features of what the clips show.
        empty: Features of the empty text, float tensor.
        scale: Guidance scale of the guided ways.
        steps: Steps of inversion and of sampling.
        null_text: Whether to run null-text inversion, which needs gradients and about 20 calls a step.

    Returns:
        The clips that come back, by the name of the way.
    """
    levels = schedule.levels(schedule.timesteps(steps))
    latents = latents.double()
    given = lambda x, t, _=None: denoiser(x, t, condition)
    noise = ddim_inversion(given, latents, levels)
    back = {
        "DDIM": ddim(given, noise, levels),
        f"DDIM, guided {scale:g}": ddim(classifier_free(denoiser, condition, empty, scale), noise, levels),
        "refined": ddim(given, refined_inversion(given, latents, levels), levels),
        "BDIA": bdia(given, bdia_inversion(given, bdia_end(given, latents, levels), levels), levels)[1],
        "EDICT": edict(given, edict_inversion(given, (latents, latents), levels), levels)[0],
    }
    if null_text:
        noise, embeddings = null_text_inversion(denoiser, latents, levels, condition, empty, scale)
        guided = null_text_guidance(denoiser, condition, embeddings, scale)
        back[f"null-text, guided {scale:g}"] = ddim(guided, noise, levels)
    return back


def psnr(a, b):
    """Peak signal-to-noise ratio in dB for each clip, the peak being the range of the first."""
    span = a.flatten(1).amax(dim=1) - a.flatten(1).amin(dim=1)
    error = (a - b).square().flatten(1).mean(dim=1).clamp(min=1e-32)
    return 10 * torch.log10(span**2 / error)


def write(folder, name, record, picture=None):
    """Write the record, and a picture below 150 KB."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        colours = 128
        while True:
            buffer = io.BytesIO()
            picture.convert("RGB").quantize(colours).save(buffer, format="PNG", optimize=True)
            if buffer.tell() < 150_000:
                break
            if colours > 32:
                colours //= 2
            else:
                picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))
        (folder / f"{name}.png").write_bytes(buffer.getvalue())


def grid_picture(rows):
    """Put clips (frames, 3, height, width) in [-1, 1] below each other, every fourth frame, names on the left."""
    from PIL import ImageDraw

    strips = {name: torch.cat([*clip[::4]], dim=2).clamp(-1, 1) for name, clip in rows}
    height, width = next(iter(strips.values())).shape[-2:]
    picture = Image.new("RGB", (width + 120, height * len(strips)), "white")
    for k, (name, strip) in enumerate(strips.items()):
        pixels = ((strip + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        picture.paste(Image.fromarray(pixels), (120, k * height))
        ImageDraw.Draw(picture).text((4, k * height + height // 2 - 5), name, fill="black")
    return picture


def table_picture(names, clips):
    """Put the pictures of each sampler in a row, names on the left."""
    from PIL import ImageDraw

    rows = [torch.cat([clip[0] for clip in clips[name]], dim=2).clamp(-1, 1) for name in names]
    height, width = rows[0].shape[-2:]
    picture = Image.new("RGB", (width + 110, height * len(rows)), "white")
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        picture.paste(Image.fromarray(((row + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()), (110, k * height))
        ImageDraw.Draw(picture).text((4, k * height + height // 2 - 5), name, fill="black")
    return picture


def autocast(device, precision):
    """Return the context in which the network computes in bfloat16, where that is wanted and there."""
    from kineograph.devices import has_bf16

    wanted = precision == "bf16" or (precision == "auto" and has_bf16())
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def run_samplers(options):
    """Compare the samplers on prompts and write samplers-bundled.{json,png}."""
    import kineograph
    from kineograph.models.latent_video import draw_noise

    parts = kineograph.load(options.model).parts
    own, seeds = parts.settings, list(range(len(options.prompts)))
    shape = parts.latent_shape(options.frames or 1, own.height, own.width)
    noise = draw_noise(own, shape, seeds).to(parts.device)
    denoiser = classifier_free(parts.denoiser(), parts.text(options.prompts), _empty(parts, seeds), own.guidance_scale)
    with autocast(parts.device, options.precision):
        results, records = compare_samplers(denoiser, parts.schedule, noise, seeds, work=options.work)
    shown = [name for name in ("DDPM 1000", "DDIM 50", "DPM-Solver++ 20", "DPM-Solver++ 12") if name in results]
    clips = {name: parts.autoencoder.decode(results[name].float()) for name in shown}
    rows = [(f"{name}\n{prompt[:18]}", clips[name][k]) for k, prompt in enumerate(options.prompts) for name in shown]
    record = {"prompts": options.prompts, "frames": shape[0], "guidance": own.guidance_scale, **records}
    picture = grid_picture(rows) if shape[0] > 1 else table_picture(shown, clips)
    write(options.output, "samplers-bundled", record, picture)
    print(json.dumps(records, indent=2))


def run_inversion(options):
    """Measure round trips of real clips and write inversion-bundled.{json,png}."""
    import kineograph
    from kineograph.data.manifest import manifest_path, read_manifest
    from kineograph.video import Video

    parts = kineograph.load(options.model).parts
    own = parts.settings
    denoiser = NetworkDenoiser(parts.network, parts.schedule, parts.plan.kind, torch.float32)
    frames = options.frames or 4
    rows = [row for row in read_manifest(options.data, options.split) if row.frames > frames][: options.count]
    root = manifest_path(options.data).parent
    read = lambda row: Video.read(root / row.path, fps=own.fps, background="white").resize(own.width, own.height)
    clips = torch.stack([read(row).frames[:frames] for row in rows])
    latents = parts.autoencoder.encode(clips.float().to(parts.device))
    facts = {"clips": len(rows), "split": options.split, "frames": frames, "precision": options.precision}
    text, record = parts.text([row.caption for row in rows]), {**facts, "psnr_of_latents": {}}
    for steps in options.steps:
        measured = {}
        for k in range(len(rows)):  # one clip at a time, as in sampling
            own_text, empty = text[k : k + 1], _empty(parts, [0])
            null, clip = options.null_text and steps == options.steps[0], latents[k : k + 1]
            with autocast(parts.device, options.precision):
                back = round_trips(denoiser, parts.schedule, clip, own_text, empty, own.guidance_scale, steps, null)
            for name, clip in back.items():
                measured.setdefault(name, []).append(float(psnr(latents[k : k + 1].double(), clip)))
        record["psnr_of_latents"][steps] = {
            name: {"mean": sum(v) / len(v), "lowest": min(v)} for name, v in measured.items()
        }
        print(steps, json.dumps(record["psnr_of_latents"][steps], indent=2), flush=True)
        write(options.output, "inversion-bundled", record)
    write(options.output, "inversion-bundled", record, _plot(record["psnr_of_latents"]))


def _empty(parts, seeds):
    return parts.text([""]).expand(len(seeds), -1, -1)


def _plot(table):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.4, 3.6))
    for name in dict.fromkeys(name for ways in table.values() for name in ways):
        points = [(steps, ways[name]["mean"]) for steps, ways in table.items() if name in ways]
        axis.plot(*zip(*points, strict=True), "o-", ms=3, label=name)
    axis.axhline(60, color="k", ls=":", lw=0.8)
    axis.set(xlabel="steps", ylabel="PSNR of the latents' round trip [dB]", xscale="log")
    axis.legend(fontsize=7)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    plt.close(figure)
    return Image.open(buffer)


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["samplers", "inversion"])
    parser.add_argument("--model", default="emoji", help="bundled name or model folder")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--data", default="emoji", help="data set folder with a manifest")
    parser.add_argument("--count", type=int, default=16, help="clips to invert")
    parser.add_argument("--split", default="held-out-combinations", help="split whose clips are inverted")
    parser.add_argument("--frames", type=int, help="frames per clip (default: 1 for samplers, 4 for inversion)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20], help="steps; null-text at the first number")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"], help="of the network")
    parser.add_argument("--no-null-text", dest="null_text", action="store_false")
    parser.add_argument("--work", type=Path, help="keeps the samples, so that a stopped comparison continues")
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="where picture and record go")
    options = parser.parse_args()
    {"samplers": run_samplers, "inversion": run_inversion}[options.what](options)


if __name__ == "__main__":
    main()
