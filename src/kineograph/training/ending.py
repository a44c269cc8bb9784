"""What is left to do once the last step is done, kept in a file, so that no resumed run does a part of it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kineograph.training.replace import disk_trouble, write_whole

FILE = "end.json"


class Ending:
    """The parts of a run's end (model, validation, previews) that are done at a step.

    Args:
        run: Run directory; the file stands beside the checkpoints.
        step: The run's last step; what was done at another one does not count.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.file, self.step = run / "checkpoints" / FILE, step
        self.done: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self.file.read_bytes())
            return dict(kept["done"]) if kept["step"] == self.step else {}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or cut: then all is done again
            return {}

    def forget(self) -> None:
        """Forget what was done: the weights are about to change, be it that they come to the same step again."""
        self.file.unlink(missing_ok=True)
        self.done = {}

    def note(self, name: str, value: Any) -> None:
        """Remember that a part is done, and what it gave."""
        self.done[name] = value
        with disk_trouble(f"'{self.file}' could not be written"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps({"step": self.step, "done": self.done}, indent=1) + "\n")
