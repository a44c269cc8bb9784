"""Time our temporal layers beside diffusers' on the same weights, interleaved in one run.

    python benchmarks/temporal_layers.py [--threads 1] [--repeats 7] [--clock wall] [--dtypes float32] [--json FILE]

Prints medians in milliseconds and the ratio diffusers / ours (above 1: ours is faster), forward and forward + backward,
and the largest difference of the outputs relative to the largest value.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from einops import rearrange

from kineograph.devices import has_bf16
from kineograph.systems.keys import CONVOLUTION_KEYS, TRANSFORMER_KEYS, KeyMap
from kineograph.temporal.attend import attend
from kineograph.temporal.attention import TemporalTransformer
from kineograph.temporal.convolution import TemporalConvolution

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

DTYPES = ("float32", "bfloat16")
KINDS = ("convolution", "attention", "transformer")
CASES = [(160, 16, 16), (320, 16, 16), (320, 8, 16), (320, 16, 8), (640, 8, 16), (320, 16, 24)]
"""Channels, height and width, frames."""


def pair(kind, channels):
    """Return diffusers' layer and ours with its weights, perturbed, as functions of folded frames and their count."""
    if kind == "attention":
        return attention_alone(scaled_dot_product, channels), attention_alone(attend, channels)
    if kind == "convolution":
        theirs, ours = TemporalConvLayer(channels, channels), TemporalConvolution(channels, dropout=0.0)
        keys = KeyMap(CONVOLUTION_KEYS)
    else:
        heads = channels // head_width(channels)
        theirs = TransformerTemporalModel(heads, channels // heads, in_channels=channels)
        ours, keys = TemporalTransformer(channels, num_heads=heads, head_dim=None), KeyMap(TRANSFORMER_KEYS)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    ours.load_state_dict(keys.to_ours(theirs.state_dict()))
    if kind == "convolution":
        return lambda x, f: theirs(x, num_frames=f), ours
    return lambda x, f: theirs(x, num_frames=f, return_dict=False)[0], ours


def head_width(channels):
    """Return the head width: 64 where it divides the channels, else 40."""
    return 64 if channels % 64 == 0 else 40


def scaled_dot_product(q, k, v, heads):
    """Attend as diffusers' `AttnProcessor2_0` does."""
    q, k, v = (rearrange(x, "s n (h d) -> s h n d", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "s h n d -> s n (h d)")


def attention_alone(function, channels):
    """Return self-attention without projections, every position a sequence."""

    def run(x, frames):
        tokens = rearrange(x, "(b f) c h w -> (b h w) f c", f=frames)
        return function(tokens, tokens, tokens, channels // head_width(channels))

    return run


def median_times(functions, repeats, clock):
    """Run the functions in turn; return the median of each in milliseconds."""
    times = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeats):
        for record, function in zip(times, functions, strict=True):
            start = clock()
            function()
            record.append(1e3 * (clock() - start))
    return [statistics.median(record) for record in times]


def measure(kind, channels, size, frames, dtype, repeats, clock):
    """Return one row: the case, times and ratios."""
    theirs, ours = pair(kind, channels)
    x = torch.randn(frames, channels, size, size)

    def forward(layer):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            return layer(x.to(dtype), frames)

    def both(layer):
        leaf = x.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            out = layer(leaf, frames)
        out.sum().backward()

    difference = (forward(theirs) - forward(ours)).abs().max() / forward(theirs).abs().max()
    f_theirs, f_ours = median_times([lambda: forward(theirs), lambda: forward(ours)], repeats, clock)
    b_theirs, b_ours = median_times([lambda: both(theirs), lambda: both(ours)], repeats, clock)
    return {
        "layer": kind,
        "channels": channels,
        "size": size,
        "frames": frames,
        "dtype": str(dtype).removeprefix("torch."),
        "forward_ms": round(f_ours, 2),
        "forward_ratio": round(f_theirs / f_ours, 2),
        "forward_backward_ms": round(b_ours, 2),
        "forward_backward_ratio": round(b_theirs / b_ours, 2),
        "difference": float(f"{difference:.1e}"),
    }


def main():
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: fair on a busy machine with one thread")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=DTYPES[: 1 + has_bf16()], help="default: in hardware"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = []
    for dtype in options.dtypes:
        for case in CASES:
            for kind in options.kinds:
                row = measure(kind, *case, getattr(torch, dtype), options.repeats, CLOCKS[options.clock])
                rows.append(row)
                if len(rows) == 1:
                    print("  ".join(row))
                print("  ".join(str(value).rjust(len(key)) for key, value in row.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
