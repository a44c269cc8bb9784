"""What a run tells: one progress line, JSON lines, and TensorBoard if asked."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kineograph.errors import require
from kineograph.training.replace import disk_trouble


class RunLog:
    """Writes `metrics.jsonl` (and TensorBoard events) and prints progress to stderr, from the main process only.

    Args:
        run: Run directory.
        main: Whether this process writes.
        tensorboard: Whether to write events as well.
    """

    def __init__(self, run: Path, main: bool = True, tensorboard: bool = False) -> None:
        self.file = (run / "metrics.jsonl").open("a", encoding="utf-8") if main else None
        self.board = None
        if main and tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"))

    def write(self, step: int, **values: float | str) -> None:
        """Write one JSON line; numbers go to TensorBoard as well."""
        if self.file is None:
            return
        with disk_trouble(f"'{self.file.name}' could not be written"):
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        for name, value in values.items():
            if self.board is not None and isinstance(value, int | float):
                self.board.add_scalar(name, value, step)

    def say(self, line: str) -> None:
        """Print a line to stderr."""
        if self.file is not None:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - the progress line is the purpose

    def close(self) -> None:
        """Close the files."""
        if self.file is not None:
            with suppress(OSError):  # each line was flushed; what failed then has been said
                self.file.close()
        self.file = None
        if self.board is not None:
            self.board.close()


class Meter:
    """Rates between two progress lines: samples per second, share of the wall clock spent waiting for data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self.start, self.samples, self.waited, self.losses = time.perf_counter(), 0, 0.0, []

    def add(self, samples: int, waited: float, loss: float) -> None:
        """Count one step."""
        self.samples += samples
        self.waited += waited
        self.losses.append(loss)

    def rates(self, steps_left: int) -> dict[str, Any]:
        """Return loss, samples/s, data wait in percent, peak memory in GB and the time left in seconds."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        return {
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "samples_per_second": self.samples / elapsed,
            "data_wait_percent": 100 * self.waited / elapsed,
            "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "eta_seconds": steps_left * elapsed / max(1, len(self.losses)),
        }


def progress_line(step: int, total: int, rates: dict[str, Any], lr: float, grad_norm: float) -> str:
    """Return the one line that tells how a run is going."""
    eta = int(rates["eta_seconds"])
    return (
        f"step {step}/{total}  loss {rates['loss']:.4f}  grad {grad_norm:.3f}  lr {lr:.2e}  "
        f"{rates['samples_per_second']:.1f} samples/s  data wait {rates['data_wait_percent']:.0f} %  "
        f"memory {rates['memory_gb']:.1f} GB  ETA {eta // 3600}:{eta // 60 % 60:02d}:{eta % 60:02d}"
    )
