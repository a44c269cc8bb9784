"""Fair timing: rivals take turns in one process, medians are compared, and the machine's own ceiling is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one rival, in the order measured."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the measured times, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, as a share of the median (0 for fewer than three rounds)."""
        if len(self.seconds) < 3:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


def take_turns(rivals: Mapping[str, Work], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time rivals by turns: A B, B A, A B, ...; drift of the machine meets all of them alike.

    Args:
        rivals: What to run, by name.
        rounds: How often each is timed.
        warm_up: How often each runs before, untimed.

    Returns:
        The timing of each rival.
    """
    for work in [work for work in rivals.values() for _ in range(warm_up)]:
        work()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    order = list(rivals)
    for _ in range(rounds):
        for name in order:
            times[name].append(seconds_of(rivals[name]))
        order.reverse()
    return {name: Timing(tuple(seconds)) for name, seconds in times.items()}


def seconds_of(work: Work) -> float:
    """Run the work once, to the end of what it queued on an accelerator, and return the wall-clock seconds."""
    started = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - started


def _finish() -> None:
    """Wait for the accelerator, if torch is in use and there is one."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.synchronize()


def floating_point_operations(work: Work) -> int:
    """Count the multiplications and additions in matrix products and convolutions of one run.

    Attention is forced through its plain form, because torch's counter knows no formula for the CPU's fused kernel.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matmul_ceiling(dtype_name: str, device: str, size: int = 2048, rounds: int = 5) -> float:
    """Measure the best rate of a square matrix product, in floating-point operations per second.

    Args:
        dtype_name: A torch type, such as `"bfloat16"`.
        device: Where to multiply.
        size: Rows and columns.
        rounds: Products timed; the fastest counts, because a ceiling is what the machine can do.

    Returns:
        Operations per second, `2 * size**3 / seconds`.
    """
    import torch

    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, dtype_name)).unbind()
    timing = take_turns({"matmul": lambda: left @ right}, rounds)["matmul"]
    return 2 * size**3 / min(timing.seconds)


def ratio(ours: Timing, theirs: Timing) -> float:
    """Return how many times as fast ours is: the median over the rounds of their time over ours.

    The two times of a round lie side by side, so a machine that slows down for some rounds slows both; medians of each
    side alone would compare different minutes.
    """
    return statistics.median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean that treats twice as fast and twice as slow alike."""
    return statistics.geometric_mean(values)
