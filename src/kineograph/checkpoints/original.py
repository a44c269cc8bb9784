"""Video models in the files of their authors: ModelScopeT2V, VideoCrafter 1 and 2, LaVie, AnimateDiff's modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.checkpoints.image import ImageModel, both_licences
from kineograph.checkpoints.ldm import load_text, load_vae
from kineograph.checkpoints.motion import file_modules, is_two, put_on
from kineograph.checkpoints.motion_versions import refuse_preset
from kineograph.checkpoints.open_clip import image_to_theirs
from kineograph.checkpoints.pipelines import settings_for
from kineograph.checkpoints.single_files import OPEN_TEXT, TEXT, UNET, VAE, SingleFile, check_parts, part
from kineograph.checkpoints.svd import image_encoder
from kineograph.errors import WeightsError
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureTokens, PictureVideoModel, resampler_of
from kineograph.models.text import TextEncoder
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import unfilled
from kineograph.systems import systems
from kineograph.systems.key_loading import check_mapped, mapped
from kineograph.systems.lavie import FREQS
from kineograph.systems.resampler_keys import join_keys_values, resampler_keys, split_keys_values
from kineograph.systems.videocrafter import version_of
from kineograph.temporal.rotary import rotary_rates


def load_network(file: SingleFile) -> VideoUNet:
    """Build the network of a single file from its weights; its sizes are read off them.

    Raises:
        WeightsError: A weight is missing, unknown or of another shape.
    """
    from diffusers import UNet2DConditionModel

    system = systems()[file.kind.name]
    theirs = part(file.tensors, UNET) or dict(file.tensors)
    ldm = any(key.startswith("input_blocks.") for key in theirs)
    levels = shapes.ldm_levels(theirs) if ldm else _diffusers_levels(theirs, str(file.path))
    keys, where = system.key_maps["original"](levels), str(file.path)
    prefix = UNET if any(key.startswith(UNET) for key in file.tensors) else ""
    weights = mapped(theirs, keys, where, prefix)
    image = shapes.image_unet(weights, where, lambda key: prefix + keys.their_name(key))
    if "class_embedding.linear_1.weight" in weights:
        image["class_embed_type"] = "timestep"
    queries = file.tensors.get(f"{PICTURES}latents")
    options = _options(file.kind.name, weights, image, 0 if queries is None or queries.ndim != 3 else queries.shape[1])
    if file.kind.name == "lavie":
        options = replace(options, **file_rates(theirs, str(file.path)))
    network = unfilled(lambda: system.build(options, UNet2DConditionModel(**image)))
    check_mapped(weights, network.unet.state_dict(), keys, where, prefix)
    network.unet.load_state_dict(weights)
    return network.eval()


def _diffusers_levels(theirs: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    config = shapes.image_unet(theirs, where)
    return {name: config[name] for name in ("down_block_types", "up_block_types", "layers_per_block")}


def file_rates(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Return the settings of LaVie's rotary position code that a file's own rates mean; none for the usual ones.

    Raises:
        WeightsError: The attentions have several sets of rates.
    """
    tables = [value.float() for key, value in tensors.items() if key.endswith(FREQS)]
    if not tables:
        return {}
    if any(table.ndim != 1 or not torch.equal(table, tables[0]) for table in tables):
        raise WeightsError(
            f"'{where}' has attentions with several rates of rotation ('{FREQS}'); only one set is known."
        )
    usual = rotary_rates(2 * len(tables[0]), tables[0])
    own = {} if torch.equal(tables[0], usual) else {"rates": tuple(tables[0].tolist())}
    return {"rotary": 2 * len(tables[0]), **own}


