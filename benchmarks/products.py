"""Time bfloat16 products on a CPU without arithmetic for them: PyTorch's way, ours, and float32 beside them.

    python benchmarks/products.py [--rounds 5] [--threads 2]

Layers of ModelScopeT2V, 8 frames. Prints medians of rounds by turns in milliseconds, how many times as fast as
PyTorch's emulation ours is, and each one's largest error against the product of the same numbers in float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kineograph.cli._timing import ratio, take_turns
from kineograph.devices import has_bf16
from kineograph.models.products import InFloat32

Case = tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]
same = lambda x, w: F.conv2d(x, w, padding=1)
over_time = lambda x, w: F.conv3d(x, w, padding=(1, 0, 0))
CASES: dict[str, Case] = {
    "convolution 320, 32x32": (same, (8, 320, 32, 32), (320, 320, 3, 3)),
    "convolution 2560 to 1280, 8x8": (same, (8, 2560, 8, 8), (1280, 2560, 3, 3)),
    "convolution over time 320, 32x32": (over_time, (1, 320, 8, 32, 32), (320, 320, 3, 1, 1)),
    "linear 320 to 2560, 32x32": (F.linear, (8, 1024, 320), (2560, 320)),
    "linear 1280 to 10240, 8x8": (F.linear, (8, 64, 1280), (10240, 1280)),
    "batched 1280 products 32x64x32": (torch.matmul, (1280, 32, 64), (1280, 64, 32)),
}


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--threads", type=int, default=2, help="threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, bfloat16 {'in hardware' if has_bf16() else 'EMULATED by PyTorch'}")
    for name, case in CASES.items():
        print(measured(name, case, options.rounds), flush=True)


def measured(name: str, case: Case, rounds: int) -> str:
    """Return a line about one product."""
    function, *shapes = case
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)

    def ours() -> Tensor:
        with InFloat32():
            return function(x, weight)

    wide = x.float(), weight.float()
    timings = take_turns(
        {"ours": ours, "theirs": lambda: function(x, weight), "float32": lambda: function(*wide)}, rounds
    )
    exact = function(x.double(), weight.double())
    errors = [float((side - exact).abs().max() / exact.abs().max()) for side in (ours(), function(x, weight))]
    times = ", ".join(f"{side} {1000 * timings[side].median:.1f}" for side in ("theirs", "ours", "float32"))
    faster = ratio(timings["ours"], timings["theirs"])
    return f"{name:34} ms: {times}; {faster:.2f}x as fast; errors {errors[1]:.1e}, ours {errors[0]:.1e}"


if __name__ == "__main__":
    main()
