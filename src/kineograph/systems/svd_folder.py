"""Stable Video Diffusion on disk: the folder that diffusers' `StableVideoDiffusionPipeline` reads and writes.

    model_index.json  unet/  vae/  image_encoder/  feature_extractor/  scheduler/

What diffusers has no place for (trained size, defaults, licence) stands in `kineograph.json` beside the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from kineograph.errors import WeightsError, unknown
from kineograph.models.autoencoder import FrameAutoencoder, load_autoencoder, save_autoencoder
from kineograph.models.config_fields import check_fields
from kineograph.models.image_encoder import load_image_encoder, save_image_encoder
from kineograph.models.image_to_video import ImageToVideoModel, ImageToVideoSettings
from kineograph.models.temporal_autoencoder import CLASS, FIELDS, TemporalAutoencoder, temporal_autoencoder
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import read_folder, read_json, write_json, write_safetensors
from kineograph.models.whole_folder import whole_folder
from kineograph.systems.key_loading import load_mapped
from kineograph.systems.stable_video_diffusion import SYSTEM, SVDConfig
from kineograph.systems.svd_keys import decoder_keys, diffusers_keys

PIPELINE = "StableVideoDiffusionPipeline"
IMAGE_CLASS = "AutoencoderKL"
"""An autoencoder without time; diffusers' pipeline takes it too."""
NETWORK = "UNetSpatioTemporalConditionModel"
SETTINGS_NAME = "kineograph.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
NETWORK_DEFAULTS = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": (5, 10, 20, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "num_frames": 25,
    "down_block_types": (*("CrossAttnDownBlockSpatioTemporal",) * 3, "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", *("CrossAttnUpBlockSpatioTemporal",) * 3),
}
"""What diffusers takes for fields that a configuration leaves out."""


def load_stable_video_diffusion(
    directory: str | Path, *, norms: Literal["original", "diffusers"] = "original"
) -> ImageToVideoModel:
    """Load a Stable Video Diffusion folder, in float32 and evaluation mode.

    Args:
        directory: Folder with `model_index.json`, of diffusers or of `save_stable_video_diffusion`.
        norms: The epsilon of 72 ResNet norms: 1e-5 as the weights were trained with, or 1e-6 as diffusers runs them.

    Returns:
        The model.

    Raises:
        WeightsError: A file is missing, a key or shape does not fit, a value is not finite, or a field of a
            configuration cannot be honoured.
    """
    folder = Path(directory)
    if norms not in ("original", "diffusers"):
        raise unknown("norms", norms, ("original", "diffusers"))
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != PIPELINE:
        raise WeightsError(f"'{folder}' holds a {index.get('_class_name')}, not a {PIPELINE}.")
    config = NETWORK_DEFAULTS | read_json(folder / "unet" / "config.json")
    network = load_network(folder / "unet", norms)
    autoencoder = load_decoder(folder / "vae")
    encoder = load_image_encoder(folder / "image_encoder", folder / "feature_extractor")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    settings = _settings(folder, config, autoencoder, scheduler)
    return ImageToVideoModel(network, autoencoder, encoder, settings)


def load_network(directory: str | Path, norms: Literal["original", "diffusers"] = "original") -> VideoUNet:
    """Load diffusers' `UNetSpatioTemporalConditionModel` folder into our network. See `load_stable_video_diffusion`."""
    folder = Path(directory)
    given = read_json(folder / "config.json")
    check_fields(given, NETWORK, folder)
    config = NETWORK_DEFAULTS | given
    with torch.device("meta"):
        network = SYSTEM.build(network_config(config))
    network.to_empty(device="cpu")
    load_mapped(network.unet, read_folder(folder), diffusers_keys(network.config), str(folder))
    if norms == "diffusers":
        use_diffusers_epsilons(network)
    return network.eval()


