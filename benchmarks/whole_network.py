"""Time ModelScopeT2V's whole network beside diffusers' on the same weights, and measure each one's memory alone.

    python benchmarks/whole_network.py [--frames 8 16] [--dtype float32] [--rounds 3] [--small] [--threads 2]

Published size (1.4 B parameters), 32x32 latents, in the type that the machine computes in unless another is asked
for. Where it has no arithmetic for bfloat16, PyTorch emulates it and we form its products in float32
(`kineograph.models.products`); the record says so. The two take turns in one process; memory is the peak of a process
that runs only one of them, whose allocator gives freed blocks back at once. Otherwise a step spreads over the
gigabyte of holes that building leaves behind, and the peak tells how the weights were built (0.40 against 0.23 GiB
for two frames instead of 0.14 against 0.13). The share of the ceiling is that of the machine's fastest matrix product
in the type in which a side multiplies: where both sides are near it, no other order of the same arithmetic is much
faster.
Writes `whole_network_TYPE.json` and a table in `whole_network_TYPE.md`, in which the rows of earlier calls stay; with
--small, of a network of 64 and 128 channels, which shows over many frames that time per frame stays the same,
`whole_network_small_TYPE.json` and `.md`. Bfloat16 in hardware has records of its own (`..._bfloat16_hardware`).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.utils import logging

from kineograph.cli._timing import floating_point_operations, matmul_ceiling, ratio, take_turns
from kineograph.cli.bench import OURS, THEIRS, Size, _call_theirs, _inflated, _reference
from kineograph.devices import has_bf16
from kineograph.models.weights import write_json, write_text

DTYPES = ("float32", "bfloat16")
HERE = Path(__file__).parent
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
"""Fixes glibc's threshold at its first value, 128 KiB: a larger block is memory of its own, returned when freed."""
CHANNELS = (320, 640, 1280, 1280)
PUBLISHED = Size(
    channels=CHANNELS, layers=2, context_dim=1024, tokens=77, frames=16, latent=32, head_dim=64, sample_steps=1
)
SMALL = Size(channels=(64, 128), layers=1, context_dim=64, tokens=77, frames=16, latent=32, head_dim=32, sample_steps=1)


def main() -> None:
    """Measure and write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # diffusers warns at every cast, of no modules at all
    size = SMALL if options.small else PUBLISHED
    if options.alone:
        print(peak_memory(size, options.alone, options.frames[0], options.dtype))
        return
    print(described(options), flush=True)
    file = options.output / f"{name_of(options)}.json"
    record = {"threads": options.threads, "dtype": options.dtype, "in hardware": in_hardware(options.dtype)}
    kept = rows_of(file, record)
    if options.memory and (missing := set(options.frames) - set(kept)):
        sys.exit(f"{file} has no times for {sorted(missing)} frames yet; leave --memory out.")
    rows = {frames: kept[frames] for frames in options.frames} if options.memory else compare(size, options)
    for frames, row in rows.items():
        for side in (OURS, THEIRS):
            row[f"memory {side}"] = in_fresh_process(side, frames, options)
        print(frames, json.dumps(row), flush=True)
    rows = dict(sorted({**kept, **rows}.items()))
    write_json({**record, "rows": {str(frames): row for frames, row in rows.items()}}, file)
    write_text(page(rows, options), file.with_suffix(".md"))


def name_of(options: argparse.Namespace) -> str:
    """Return the record's name: bfloat16 in hardware and emulated are two records."""
    in_silicon = "_hardware" if options.dtype == "bfloat16" and has_bf16() else ""
    return f"whole_network{'_small' if options.small else ''}_{options.dtype}{in_silicon}"


def rows_of(file: Path, record: dict[str, object]) -> dict[int, dict[str, float]]:
    """Return what an earlier call has measured in the same way, by frames."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    same = all(found.get(name) == value for name, value in record.items())
    return {int(frames): row for frames, row in found["rows"].items()} if same else {}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16], help="frames per clip")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is timed")
    parser.add_argument("--threads", type=int, default=2, help="threads")
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[has_bf16()], help="type of weights and input (default: in hardware)"
    )
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the record")
    parser.add_argument("--small", action="store_true", help="a small network")
    parser.add_argument(
        "--memory", action="store_true", help="measure only memory again, into the record that is there"
    )
    parser.add_argument("--alone", choices=(OURS, THEIRS), help=argparse.SUPPRESS)
    return parser.parse_args()


def in_hardware(dtype: str) -> bool:
    """Say whether this machine computes in a type, or emulates it."""
    return dtype == "float32" or has_bf16()


def described(options: argparse.Namespace) -> str:
    """Say in which type is measured."""
    if in_hardware(options.dtype):
        return f"{options.dtype}, in hardware"
    return f"{options.dtype}, which this machine has NO ARITHMETIC for (PyTorch emulates it, we multiply in float32)"


def networks(size: Size, wanted: tuple[str, ...], dtype: str) -> dict[str, torch.nn.Module]:
    """Build the wanted sides in one type, with one set of weights."""
    kind = getattr(torch, dtype)
    theirs = _reference(size, torch.Generator().manual_seed(0)).eval().to(kind)
    built = {THEIRS: theirs}
    if OURS in wanted:
        built[OURS] = _inflated(size, theirs).eval().to(kind)
        share_weights(built[OURS], theirs)
    return {name: built[name] for name in wanted}


def share_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Let parameters of the same name, shape and values be one tensor, so that both sides fit into memory."""
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = named.get(name.removeprefix("unet."))
        if other is not None and other.shape == parameter.shape and torch.equal(other, parameter):
            parameter.data = other.data


