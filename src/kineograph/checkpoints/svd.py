"""Stable Video Diffusion in its authors' single file: network, autoencoder and CLIP's image encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph._notices import notice
from kineograph.checkpoints import shapes
from kineograph.checkpoints.ldm import SCALE, vae_keys_for, vae_of
from kineograph.checkpoints.open_clip import image_to_ours, image_to_theirs, their_image_name
from kineograph.checkpoints.single_files import PRESET, UNET, VAE, SingleFile, check_parts, part
from kineograph.errors import WeightsError, unknown
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.models.image_encoder import ImageEncoder
from kineograph.models.image_to_video import ImageToVideoModel, ImageToVideoSettings
from kineograph.models.temporal_autoencoder import TemporalAutoencoder, temporal_autoencoder
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import unfilled
from kineograph.systems.image_networks import of_published_size
from kineograph.systems.key_loading import check_named, mapped
from kineograph.systems.stable_video_diffusion import SYSTEM, SVDConfig
from kineograph.systems.svd_keys import original_decoder_keys, original_keys

CLIP = "conditioner.embedders.0.open_clip.model."
"""sgm's `FrozenOpenCLIPImageEmbedder`; beside the image tower it holds what is left of the text tower."""
PICTURE = "conditioner.embedders.3.encoder."
"""sgm's encoder of the conditioning frames, an image autoencoder of which the encoder is used."""
PRESETS = ("published", "xt")
"""What a file of the authors can be; their other presets take other inputs or were not released."""
UNUSED_CLIP = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.", "ln_final.", "attn_mask")


def load_svd_file(file: SingleFile, preset: str = "") -> ImageToVideoModel:
    """Build a model from the authors' single file.

    The file does not say how many frames it was trained at, and so how its authors sample it.

    Args:
        file: The file.
        preset: `"published"` (14 frames) or `"xt"` (25); empty: told from the header of files that were written here,
            else from the file's name, which is said on stderr.

    Raises:
        WeightsError: A part is missing, a weight is unknown or of another shape, or there is no such preset.
    """
    check_parts(file, (UNET, VAE, CLIP, PICTURE))
    if preset and preset not in PRESETS:
        raise unknown(f"--preset for '{file.path}'", preset, PRESETS, WeightsError)
    preset = preset or file.metadata.get(PRESET, "")
    _, sampling = SYSTEM.settled(preset if preset in PRESETS else guessed_preset(file.path))
    network = _network(file, sampling.frames)
    settings = ImageToVideoSettings(
        name=file.path.stem,
        height=sampling.height,
        width=sampling.width,
        num_frames=sampling.frames,
        fps=sampling.fps,
        num_inference_steps=sampling.steps,
        min_guidance_scale=sampling.guidance if sampling.first_guidance is None else sampling.first_guidance,
        max_guidance_scale=sampling.guidance,
        wave_channels=network.config["projection_class_embeddings_input_dim"] // 3,
        licence=SYSTEM.card.weights_license if of_published_size(network.config) else "",
        scheduler=SYSTEM.scheduler(),
    )
    return ImageToVideoModel(network, _autoencoder(file), image_encoder(file, CLIP), settings)


def preset_of(model: ImageToVideoModel) -> str:
    """Return the preset whose number of frames a model has; empty where it is of none."""
    frames = {SYSTEM.settled(name)[1].frames: name for name in PRESETS}
    return frames.get(model.settings.num_frames, "")


def guessed_preset(path: Path) -> str:
    """Tell the preset from a file's name, by the word `xt` as in the authors' `svd_xt`, and say so on stderr."""
    words = re.split(r"[^a-z0-9]+", path.stem.lower())
    preset = "xt" if any(re.fullmatch("(svd|img2vid)?xt", word) for word in words) else "published"
    _, sampling = SYSTEM.settled(preset)
    notice(
        f"'{path}' does not say which Stable Video Diffusion it is; its name is taken to mean {preset!r}: "
        f"{sampling.frames} frames, guidance {sampling.first_guidance} to {sampling.guidance}. "
        f"To say it: {' or '.join(f'--preset {name}' for name in PRESETS)}."
    )
    return preset


def _network(file: SingleFile, num_frames: int) -> VideoUNet:
    theirs, where = part(file.tensors, UNET), str(file.path)
    keys = original_keys(shapes.ldm_levels(theirs))
    weights, named = mapped(theirs, keys, where, UNET), lambda key: UNET + keys.their_name(key)
    shapes.require_keys(weights, ("class_embedding.linear_1.weight",), where, named)
    spatial = {key: value for key, value in weights.items() if ".temporal." not in key}
    image = shapes.image_unet(spatial, where, named)
    image["class_embed_type"] = "projection"
    image["projection_class_embeddings_input_dim"] = weights["class_embedding.linear_1.weight"].shape[1]
    image["sample_size"] = 96
    network = unfilled(lambda: SYSTEM.build(SVDConfig(image=image, head_dim=shapes.HEAD_WIDTH, num_frames=num_frames)))
    check_named(weights, network.unet.state_dict(), where, named)
    network.unet.load_state_dict(weights)
    return network.eval()


