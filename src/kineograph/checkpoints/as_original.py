"""Models in the names of their authors' files, in memory: what a conversion to `original` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from kineograph.checkpoints.ldm import unet_keys, vae_keys_for
from kineograph.checkpoints.motion import SYSTEM
from kineograph.checkpoints.networks import key_map
from kineograph.checkpoints.open_clip import text_to_theirs
from kineograph.checkpoints.original import SCALES, picture_tensors
from kineograph.checkpoints.sdxl import xl_text_tensors
from kineograph.checkpoints.single_files import OPEN_TEXT, PREDICTION, PRESET, TEXT, UNET, VAE
from kineograph.checkpoints.svd import preset_of, svd_tensors
from kineograph.errors import WeightsError
from kineograph.models.image_to_video import ImageToVideoModel
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureVideoModel
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.video_unet import VideoUNet
from kineograph.systems import systems
from kineograph.systems.videocrafter import scale_table
from kineograph.temporal.inflate import temporal_state_dict

WHOLE = ("image", "videocrafter")
"""Systems whose original files hold autoencoder and text encoder too."""


@dataclass(frozen=True)
class Original:
    """The content of a file of the authors.

    Attributes:
        tensors: The weights in their names.
        what: In words.
        notes: What is not part of it.
        metadata: Texts for the header.
    """

    tensors: Mapping[str, Tensor]
    what: str
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def original_of(model: LatentVideoModel | PictureVideoModel | ImageToVideoModel) -> Original:
    """Return what a model's authors would have in their file.

    Raises:
        WeightsError: The authors' layout is unknown or cannot hold a weight.
    """
    if isinstance(model, ImageToVideoModel):
        noted = {PRESET: preset} if (preset := preset_of(model)) else {}
        return Original(svd_tensors(model), "Stable Video Diffusion in its authors' layout", metadata=noted)
    if isinstance(model, PictureVideoModel):
        tensors = _whole_tensors(model.parts) | picture_tensors(model)
        return Original(tensors, "VideoCrafter's image-to-video checkpoint in its authors' layout")
    name, network = model.settings.system, model.network
    if name == SYSTEM:
        return original_modules(network, temporal_state_dict(network.unet))
    if name != "image" and "original" not in systems()[name].key_maps:
        raise WeightsError(f"The authors of {name} published no layout that is known here.")
    if name in WHOLE:
        predicts = {"epsilon": "epsilon", "v_prediction": "v"}.get(model.settings.scheduler.get("prediction_type", ""))
        noted = {PREDICTION: predicts} if predicts and name == "image" else {}
        return Original(_whole_tensors(model), "a checkpoint in the latent diffusion layout", metadata=noted)
    tensors = key_map(systems()[name], network, "original").to_theirs(network.unet.state_dict())
    return Original(tensors, f"the network of {name}", ("autoencoder and text encoder are not part of it",))


def original_modules(network: VideoUNet, weights: Mapping[str, Tensor]) -> Original:
    """Return motion modules, given in our names, in AnimateDiff's.

    Raises:
        WeightsError: The temporal layers are not motion modules.
    """
    tensors = foreign_modules(network, weights, "original")
    return Original(tensors, "motion modules in AnimateDiff's own layout", _left_out(network))


def foreign_modules(network: VideoUNet, weights: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Return motion modules in a foreign layout.

    Raises:
        WeightsError: The temporal layers are not motion modules.
    """
    assert network.plan is not None
    if [(p.at, p.layer) for p in network.plan.placements] != [("pair", "temporal_transformer")]:
        raise WeightsError(
            "These temporal layers are no motion modules, so neither AnimateDiff's nor diffusers' files can hold them "
            "alone. Keep them in this library's own layout, --to kineograph."
        )
    return key_map(systems()[SYSTEM], network, layout).to_theirs(weights)


def _left_out(network: VideoUNet) -> tuple[str, ...]:
    """Say what of a plan the authors' files have no place for."""
    assert network.plan is not None
    over = network.plan.placements[0].options["norm_over"]
    return (
        () if over == "frame" else ("norms over the clip are not noted in this layout; it stands for norms per frame",)
    )


def _whole_tensors(model: LatentVideoModel) -> dict[str, Tensor]:
    """Return network, autoencoder and text encoder in the latent diffusion layout."""
    name, network, scale = model.settings.system, model.network, model.settings.data_scale
    keys = unet_keys(network.config) if name == "image" else key_map(systems()[name], network, "original")
    tensors = _under(UNET, keys.to_theirs(network.unet.state_dict())) | _under(VAE, _ldm_vae(model)) | _ldm_text(model)
    if scale is None:
        return tensors
    assert network.plan is not None
    convolutions = any(p.layer == "temporal_convolution" for p in network.plan.placements)
    return tensors | {SCALES: scale_table(scale, convolutions)}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def _ldm_vae(model: LatentVideoModel) -> dict[str, Tensor]:
    return vae_keys_for(model.autoencoder.vae.config).to_theirs(model.autoencoder.vae.state_dict())


def _ldm_text(model: LatentVideoModel) -> dict[str, Tensor]:
    """Return the text encoder as files of Stable Diffusion 1 (OpenAI's CLIP), 2 (OpenCLIP) or XL (both) hold it."""
    if isinstance(model.text, TwoTextEncoders):
        return xl_text_tensors(model.text)
    weights = clip_weights(model.text.towers[0])
    if model.text.towers[0].config.hidden_act == "quick_gelu":
        return _under(f"{TEXT}text_model.", weights)
    return _under(OPEN_TEXT, text_to_theirs(weights))


def clip_weights(tower: Any) -> dict[str, Tensor]:
    """Return a CLIP text encoder's weights without `text_model.`, which versions of transformers differ in."""
    return {key.removeprefix("text_model."): value for key, value in tower.state_dict().items()}