def _options(name: str, weights: Mapping[str, Tensor], image: Mapping[str, Any], picture_tokens: int) -> Any:
    """Return a system's configuration, read off its weights in our names."""
    config = systems()[name].config
    if name == "lavie":
        return config(num_heads=image["attention_head_dim"])
    entry = weights.get("conv_in.temporal.blocks.0.attend1.query.weight")
    tables = [value for key, value in weights.items() if key.endswith("attend1.relative.keys")]
    head_dim = tables[0].shape[1] if tables else shapes.HEAD_WIDTH
    options: dict[str, Any] = {"head_dim": head_dim, "input_heads": 0 if entry is None else entry.shape[0] // head_dim}
    if name == "videocrafter":
        options["relative"] = (tables[0].shape[0] - 1) // 2 if tables else None
        options["convolutions"] = any("resnets.0.temporal." in key for key in weights)
        options["picture_tokens"] = picture_tokens
    return config(**options)


SCALES = "scale_arr"
"""Where VideoCrafter's files keep the factors of the data at all timesteps."""


def data_scale(file: SingleFile, preset: str) -> tuple[float, int] | None:
    """Return how VideoCrafter's process makes the data weaker: as the file notes it, else as its network was published.

    Args:
        file: The file.
        preset: Which network it is.

    Raises:
        WeightsError: The factors do not fall evenly from 1 to the last.
    """
    if SCALES not in file.tensors:
        process, _ = systems()["videocrafter"].settled(preset)
        return process.data_scale
    table = file.tensors[SCALES].double().flatten()
    least = float(table[-1]) if len(table) else 0.0
    length = int((table > least).sum()) + 1
    wanted = torch.cat([torch.linspace(1, least, length, dtype=torch.float64), table[length:].new_full((1,), least)])
    if not 0 < least <= 1 or not torch.allclose(table[:length], wanted[:length], atol=1e-3):
        raise WeightsError(
            f"'{file.path}' scales its data by a table '{SCALES}' that does not fall evenly from 1, as the published "
            "ones do."
        )
    return None if least == 1 else (round(least, 3), length)


PICTURES, EMBEDDER = "image_proj_model.", "embedder.model."
"""VideoCrafter1's resampler of pictures and the image encoder before it (`LatentVisualDiffusion`)."""


def load_picture_file(file: SingleFile) -> PictureVideoModel:
    """Build VideoCrafter1's image-to-video model from its single file.

    Raises:
        WeightsError: A part is missing or does not fit.
    """
    parts = load_original(file, None)
    theirs = split_keys_values(part(file.tensors, PICTURES))
    resampler = resampler_of(resampler_keys().to_ours(theirs), str(file.path))
    return PictureVideoModel(parts, PictureTokens(image_encoder(file, EMBEDDER), resampler))


def picture_tensors(model: PictureVideoModel) -> dict[str, Tensor]:
    """Return the weights that read pictures in the names of VideoCrafter1's file."""
    resampler = join_keys_values(resampler_keys().to_theirs(model.pictures.resampler.state_dict()))
    tower = image_to_theirs(model.pictures.encoder.model.state_dict())
    return {
        **{PICTURES + key: value for key, value in resampler.items()},
        **{f"{EMBEDDER}visual.{key}": value for key, value in tower.items()},
    }


def is_picture_file(file: SingleFile) -> bool:
    """Say whether a file is an image-to-video model of VideoCrafter's kind."""
    return any(key.startswith(PICTURES) for key in file.tensors)


def load_original(file: SingleFile, base: ImageModel | None, preset: str = "") -> LatentVideoModel:
    """Build a model from a single file.

    Args:
        file: The file.
        base: The image model, for a file that holds only the network or only motion modules.
        preset: The version of motion modules, where their file does not say it.

    Raises:
        WeightsError: A part is missing or does not fit.
    """
    name = file.kind.name
    if base is not None and name == "motion_module":
        return put_on(file_modules(file.path, file.tensors, preset, is_two(base)), base)
    refuse_preset(file.path, preset)
    if base is None:
        check_parts(file, (UNET, VAE, TEXT, OPEN_TEXT, PICTURES, EMBEDDER))
    network, system = load_network(file), systems()[name]
    vae, text = _of_base(file, base, network) if base else (load_vae(file), load_text(file))
    preset = published_version(name, network)
    settings = settings_for(name, file.path.stem, system.scheduler(preset), _unsized(network), vae.factor, preset)
    settings = replace(settings, eta=system.sampling.eta)
    if name == "videocrafter":
        settings = replace(settings, data_scale=data_scale(file, preset))
    if base is not None:
        settings = replace(settings, licence=both_licences(settings.licence, base.licence))
    return LatentVideoModel(network, vae, text, settings)


def published_version(system: str, network: VideoUNet) -> str:
    """Return the preset that a system's network is, where their authors sample them differently; else nothing."""
    if system != "videocrafter":
        return ""
    assert network.plan is not None
    layers = {placement.layer: placement for placement in network.plan.placements}
    picture = layers.get("picture_attention")
    told = network.config.get("class_embed_type") == "timestep"
    return version_of(told, "temporal_convolution" in layers, picture.options["tokens"] if picture else 0)


def _unsized(network: VideoUNet) -> dict[str, Any]:
    """Return the image network's configuration without its size, which files of weights do not tell."""
    return {**network.config, "sample_size": None}


def _of_base(
    file: SingleFile, base: ImageModel, network: VideoUNet
) -> tuple[FrameAutoencoder, TextEncoder | TwoTextEncoders]:
    """Return the autoencoder and the text encoder of the base.

    Raises:
        WeightsError: Its text encoder is of another width.
    """
    wanted = network.config["cross_attention_dim"]
    if base.text.dim != wanted:
        raise WeightsError(
            f"'{file.path}' ({file.kind.title}) attends to {wanted} channels of text, and the text encoder of the base "
            f"'{base.name}' has {base.text.dim}. "
            + ("It was made for Stable Diffusion 2's." if wanted == 1024 else "Take the base that it was trained on.")
        )
    return base.autoencoder, base.text


def needs_base(file: SingleFile) -> bool:
    """Say whether a file lacks an autoencoder and a text encoder."""
    return not any(key.startswith(VAE) for key in file.tensors)
