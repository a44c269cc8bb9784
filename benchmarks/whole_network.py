"""Time ModelScopeT2V's whole network beside diffusers' on the same weights, and measure each one's memory alone.

    python benchmarks/whole_network.py [--frames 8 16] [--rounds 3] [--small] [--threads 2]

Published size (1.4 B parameters), bfloat16, 32x32 latents. The two take turns in one process; memory is the peak of a
process that builds and runs only one of them. Writes `whole_network.json` and a table in `whole_network.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from kineograph.cli._timing import take_turns
from kineograph.cli.bench import OURS, THEIRS, Size, _call_theirs, _inflated, _reference

HERE = Path(__file__).parent
CHANNELS = (320, 640, 1280, 1280)
PUBLISHED = Size(
    channels=CHANNELS, layers=2, context_dim=1024, tokens=77, frames=16, latent=32, head_dim=64, sample_steps=1
)
SMALL = Size(channels=(64, 128), layers=1, context_dim=64, tokens=77, frames=16, latent=32, head_dim=32, sample_steps=1)


def main() -> None:
    """Measure and write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    size = SMALL if options.small else PUBLISHED
    if options.alone:
        print(peak_memory(size, options.alone, options.frames[0]))
        return
    rows = compare(size, options.frames, options.rounds)
    for frames, row in rows.items():
        for side in (OURS, THEIRS):
            row[f"memory {side}"] = in_fresh_process(side, frames, options)
        print(frames, json.dumps(row), flush=True)
    (HERE / "whole_network.json").write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=1) + "\n")
    (HERE / "whole_network.md").write_text(page(rows, options))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16], help="frames per clip")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is timed")
    parser.add_argument("--threads", type=int, default=2, help="threads")
    parser.add_argument("--small", action="store_true", help="a small network, to try the script")
    parser.add_argument("--alone", choices=(OURS, THEIRS), help=argparse.SUPPRESS)
    return parser.parse_args()


def networks(size: Size, wanted: tuple[str, ...]) -> dict[str, torch.nn.Module]:
    """Build the wanted sides in bfloat16, with one set of weights."""
    theirs = _reference(size, torch.Generator().manual_seed(0)).eval().bfloat16()
    built = {THEIRS: theirs}
    if OURS in wanted:
        built[OURS] = _inflated(size, theirs).eval().bfloat16()
    return {name: built[name] for name in wanted}


def inputs(size: Size, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a clip and its context."""
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(1, frames, 4, size.latent, size.latent, generator=generator)
    return clip.bfloat16(), torch.randn(1, size.tokens, size.context_dim, generator=generator).bfloat16()


def works(built: dict[str, torch.nn.Module], clip: torch.Tensor, context: torch.Tensor) -> dict:
    """Return one denoising step of each side."""
    calls = {
        OURS: lambda: built[OURS](clip, 500, context),
        THEIRS: lambda: _call_theirs(built[THEIRS], clip, 500, context),
    }
    return {name: calls[name] for name in built}


@torch.inference_mode()
def compare(size: Size, frame_counts: list[int], rounds: int) -> dict[int, dict[str, float]]:
    """Time both sides by turns for each number of frames."""
    built, rows = networks(size, (OURS, THEIRS)), {}
    for frames in frame_counts:
        rivals = works(built, *inputs(size, frames))
        ours, theirs = rivals[OURS]().float(), rivals[THEIRS]().float()
        timings = take_turns(rivals, rounds, warm_up=0)
        rows[frames] = {
            f"seconds {OURS}": timings[OURS].median,
            f"seconds {THEIRS}": timings[THEIRS].median,
            "ratio": timings[THEIRS].median / timings[OURS].median,
            "difference": float((ours - theirs).abs().max() / theirs.abs().max()),
        }
    return rows


@torch.inference_mode()
def peak_memory(size: Size, side: str, frames: int) -> float:
    """Build one side, run it once, and return what the step added to the process's peak, in GiB.

    The weights' own memory is left out: both sides hold the same.
    """
    built = networks(size, (OURS, THEIRS) if side == OURS else (THEIRS,))
    work = works({side: built[side]}, *inputs(size, frames))[side]
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
    words += ["--small"] if options.small else []
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def page(rows: dict[int, dict[str, float]], options: argparse.Namespace) -> str:
    """Return the Markdown record."""
    head = (
        "# One denoising step of ModelScopeT2V beside diffusers\n\nWritten by `python benchmarks/whole_network.py`; "
        f"medians of {options.rounds} rounds by turns, {options.threads} threads, bfloat16, 32x32 latents. Memory is "
        "what a step adds to the weights.\n\n"
        "| frames | kineograph, s | diffusers, s | ratio | kineograph, GiB | diffusers, GiB | difference |\n"
        "| --: | --: | --: | --: | --: | --: | --: |\n"
    )
    line = "| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.1e} |\n"
    keys = ("seconds kineograph", "seconds diffusers", "ratio", "memory kineograph", "memory diffusers", "difference")
    return head + "".join(line.format(frames, *(row[key] for key in keys)) for frames, row in rows.items())


if __name__ == "__main__":
    main()