def inputs(size: Size, frames: int, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a clip and its context."""
    generator, kind = torch.Generator().manual_seed(1), getattr(torch, dtype)
    clip = torch.randn(1, frames, 4, size.latent, size.latent, generator=generator)
    return clip.to(kind), torch.randn(1, size.tokens, size.context_dim, generator=generator).to(kind)


def works(built: dict[str, torch.nn.Module], clip: torch.Tensor, context: torch.Tensor) -> dict:
    """Return one denoising step of each side."""
    calls = {
        OURS: lambda: built[OURS](clip, 500, context),
        THEIRS: lambda: _call_theirs(built[THEIRS], clip, 500, context),
    }
    return {name: calls[name] for name in built}


@torch.inference_mode()
def compare(size: Size, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Time both sides by turns for each number of frames."""
    multiplied = {OURS: options.dtype if in_hardware(options.dtype) else "float32", THEIRS: options.dtype}
    ceiling = {side: matmul_ceiling(dtype, "cpu") for side, dtype in multiplied.items()}
    built, rows = networks(size, (OURS, THEIRS), options.dtype), {}
    for frames in options.frames:
        rivals = works(built, *inputs(size, frames, options.dtype))
        ours, (theirs, operations) = rivals[OURS]().float(), run_counted(rivals[THEIRS])
        timings = take_turns(rivals, options.rounds, warm_up=0)
        rows[frames] = {
            "rounds": options.rounds,
            f"seconds {OURS}": timings[OURS].median,
            f"seconds {THEIRS}": timings[THEIRS].median,
            "ratio": ratio(timings[OURS], timings[THEIRS]),
            "milliseconds per frame": 1000 * timings[OURS].median / frames,
            f"share of ceiling {OURS}": operations / timings[OURS].median / ceiling[OURS],
            f"share of ceiling {THEIRS}": operations / timings[THEIRS].median / ceiling[THEIRS],
            "difference": float((ours - theirs).abs().max() / theirs.abs().max()),
        }
    return rows


def run_counted(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return a step's output in float32 and its floating-point operations; one run gives both."""
    outputs = []
    operations = floating_point_operations(lambda: outputs.append(call()))
    return outputs[0].float(), operations


@torch.inference_mode()
def peak_memory(size: Size, side: str, frames: int, dtype: str) -> float:
    """Build one side, run it once, and return what the step added to the process's peak, in GiB.

    The weights' own memory is left out: both sides hold the same.
    """
    built = networks(size, (side,), dtype)
    work = works(built, *inputs(size, frames, dtype))[side]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building left behind is not to be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    """Return a field of this process's status in GiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) / 2**20


def in_fresh_process(side: str, frames: int, options: argparse.Namespace) -> float:
    """Measure the memory of one side in a process of its own."""
    words = ["--alone", side, "--frames", str(frames), "--threads", str(options.threads)]
    words += ["--dtype", options.dtype]
    words += ["--small"] if options.small else []
    environment = {**os.environ, **GIVE_BACK}
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return float(done.stdout.split()[-1])


COLUMNS = {
    "rounds": ("rounds", "d"),
    "kineograph, s": (f"seconds {OURS}", ".2f"),
    "diffusers, s": (f"seconds {THEIRS}", ".2f"),
    "ratio": ("ratio", ".2f"),
    "kineograph, ms a frame": ("milliseconds per frame", ".0f"),
    "of ceiling": (f"share of ceiling {OURS}", ".0%"),
    "diffusers' share": (f"share of ceiling {THEIRS}", ".0%"),
    "kineograph, GiB": (f"memory {OURS}", ".2f"),
    "diffusers, GiB": (f"memory {THEIRS}", ".2f"),
    "difference": ("difference", ".1e"),
}


def page(rows: dict[int, dict[str, float]], options: argparse.Namespace) -> str:
    """Return the Markdown record."""
    head = (
        f"# One denoising step of {'a small ' if options.small else ''}ModelScopeT2V beside diffusers\n\n"
        f"Written by `python benchmarks/whole_network.py{' --small' if options.small else ''}`; "
        f"medians of rounds by turns, {options.threads} threads, {described(options)}, 32x32 latents. "
        "Memory is what a step adds to the weights. The ceiling is the rate of a large matrix product in the type in "
        "which a side multiplies; "
        "shares are of diffusers' count of operations.\n\n"
    )
    table = [f"| frames | {' | '.join(COLUMNS)} |", "| --: " * (len(COLUMNS) + 1) + "|"]
    for frames, row in rows.items():
        table.append(f"| {frames} | " + " | ".join(format(row[key], form) for key, form in COLUMNS.values()) + " |")
    return head + "\n".join(table) + "\n"


if __name__ == "__main__":
    main()