def load_decoder(directory: str | Path) -> FrameAutoencoder:
    """Load diffusers' `AutoencoderKLTemporalDecoder` folder, or an image autoencoder's, which knows no time.

    See `load_stable_video_diffusion`.
    """
    folder = Path(directory)
    config = read_json(folder / "config.json")
    if config.get("_class_name") == IMAGE_CLASS:
        return load_autoencoder(folder)
    check_fields(config, CLASS, folder)
    autoencoder = temporal_autoencoder(config)
    load_mapped(autoencoder.vae, read_folder(folder), decoder_keys(), str(folder))
    return autoencoder.eval()


def network_config(config: Mapping[str, Any]) -> SVDConfig:
    """Translate the configuration of diffusers' `UNetSpatioTemporalConditionModel`.

    Raises:
        WeightsError: Several transformer blocks per attention, or heads or contexts of several widths.
    """
    config = NETWORK_DEFAULTS | dict(config)
    channels, heads = config["block_out_channels"], config["num_attention_heads"]
    heads = [heads] * len(channels) if isinstance(heads, int) else list(heads)
    depth = config.get("transformer_layers_per_block", 1)
    if set([depth] if isinstance(depth, int) else depth) != {1}:
        raise WeightsError(
            f"{NETWORK} with transformer_layers_per_block={depth} is not built in; published ones have 1."
        )
    context = config["cross_attention_dim"]
    contexts = {context} if isinstance(context, int) else set(context)
    if len(contexts) != 1:
        raise WeightsError(f"{NETWORK} with cross_attention_dim={context} is not built in; published ones have 1024.")
    widths = {width // number for width, number in zip(channels, heads, strict=True)}
    if len(widths) != 1:
        raise WeightsError(
            f"{NETWORK} with heads of {sorted(widths)} channels is not built in; published ones have 64."
        )
    kept = ("in_channels", "out_channels", "layers_per_block", "projection_class_embeddings_input_dim")
    image = {name: config[name] for name in kept} | {
        "block_out_channels": tuple(channels),
        "cross_attention_dim": contexts.pop(),
        "attention_head_dim": tuple(heads),
        "sample_size": config.get("sample_size"),
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "down_block_types": tuple(_plain(kind) for kind in config["down_block_types"]),
        "up_block_types": tuple(_plain(kind) for kind in config["up_block_types"]),
    }
    return SVDConfig(image=image, head_dim=widths.pop(), num_frames=config["num_frames"])


def _plain(kind: str) -> str:
    return kind.replace("BlockSpatioTemporal", "Block2D")


def use_diffusers_epsilons(network: VideoUNet) -> VideoUNet:
    """Give the norms of ResNet blocks diffusers' epsilon, 1e-6 in all blocks up and those with attention down."""
    for block in [*network.unet.down_blocks, *network.unet.up_blocks]:
        if getattr(block, "has_cross_attention", False) or block in network.unet.up_blocks:
            for resnet in block.resnets:
                for norm in (module for module in resnet.modules() if isinstance(module, nn.GroupNorm)):
                    norm.eps = 1e-6
    return network


# --- Writing --------------------------------------------------------------------------------------------------------


def save_stable_video_diffusion(
    model: ImageToVideoModel, directory: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write a model as a folder that diffusers' `StableVideoDiffusionPipeline` loads, whole or not at all.

    Args:
        model: What to write.
        directory: Folder, made where it is missing.
        dtype: Type of the stored weights; None keeps theirs.
    """
    with whole_folder(directory) as folder:
        _write(model, folder, dtype)


def _write(model: ImageToVideoModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the parts into an empty folder."""
    _write_network(model, folder / "unet", dtype)
    kind = _write_autoencoder(model.autoencoder, folder / "vae", dtype)
    save_image_encoder(model.image_encoder, folder / "image_encoder", folder / "feature_extractor", dtype)
    write_json(model.settings.scheduler, folder / "scheduler" / "scheduler_config.json", sort_keys=True)
    ours = {name: value for name, value in asdict(model.settings).items() if name != "scheduler"}
    write_json(ours, folder / SETTINGS_NAME, sort_keys=True)
    index = {
        "_class_name": PIPELINE,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", type(model.image_encoder.model).__name__],
        "scheduler": ["diffusers", model.settings.scheduler["_class_name"]],
        "unet": ["diffusers", NETWORK],
        "vae": ["diffusers", kind],
    }
    write_json(index, folder / "model_index.json", sort_keys=True)


def _write_autoencoder(autoencoder: FrameAutoencoder, folder: Path, dtype: torch.dtype | None) -> str:
    """Write an autoencoder and return its class in diffusers."""
    if not isinstance(autoencoder, TemporalAutoencoder):
        save_autoencoder(autoencoder, folder, dtype)
        return IMAGE_CLASS
    tensors, vae = decoder_keys().to_theirs(autoencoder.vae.state_dict()), autoencoder.vae.config
    shared = (*FIELDS, "latent_channels", "sample_size", "scaling_factor", "force_upcast")
    _write_part(folder, tensors, {"_class_name": CLASS, **{name: vae[name] for name in shared}}, dtype)
    return CLASS


def _write_network(model: ImageToVideoModel, folder: Path, dtype: torch.dtype | None) -> None:
    image = model.network.config
    kept = ("in_channels", "out_channels", "layers_per_block", "cross_attention_dim", "sample_size")
    config = {
        "_class_name": NETWORK,
        **{name: image[name] for name in kept},
        "block_out_channels": image["block_out_channels"],
        "projection_class_embeddings_input_dim": image["projection_class_embeddings_input_dim"],
        "num_attention_heads": image["attention_head_dim"],
        "addition_time_embed_dim": model.settings.wave_channels,
        "num_frames": model.settings.num_frames,
        "transformer_layers_per_block": 1,
        "down_block_types": [kind.replace("Block2D", "BlockSpatioTemporal") for kind in image["down_block_types"]],
        "up_block_types": [kind.replace("Block2D", "BlockSpatioTemporal") for kind in image["up_block_types"]],
    }
    _write_part(folder, diffusers_keys(image).to_theirs(model.network.unet.state_dict()), config, dtype)


def _write_part(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], dtype: torch.dtype | None
) -> None:
    typed = {key: t.to(dtype) if dtype and t.is_floating_point() else t for key, t in tensors.items()}
    write_safetensors(typed, folder / WEIGHTS_NAME, {"format": "pt"})
    write_json(config, folder / "config.json", sort_keys=True)


# --- Reading --------------------------------------------------------------------------------------------------------


def _settings(
    folder: Path, config: Mapping[str, Any], autoencoder: FrameAutoencoder, scheduler: dict[str, Any]
) -> ImageToVideoSettings:
    """Return how a model wants to be used; a folder of diffusers as its pipeline samples it without arguments.

    That is 25 steps and guidance from 1 to 3, which differs from the authors' own (`SYSTEM.settled`).
    """
    if (folder / SETTINGS_NAME).is_file():
        ours = read_json(folder / SETTINGS_NAME)
        allowed = {f.name for f in fields(ImageToVideoSettings)}
        for name in ours:
            if name not in allowed:
                raise unknown(f"setting in {SETTINGS_NAME}", name, allowed, WeightsError)
        return replace(ImageToVideoSettings(), **ours, scheduler=scheduler)
    wide = tuple(config["block_out_channels"]) == NETWORK_DEFAULTS["block_out_channels"]
    edge = (config.get("sample_size") or 96) * autoencoder.factor
    return ImageToVideoSettings(
        name=folder.name,
        height=576 if wide else edge,
        width=1024 if wide else edge,
        num_frames=config["num_frames"],
        wave_channels=config["addition_time_embed_dim"],
        licence=SYSTEM.card.weights_license if wide else "",
        scheduler=scheduler,
    )