def _autoencoder(file: SingleFile) -> FrameAutoencoder:
    """Build the autoencoder: the decoder, and the encoder that the conditioning picture goes through.

    Files whose name says `image_decoder` hold the decoder of an image autoencoder, which knows no time.
    """
    theirs, where = part(file.tensors, VAE), str(file.path)
    if not any(".time_" in key for key in theirs):
        return _image_autoencoder(file)
    picture = part(file.tensors, PICTURE)
    kept = {key: value for key, value in theirs.items() if key.startswith("decoder.")}
    source = picture or theirs
    kept |= {key: value for key, value in source.items() if key.startswith(("encoder.", "quant_conv."))}
    levels = shapes.count(kept, r"decoder\.up\.(\d+)\.")
    keys = original_decoder_keys(levels)
    weights, named = keys.to_ours(kept), lambda key: VAE + keys.their_name(key)
    if "quant_conv.weight" not in weights:
        weights |= _identity_quant(weights, where)
    spatial = {key: value for key, value in weights.items() if ".temporal." not in key}
    config = shapes.autoencoder(spatial, where, named)
    fields = ("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block")
    kinds = {"down_block_types": config["down_block_types"], "scaling_factor": SCALE, "sample_size": 768}
    autoencoder = temporal_autoencoder({**{name: config[name] for name in fields}, **kinds})
    check_named(weights, autoencoder.vae.state_dict(), where, named)
    autoencoder.vae.load_state_dict(weights)
    return autoencoder.eval()


def _image_autoencoder(file: SingleFile) -> FrameAutoencoder:
    """Build an image autoencoder, with the encoder that the conditioning picture goes through."""
    theirs, picture = part(file.tensors, VAE), part(file.tensors, PICTURE)
    encoder = {key: value for key, value in picture.items() if key.startswith(("encoder.", "quant_conv."))}
    return vae_of(theirs | encoder, str(file.path))


def _identity_quant(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the layer after the encoder that does nothing, for files that have none."""
    shapes.require_keys(weights, ("encoder.conv_out.bias",), where)
    channels = weights["encoder.conv_out.bias"].shape[0]
    return {"quant_conv.weight": torch.eye(channels)[:, :, None, None], "quant_conv.bias": torch.zeros(channels)}


def image_encoder(file: SingleFile, prefix: str) -> ImageEncoder:
    """Build OpenCLIP's image encoder from a single file.

    Args:
        file: The file.
        prefix: What its weights' names begin with; what is left of the text tower may stand there too.

    Raises:
        WeightsError: There is none, or a weight is unknown or of another shape.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    where, tower = str(file.path), part(file.tensors, f"{prefix}visual.")
    if not tower:
        raise WeightsError(f"'{where}' holds no image encoder (no weight begins with '{prefix}visual.').")
    others = [key for key in part(file.tensors, prefix) if not key.startswith(("visual.", *UNUSED_CLIP))]
    if others:
        raise WeightsError(f"'{where}' holds unknown weights of CLIP, such as {', '.join(others[:3])}.")
    weights = image_to_ours(tower, where, f"{prefix}visual.")
    named = lambda key: f"{prefix}visual.{their_image_name(key)}"
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**shapes.clip_image(weights, where, named)))
    check_named(weights, model.state_dict(), where, named)
    model.load_state_dict(weights)
    return ImageEncoder(model)


def svd_tensors(model: ImageToVideoModel) -> dict[str, Tensor]:
    """Return a model's weights in the authors' single file; the inverse of `load_svd_file`.

    The first stage's own encoder, which the authors use in training only, is the picture's with the layer after it
    multiplied in.
    """
    vae = model.autoencoder.vae
    theirs = vae_keys_for(vae.config).to_theirs(vae.state_dict())
    picture = {key: value.clone() for key, value in theirs.items() if key.startswith(("encoder.", "quant_conv."))}
    first = _folded(theirs) if isinstance(model.autoencoder, TemporalAutoencoder) else theirs
    return {
        **_under(UNET, original_keys(model.network.config).to_theirs(model.network.unet.state_dict())),
        **_under(VAE, first),
        **_under(PICTURE, picture),
        **_under(f"{CLIP}visual.", image_to_theirs(model.image_encoder.model.state_dict())),
    }


def _folded(encoder: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return an autoencoder with the layer after its encoder multiplied into the encoder's last convolution."""
    after, bias = encoder["quant_conv.weight"].flatten(1), encoder["quant_conv.bias"]
    weight = torch.einsum("o i, i c h w -> o c h w", after, encoder["encoder.conv_out.weight"])
    kept = {key: value for key, value in encoder.items() if not key.startswith("quant_conv.")}
    bias = after @ encoder["encoder.conv_out.bias"] + bias
    return kept | {"encoder.conv_out.weight": weight, "encoder.conv_out.bias": bias}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}
