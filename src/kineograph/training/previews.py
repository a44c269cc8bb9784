"""Previews: clips of a few prompts or pictures, with fixed seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kineograph.models.latent_video import LatentVideoModel
from kineograph.training.task import Progress

STEPS = 20


def draw_prompts(
    model: LatentVideoModel,
    prompts: Sequence[str],
    num_frames: int,
    directory: Path,
    progress: Progress | None = None,
) -> None:
    """Sample prompts with fixed seeds into a folder: a contact sheet, and clips if there is motion; none, nothing."""
    from kineograph.sampling.generate import Model

    if not prompts:
        return
    told = Steps(len(prompts), progress)
    videos = Model(model).generate(prompts, seed=0, num_frames=num_frames, num_inference_steps=STEPS, callback=told)
    write_clips(videos, prompts, directory)


class Steps:
    """A callback of samplers that tells how many steps are done of those of several clips.

    Args:
        clips: How many there are.
        progress: Called with `(done, total, what)`.
    """

    def __init__(self, clips: int, progress: Progress | None) -> None:
        self.clips, self.progress, self.done = clips, progress, 0

    def __call__(self, step: Any) -> None:
        """Count one step."""
        self.done += 1
        if self.progress:
            self.progress(self.done, self.clips * step.num_steps, "previews")


def write_clips(videos: Sequence[Any], names: Sequence[str], directory: Path) -> None:
    """Write a contact sheet of clips, and each clip that has more than one frame."""
    from kineograph.video import contact_sheet

    if not videos:
        return
    contact_sheet(videos, labels=names).save(directory / "sheet.png")
    for stem, video in zip(file_names(names), videos, strict=True):
        if len(video) > 1:
            video.save(directory / f"{stem}.mp4")


def file_names(texts: Sequence[str]) -> list[str]:
    """Return the first words of texts as names of files, in any script, each its own."""
    found: list[str] = []
    for text in texts:
        name = re.sub(r"\W+", "-", text.lower()).strip("-")[:40] or "clip"
        found.append(name if name not in found else f"{name}-{len(found) + 1}")
    return found
