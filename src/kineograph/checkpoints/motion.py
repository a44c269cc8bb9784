"""Motion modules: AnimateDiff's temporal layers on their own, put on an image model that is given beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kineograph.checkpoints.image import ImageModel
from kineograph.checkpoints.networks import key_map, same
from kineograph.checkpoints.pipelines import noted_settings, read_sidecar, settings_for
from kineograph.errors import WeightsError
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.video_unet import VideoUNet, read_plan
from kineograph.models.weights import read_folder, read_json, read_safetensors
from kineograph.systems import systems
from kineograph.systems.animatediff import AnimateDiffConfig
from kineograph.temporal.inflate import load_temporal_state_dict
from kineograph.temporal.plan import Plan

SYSTEM = "animatediff"
PROCESS = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
"""AnimateDiff's process (configs/training/v1/training.yaml), whatever the image model was trained with."""


def load_adapter(directory: str | Path, image: ImageModel) -> LatentVideoModel:
    """Put a folder of diffusers' `MotionAdapter` on an image model.

    Raises:
        WeightsError: It is for an image model of another shape, or a file is damaged.
    """
    folder = Path(directory)
    config, noted = read_json(folder / "config.json"), read_sidecar(folder)
    if config.get("conv_in_channels"):
        raise WeightsError(f"'{folder}' also replaces the first convolution (PIA), which is not supported.")
    options = AnimateDiffConfig(
        max_frames=config["motion_max_seq_length"],
        num_heads=same(config, "motion_num_attention_heads", 8),
        depth=same(config, "motion_transformer_layers_per_block", 1),
        norm_groups=config["motion_norm_num_groups"],
        middle=config["use_motion_mid_block"],
        motion_norm="clip",
    )
    plan = Plan.from_dict(noted["plan"]) if "plan" in noted else None
    return put_on(read_folder(folder), options, image, folder, "diffusers", plan, noted)


def load_motion_folder(directory: str | Path, image: ImageModel) -> LatentVideoModel:
    """Put a folder with `temporal.json`, `temporal.safetensors` and `kineograph.json` on an image model.

    Raises:
        WeightsError: It is for an image model of another shape, or a file is damaged.
    """
    folder = Path(directory)
    plan, noted = read_plan(folder / "temporal.json"), read_sidecar(folder)
    assert plan is not None
    network = VideoUNet(image.unet, plan)
    load_temporal_state_dict(network.unet, read_safetensors(folder / "temporal.safetensors"))
    return _model(network, image, noted.get("settings", {}).get("system", SYSTEM), folder, noted)


def options_of(tensors: Mapping[str, Tensor]) -> AnimateDiffConfig:
    """Return the version of a motion module in the authors' layout, read off its weights.

    Version 1 tells 24 frames apart and was trained with the image network's group norms over the clip; version 2 has a
    module in the middle block; later ones tell 32 frames apart.
    """
    tables = [value.shape[1] for key, value in tensors.items() if key.endswith("pos_encoder.pe")]
    frames = min(tables, default=32)
    blocks = [int(found[1]) for key in tensors if (found := re.search(r"transformer_blocks\.(\d+)\.", key))]
    return AnimateDiffConfig(
        max_frames=frames,
        depth=max(blocks, default=0) + 1,
        middle=any(key.startswith("mid_block.") for key in tensors),
        spatial_norm="clip" if frames < 32 else "frame",
    )


def put_on(
    tensors: Mapping[str, Tensor],
    options: AnimateDiffConfig,
    image: ImageModel,
    where: Path,
    layout: str,
    plan: Plan | None = None,
    noted: dict[str, Any] | None = None,
) -> LatentVideoModel:
    """Put motion modules in a foreign layout on an image model.

    Raises:
        WeightsError: They are for an image model of another shape.
    """
    check_shape(tensors, image, where)
    system = systems()[SYSTEM]
    network = VideoUNet(image.unet, plan) if plan is not None else system.build(options, image.unet)
    weights = key_map(system, network, layout).to_ours(tensors)
    load_temporal_state_dict(network.unet, weights)
    return _model(network, image, SYSTEM, where, noted or {})


def _model(network: VideoUNet, image: ImageModel, system: str, where: Path, noted: dict[str, Any]) -> LatentVideoModel:
    settings = settings_for(system, where.stem, image.scheduler, network.config, image.autoencoder.factor)
    scheduler = {**image.scheduler, **PROCESS, "trained_betas": None} if system == SYSTEM else image.scheduler
    changes = {"scheduler": scheduler, "licence": f"{settings.licence}; base: {image.licence}"}
    settings = noted_settings(settings, {"settings": {**changes, **noted.get("settings", {})}}, str(where))
    return LatentVideoModel(network.eval(), image.autoencoder, image.text, settings)


def module_widths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the channels of each level that a motion module was made for."""
    found: dict[int, int] = {}
    for key, value in tensors.items():
        if match := re.match(r"(?:module\.)?down_blocks\.(\d+)\.motion_modules\..*proj_in\.weight", key):
            found[int(match[1])] = value.shape[0]
    return tuple(found[level] for level in sorted(found))


def check_shape(tensors: Mapping[str, Tensor], image: ImageModel, where: Path) -> None:
    """Refuse motion modules for an image model of another shape, in words rather than keys.

    Raises:
        WeightsError: Names both shapes.
    """
    made, given = module_widths(tensors), tuple(image.unet.config["block_out_channels"])
    if made and made != given:
        raise WeightsError(
            f"The motion module '{where}' is made for {family(made)}, and the base '{image.name}' is {family(given)}. "
            "A motion module fits the image model it was trained on and what was finetuned from that."
        )


def family(widths: tuple[int, ...]) -> str:
    """Name a kind of image network by its widths."""
    known = {(320, 640, 1280, 1280): "Stable Diffusion 1 or 2", (320, 640, 1280): "Stable Diffusion XL"}
    words = f"an image network of {len(widths)} levels ({', '.join(map(str, widths))} channels)"
    return f"{known[widths]}, {words}" if widths in known else words
