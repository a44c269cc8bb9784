"""`kineograph convert`: a checkpoint in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from kineograph.cli._output import emit, say
from kineograph.cli._outputs import check_place


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write a model, or motion modules alone, in another layout: kineograph convert mm.ckpt -o mm --to diffusers."""

    source: Annotated[Positional[Path], arg(metavar="IN")]
    """Model folder, motion module or checkpoint file, as for `generate --model`."""
    output: Annotated[Path, arg(aliases=("-o",))]
    """Folder to write; with --to original a .safetensors file."""
    to: Literal["kineograph", "diffusers", "original"]
    """Layout to write: this library's, diffusers' or the authors'."""
    base: str | None = None
    """Image model or a bundled name, for a source without autoencoder and text encoder (default: none)."""
    preset: str = ""
    """Which of its system's published networks IN is, where the file does not say it, as for `generate --preset`
    (default: told from it)."""
    precision: Literal["fp32", "fp16", "bf16"] | None = None
    """Data type of the written weights (default: the source's, or fp32 where it has several)."""
    json: bool = False
    """Print the result as one JSON document."""


HINTS = {
    "--format": "--to",
    "--layout": "--to",
    "--dtype": "--precision",
    "--half": "--precision fp16",
    "--model": "IN",
}
"""Flags that people type for ours."""


def run(args: Args) -> int:
    """Convert and say what was written."""
    check_place(args.output.parent, "--output")
    import torch

    from kineograph.checkpoints.convert import convert
    from kineograph.sampling.generate import find_base

    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    base = None if args.base is None else find_base(args.base)
    precision = None if args.precision is None else types[args.precision]
    done = convert(args.source, args.output, args.to, base, precision, args.preset)
    for note in done.notes:
        say(f"Note: {note}.")
    emit(
        {"path": done.path, "what": done.what, "notes": done.notes},
        f"{done.path}: {done.what}",
        args.json,
    )
    return 0
