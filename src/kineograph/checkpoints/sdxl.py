"""Stable Diffusion XL in its authors' single file: network, autoencoder and two text encoders.

Podell et al. 2023, arXiv:2307.01952; names of Stability-AI/generative-models, configs/inference/sd_xl_base.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.checkpoints.clip_text import find_tokenizer, projected_text_encoder, text_encoder
from kineograph.checkpoints.image import ImageModel, licence_of
from kineograph.checkpoints.ldm import SCHEDULER as STABLE_DIFFUSION
from kineograph.checkpoints.ldm import fill_unet, unet_name, unet_weights, vae_of
from kineograph.checkpoints.open_clip import (
    UNUSED,
    projected_text_to_ours,
    projected_text_to_theirs,
    their_text_name,
)
from kineograph.checkpoints.single_files import UNET, VAE, SingleFile, check_parts, part
from kineograph.errors import WeightsError
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.weights import unfilled

CONDITIONER = "conditioner.embedders."
FIRST, SECOND = f"{CONDITIONER}0.", f"{CONDITIONER}1.model."
"""sgm's `FrozenCLIPEmbedder` and `FrozenOpenCLIPEmbedder2`."""
CLIP = f"{FIRST}transformer.text_model."
SCALE = 0.13025
"""Factor of the latents (configs/inference/sd_xl_base.yaml)."""
SIZES = 6
"""Numbers that tell of sizes; each has as many channels in the time embedding."""
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    **{name: STABLE_DIFFUSION[name] for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type")},
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""The process (sgm's `LegacyDDPMDiscretization`) with the sampler of the released folder."""


def is_xl(file: SingleFile) -> bool:
    """Say whether an image checkpoint is of Stable Diffusion XL's kind."""
    return any(key.startswith(CONDITIONER) for key in file.tensors)


def load_xl_file(file: SingleFile) -> ImageModel:
    """Build an image model from a single file of Stable Diffusion XL.

    Raises:
        WeightsError: It is another model, a part is missing, or a weight is unknown or of another shape.
    """
    from diffusers import UNet2DConditionModel

    where = str(file.path)
    if f"{SECOND}text_projection" not in file.tensors or f"{CLIP}final_layer_norm.weight" not in file.tensors:
        raise WeightsError(
            f"'{where}' lacks one of the two text encoders of Stable Diffusion XL's base model ('{CLIP}' and "
            f"'{SECOND}'): its refiner and other models with a conditioner are not read."
        )
    check_parts(file, (UNET, VAE, FIRST, SECOND))
    text = _text(file)
    weights = unet_weights(file)
    told = added(weights, text.towers[1].config.projection_dim, where)
    config = shapes.image_unet(weights, where, unet_name(file)) | told
    unet = unfilled(lambda: UNet2DConditionModel(**config, sample_size=128))
    fill_unet(unet, weights, file)
    vae = vae_of(part(file.tensors, VAE), where, SCALE)
    licence = licence_of(config, True)
    return ImageModel(unet.eval(), vae, text, dict(SCHEDULER), file.path.stem, licence)


def added(weights: Mapping[str, Tensor], pooled: int, where: str) -> dict[str, Any]:
    """Return the arguments of `UNet2DConditionModel` about pooled text and sizes, read off its weights.

    Args:
        weights: In diffusers' names.
        pooled: Channels of the pooled text.
        where: For the message.

    Raises:
        WeightsError: What is left for the sizes cannot be shared by them.
    """
    shapes.require_keys(weights, ("add_embedding.linear_1.weight",), where, lambda key: f"{UNET}label_emb.0.0.weight")
    channels = weights["add_embedding.linear_1.weight"].shape[1]
    if channels <= pooled or (channels - pooled) % SIZES:
        raise WeightsError(
            f"The network in '{where}' is told {channels} channels, of which {pooled} are text: the rest must be the "
            f"same number for each of {SIZES} sizes."
        )
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (channels - pooled) // SIZES,
        "projection_class_embeddings_input_dim": channels,
    }


def _text(file: SingleFile) -> TwoTextEncoders:
    where = str(file.path)
    own = part(file.tensors, FIRST)
    strange = [key for key in own if not key.startswith(CLIP.removeprefix(FIRST)) and not UNUSED.search(key)]
    if strange:
        raise WeightsError(f"'{where}' holds unknown weights of CLIP, such as {', '.join(strange[:3])}.")
    first = text_encoder(part(file.tensors, CLIP), "quick_gelu", find_tokenizer(file.path), where, CLIP.__add__)
    words = find_tokenizer(file.path)
    words.pad_token = words.convert_ids_to_tokens(0)  # open_clip's tokenizer fills up with zeros
    weights = projected_text_to_ours(part(file.tensors, SECOND), where, SECOND)
    second = projected_text_encoder(weights, words, where, lambda key: SECOND + their_text_name(key))
    return TwoTextEncoders(first, second)


def xl_text_tensors(text: TwoTextEncoders) -> dict[str, Tensor]:
    """Return both text encoders in the names of the authors' file."""
    first, second = (tower.state_dict() for tower in text.towers)
    theirs = {CLIP + key.removeprefix("text_model."): value for key, value in first.items()}
    return theirs | {SECOND + key: value for key, value in projected_text_to_theirs(second).items()}
