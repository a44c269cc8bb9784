"""What the JSON files of a model say before its weights are read; wishes are checked against it within a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kineograph._text import read_json
from kineograph.errors import DataError, InputError
from kineograph.models.sizes import check_side
from kineograph.sampling import wishes
from kineograph.sampling.places import INDEX
from kineograph.systems import systems

TIME = ("temporal.json", "motion_adapter")
"""What a model's folder keeps its notion of time in; without one a plain image network is an image model."""
IMAGE_NETWORK = "UNet2DConditionModel"
STARTS: dict[str, Literal["prompt", "picture"]] = {
    "KineographModel": "prompt",
    "KineographImageToVideo": "picture",
    "StableVideoDiffusionPipeline": "picture",
}
"""From what models of an index's class make clips; those with `RESAMPLER` are told pictures beside the prompt."""
RESAMPLER = "picture_resampler"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a model without its weights; None where only they tell.

    Attributes:
        name: What it is called.
        num_frames: Frames that it was trained on; 1 for an image model.
        factor: Pixels per latent position along an edge.
        num_timesteps: Of its process.
        draft: Whether it has a draft.
        starts: From what it makes clips.
    """

    name: str
    num_frames: int | None = None
    factor: int | None = None
    num_timesteps: int = wishes.MOST_STEPS
    draft: bool | None = None
    starts: Literal["prompt", "picture", "both"] | None = None


def known(path: Path | None, name: str, system: str = "") -> Known:
    """Look into a model's folder.

    Args:
        path: The folder; a file or None says nothing.
        name: As the user typed it.
        system: A training-free system on top of it, which brings its own number of frames.

    Returns:
        What its JSON files say. Files that are missing or broken say nothing here: loading names them.
    """
    found = Known(name=name) if path is None or not (path / INDEX).is_file() else _of_folder(path)
    return replace(found, num_frames=systems().find(system).sampling.frames) if system else found


def _of_folder(folder: Path) -> Known:
    index = _table(folder / INDEX)
    own, kind = index.get("kineograph", {}), str(index.get("_class_name", ""))
    steps = _table(folder / "scheduler" / "scheduler_config.json").get("num_train_timesteps")
    return Known(
        name=str(own.get("name", folder.name)) if isinstance(own, dict) else folder.name,
        num_frames=_frames(folder, own),
        factor=factor_of(folder / "vae"),
        num_timesteps=steps if isinstance(steps, int) else wishes.MOST_STEPS,
        draft=(folder / "draft").is_dir() if own else None,
        starts="both" if (folder / RESAMPLER).is_dir() else STARTS.get(kind),
    )


def _frames(folder: Path, own: Any) -> int | None:
    if isinstance(own, dict) and isinstance(own.get("num_frames"), int):
        return own["num_frames"]
    image = _table(folder / "unet" / "config.json").get("_class_name") == IMAGE_NETWORK
    return 1 if image and not any((folder / part).exists() for part in TIME) else None


def factor_of(vae: Path) -> int | None:
    """Return the pixels per latent position along an edge of an autoencoder's folder; None where it does not say."""
    widths, patch = (
        _table(vae / "config.json").get("block_out_channels"),
        _table(vae / "kineograph.json").get("patch", 1),
    )
    return patch * 2 ** (len(widths) - 1) if isinstance(widths, list) and isinstance(patch, int) else None


def _table(file: Path) -> Mapping[str, Any]:
    try:
        found = read_json(file)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def check_wishes(told: Known, options: Mapping[str, Any]) -> None:
    """Refuse wishes that the model cannot meet; None is no wish.

    Args:
        told: What is known of the model.
        options: By the names of `Model.generate`.

    Raises:
        InputError: Names the flag, what was given and what is allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "sampler" in given:
        wishes.check_sampler(given["sampler"])
    if "num_inference_steps" in given:
        wishes.check_steps(given["num_inference_steps"], told.num_timesteps)
    if "num_frames" in given:
        wishes.check_frames(given["num_frames"], told.num_frames, told.name)
    for side in ("height", "width"):
        if side in given:
            check_side(f"--{side}", given[side], told.factor or 1)
    wishes.check_guidance(given.get("guidance_scale"), given.get("guidance_interval"))
    wishes.check_draft_until(given.get("draft_until"))
    if told.draft is False and given.get("draft_until", 1) < 1:
        raise no_draft(told.name, given["draft_until"])
    wishes.check_fps(given.get("fps"))
    wishes.check_seed(given.get("seed", 0))


def no_draft(name: str, until: float) -> InputError:
    """Return the error for a wish for a draft of a model without one."""
    return InputError(
        f"'{name}' has no draft, so --draft-until {until} has nothing to act on. Leave it out, or train one: "
        "kineograph train draft."
    )
