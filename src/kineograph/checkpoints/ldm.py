"""Models in CompVis' latent diffusion layout: U-Net, autoencoder and text encoder in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.checkpoints.clip_text import find_tokenizer, text_encoder
from kineograph.checkpoints.image import ImageModel, licence_of
from kineograph.checkpoints.open_clip import text_to_ours, their_text_name
from kineograph.checkpoints.single_files import OPEN_TEXT, PREDICTION, TEXT, UNET, VAE, SingleFile, check_parts, part
from kineograph.errors import WeightsError
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.models.text import TextEncoder
from kineograph.models.weights import built, unfilled
from kineograph.systems.key_loading import check_named, mapped
from kineograph.systems.keys import KeyMap
from kineograph.systems.ldm_keys import ldm_places
from kineograph.systems.svd_keys import original_decoder_keys

SCALE = 0.18215
"""Factor of Stable Diffusion's latents (configs/stable-diffusion/v1-inference.yaml)."""
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's process (configs/stable-diffusion/v1-inference.yaml) with its release's DDIM."""
EPSILON_STEP = 875000
"""Training step at which Stable Diffusion 2 base was released; it predicts noise, what came after predicts v."""


XL_ENDS = (("label_emb.0.0.", "add_embedding.linear_1."), ("label_emb.0.2.", "add_embedding.linear_2."))
"""Where Stable Diffusion XL is told of pooled text and sizes."""


def unet_keys(image: Mapping[str, Any]) -> KeyMap:
    """Return the map between an image network in the latent diffusion layout and diffusers'."""
    pairs = (*ldm_places(image, temporal_modules=False).spatial(), *XL_ENDS)
    return KeyMap(pairs=pairs, rest="error", what="Stable Diffusion")


def unet_weights(file: SingleFile) -> dict[str, Tensor]:
    """Return the image network's weights of a single file in diffusers' names.

    Raises:
        WeightsError: Some have names that the layout does not know.
    """
    theirs = part(file.tensors, UNET)
    return mapped(theirs, unet_keys(shapes.ldm_levels(theirs)), str(file.path), UNET)


def unet_name(file: SingleFile) -> shapes.Named:
    """Return the function from a weight's name in diffusers' image network to its name in a single file."""
    keys = unet_keys(shapes.ldm_levels(part(file.tensors, UNET)))
    return lambda key: UNET + keys.their_name(key)


def fill_unet(unet: Any, weights: Mapping[str, Tensor], file: SingleFile) -> None:
    """Load an image network from the weights that `unet_weights` returned.

    Raises:
        WeightsError: One is missing, unknown or of another shape, said in the file's names.
    """
    check_named(weights, unet.state_dict(), str(file.path), unet_name(file))
    unet.load_state_dict(dict(weights))


def load_image_file(file: SingleFile) -> ImageModel:
    """Build an image model from a single file of Stable Diffusion 1 or 2.

    Raises:
        WeightsError: It is another model, a part is missing, or a weight is unknown or of another shape.
    """
    from diffusers import UNet2DConditionModel

    where = str(file.path)
    check_parts(file, (UNET, VAE, TEXT, OPEN_TEXT))
    weights = unet_weights(file)
    config = shapes.image_unet(weights, where, unet_name(file))
    second = config["use_linear_projection"]
    noted = file.metadata.get(PREDICTION)
    epsilon = not second or file.step == EPSILON_STEP or "base" in file.path.stem
    epsilon = epsilon if noted not in ("epsilon", "v") else noted == "epsilon"
    config["sample_size"] = 64 if epsilon else 96
    unet = unfilled(lambda: UNet2DConditionModel(**config))
    fill_unet(unet, weights, file)
    scheduler = {**SCHEDULER, "prediction_type": "epsilon" if epsilon else "v_prediction"}
    text = load_text(file)
    return ImageModel(unet.eval(), load_vae(file), text, scheduler, file.path.stem, licence_of(config, False))


def load_vae(file: SingleFile) -> FrameAutoencoder:
    """Build the autoencoder of a single file.

    Raises:
        WeightsError: The file has none, or a weight is unknown or of another shape.
    """
    return vae_of(part(file.tensors, VAE), str(file.path))


def vae_of(theirs: Mapping[str, Tensor], where: str, scale: float = SCALE) -> FrameAutoencoder:
    """Build an autoencoder from its weights in the latent diffusion layout.

    Raises:
        WeightsError: There are none, or one is unknown or of another shape.
    """
    from diffusers import AutoencoderKL

    if not theirs:
        raise WeightsError(f"'{where}' holds no autoencoder (no weight begins with '{VAE}').")
    kept = {key: value for key, value in theirs.items() if not key.startswith("loss.")}
    keys = vae_keys(kept)
    weights, named = keys.to_ours(kept), lambda key: VAE + keys.their_name(key)
    config = shapes.autoencoder(weights, where, named)
    vae = built(lambda: AutoencoderKL(**config, scaling_factor=scale), weights, where)
    check_named(weights, vae.state_dict(), where, named)
    vae.load_state_dict(weights)
    return FrameAutoencoder(vae).eval()


def vae_keys(theirs: Mapping[str, Tensor]) -> KeyMap:
    """Return the map between an autoencoder in the latent diffusion layout and diffusers'."""
    return original_decoder_keys(shapes.count(theirs, r"decoder\.up\.(\d+)\."))


def vae_keys_for(config: Mapping[str, Any]) -> KeyMap:
    """Return the same map for an autoencoder's configuration."""
    return original_decoder_keys(len(config["block_out_channels"]))


def load_text(file: SingleFile, tokenizer: str | Path | None = None) -> TextEncoder:
    """Build the text encoder of a single file: OpenAI's CLIP, or OpenCLIP without its last layer.

    Raises:
        WeightsError: The file has none, a weight does not fit, or the tokenizer is nowhere to be found.
    """
    first, second = part(file.tensors, TEXT), part(file.tensors, OPEN_TEXT)
    if not first and not second:
        raise WeightsError(f"'{file.path}' holds no text encoder (no weight begins with '{TEXT}' or '{OPEN_TEXT}').")
    words = find_tokenizer(file.path, tokenizer)
    if first:
        stem = "text_model." if any(key.startswith("text_model.") for key in first) else ""
        return text_encoder(first, "quick_gelu", words, str(file.path), lambda key: f"{TEXT}{stem}{key}")
    words.pad_token = words.convert_ids_to_tokens(0)  # open_clip's tokenizer fills up with zeros
    weights = text_to_ours(second, str(file.path), OPEN_TEXT)
    return text_encoder(weights, "gelu", words, str(file.path), lambda key: OPEN_TEXT + their_text_name(key))
