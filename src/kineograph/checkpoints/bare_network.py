"""The network of an image model alone, as training programs leave it: put into the model that it was trained from."""

from __future__ import annotations

from dataclasses import replace

from kineograph._notices import notice
from kineograph.checkpoints import shapes
from kineograph.checkpoints.image import ImageModel
from kineograph.checkpoints.ldm import unet_keys
from kineograph.checkpoints.single_files import UNET, SingleFile, part
from kineograph.errors import WeightsError
from kineograph.systems.key_loading import load_mapped
from kineograph.systems.keys import KeyMap

AS_THEY_ARE = KeyMap(pairs=(), what="diffusers")
"""The names of diffusers, which are ours."""


def load_bare_network(file: SingleFile, base: ImageModel) -> ImageModel:
    """Return the base with the file's network in place of its own.

    Raises:
        WeightsError: It is not the network of the base's kind.
    """
    theirs = part(file.tensors, UNET) or dict(file.tensors)
    ldm = any(key.startswith("input_blocks.") for key in theirs)
    keys = unet_keys(shapes.ldm_levels(theirs)) if ldm else AS_THEY_ARE
    prefix = UNET if len(theirs) < len(file.tensors) or any(key.startswith(UNET) for key in file.tensors) else ""
    load_mapped(base.unet, theirs, keys, str(file.path), prefix=prefix)
    notice(f"'{file.path}' is an image network without motion modules: with its base it makes single pictures.")
    return replace(base, name=file.path.stem)


def bare_refusal(file: SingleFile, role: str) -> WeightsError:
    """Return the error for the network of an image model that is given without what belongs to it.

    Args:
        file: The file.
        role: `"--model"` or `"--base"`: how it was given.
    """
    then = " Then give FOLDER as --base." if role == "--base" else ""
    return WeightsError(
        f"'{file.path}' holds the network of an image model alone, as AnimateDiff's train.py leaves it with "
        "image_finetune: no motion modules, no autoencoder, no text encoder. Put it into the model of Stable Diffusion "
        f"that it was trained from: kineograph convert {file.path} --base PATH -o FOLDER --to diffusers.{then}"
    )
