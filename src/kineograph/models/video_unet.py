"""A video network: an image network of diffusers with a time axis, called on clips.

On disk it is the image network in diffusers' own layout, with time beside it:

    unet/config.json, unet/diffusion_pytorch_model.safetensors    loads in diffusers as the image model
    temporal.json, temporal.safetensors                           the plan and the temporal weights
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from einops import rearrange
from torch import Tensor, nn

from kineograph.errors import InputError, WeightsError, unknown
from kineograph.models.products import products_in_float32
from kineograph.models.weights import (
    WEIGHTS,
    built,
    read_folder,
    read_json,
    read_safetensors,
    unfilled,
    write_json,
    write_safetensors,
)
from kineograph.models.whole_folder import whole_folder
from kineograph.temporal.frames import Clip, additive_mask, clip_of
from kineograph.temporal.inflate import (
    inflate,
    load_checked,
    spatial_state_dict,
    temporal_state_dict,
)
from kineograph.temporal.plan import Plan
from kineograph.temporal.rows import work_by_rows

FORMAT = "kineograph.temporal/1"
UNETS = ("UNet2DConditionModel", "UNet2DModel")
TRANSFORMERS = ("PixArtTransformer2DModel", "DiTTransformer2DModel")


class VideoUNet(nn.Module):
    """An image network that sees clips.

    Args:
        unet: A diffusers `UNet2DConditionModel` or `UNet2DModel`, or an image transformer, `PixArtTransformer2DModel`
            or `DiTTransformer2DModel`; inflated here, in place.
        plan: Where time enters. None: a plain image network applied to each frame.
    """

    def __init__(self, unet: Any, plan: Plan | None = None):
        super().__init__()
        self.unet = inflate(unet, plan) if plan else unet
        work_by_rows(self.unet)
        self.plan = plan
        self._temporal = True

    def forward(
        self,
        x: Tensor,
        timestep: Tensor | float,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        num_images: int = 0,
        frame_mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_conditions: Mapping[str, Tensor] | None = None,
        down_residuals: Sequence[Tensor] | None = None,
        mid_residual: Tensor | None = None,
    ) -> Tensor:
        """Predict what the network was trained to predict, for every frame of every clip.

        Args:
            x: Noisy latents or pixels `(batch, frames, channels, height, width)`; one frame is an image.
            timestep: Index of the noise level: one number, `(batch,)` or `(batch, frames)`.
            context: Text tokens `(batch, tokens, channels)`, or per frame `(batch, frames, tokens, channels)`.
            context_mask: True where a token counts, `(batch, tokens)` or `(batch, frames, tokens)`.
            num_images: The last so many frames are independent images that temporal layers pass by.
            frame_mask: Which frames see which in every attention over frames: bool, True where the row's frame may look
                at the column's, or what is added to the logits; `(frames, frames)` or `(batch, frames, frames)` without
                the images. The lower triangle is causal, the diagonal leaves each frame to itself (GenTron's
                motion-free mode; Chen et al. 2023, arXiv:2312.04557).
            class_labels: Class or noise level `(batch, ...)`, for networks that take one.
            added_conditions: diffusers' `added_cond_kwargs`, each `(batch, ...)`; Stable Diffusion XL has
                `text_embeds` and `time_ids`.
            down_residuals: ControlNet residuals, each `(batch, frames, channels, height, width)`.
            mid_residual: ControlNet's residual of the mid block, shaped alike.

        Returns:
            `(batch, frames, channels, height, width)`.

        Raises:
            InputError: An axis does not fit.
        """
        batch, frames = self._check(x)
        self._check_added(added_conditions)
        mask = None if frame_mask is None else additive_mask(frame_mask, x.dtype)
        clip = Clip(frames, num_images, self._temporal, mask=mask)
        arguments: dict[str, Any] = {"class_labels": _per_frame(class_labels, batch, frames, 0, "class_labels")}
        if context is not None:
            arguments["encoder_hidden_states"] = _per_frame(context, batch, frames, 2, "context")
            arguments["encoder_attention_mask"] = _per_frame(context_mask, batch, frames, 1, "context_mask")
        if added_conditions is not None:
            arguments["added_cond_kwargs"] = {
                name: torch.as_tensor(value).repeat_interleave(frames, 0) for name, value in added_conditions.items()
            }
        if down_residuals is not None:
            arguments["down_block_additional_residuals"] = tuple(residual.flatten(0, 1) for residual in down_residuals)
        if mid_residual is not None:
            arguments["mid_block_additional_residual"] = mid_residual.flatten(0, 1)
        folded = rearrange(x, "b f c h w -> (b f) c h w")
        levels = _levels(timestep, batch, frames, x.device)
        with clip_of(clip), products_in_float32(x):
            out = call_image_network(self.unet, folded, levels, arguments)
        return rearrange(out, "(b f) c h w -> b f c h w", b=batch)

    def _check(self, x: Tensor) -> tuple[int, int]:
        if x.ndim != 5 or x.shape[2] != self.unet.config["in_channels"]:
            raise InputError(
                f"A clip is (batch, frames, {self.unet.config['in_channels']} channels, height, width); "
                f"got {tuple(x.shape)}."
            )
        return x.shape[0], x.shape[1]

    def _check_added(self, given: Mapping[str, Tensor] | None) -> None:
        if given is None and self.unet.config.get("addition_embed_type") == "text_time":
            raise InputError(
                "This network is of Stable Diffusion XL's kind: beside tokens it is told a pooled text and sizes, "
                "added_conditions={'text_embeds': ..., 'time_ids': ...}, and was given none."
            )

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the image network."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unet.device

    def enable_gradient_checkpointing(self) -> None:
        """Recompute spatial blocks and temporal layers in backward instead of keeping their activations."""
        self.unet.enable_gradient_checkpointing()

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations again."""
        self.unet.disable_gradient_checkpointing()

    @contextmanager
    def temporal_off(self) -> Iterator[None]:
        """Inside, this is the image network applied to each frame. Not for models shared between threads."""
        before, self._temporal = self._temporal, False
        try:
            yield
        finally:
            self._temporal = before

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the network to a folder, whole or not at all.

        Args:
            directory: Folder to write to; made where it is missing.

        Raises:
            InputError: An adapter is attached, whose layers have other names than a file of weights.
        """
        check_bare(self.unet)
        with whole_folder(directory) as folder:
            self.save_image(folder)
            if self.plan is not None:
                write_temporal(self.plan, temporal_state_dict(self.unet), folder)

    def save_image(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the image network alone, into `unet/`, as diffusers reads it; None keeps the data type.

        Raises:
            InputError: An adapter is attached.
        """
        check_bare(self.unet)
        folder = Path(directory) / "unet"
        config = {"_class_name": type(self.unet).__name__, "_diffusers_version": diffusers.__version__}
        config |= {key: value for key, value in json.loads(self.unet.to_json_string()).items() if key not in config}
        weights = {key: value.to(dtype or value.dtype) for key, value in spatial_state_dict(self.unet).items()}
        write_safetensors(weights, folder / f"{WEIGHTS}.safetensors", {"format": "pt"})
        write_json(config, folder / "config.json", sort_keys=True)

    @classmethod
    def from_pretrained(cls, directory: str | Path, dtype: torch.dtype | None = None) -> VideoUNet:
        """Read what `save_pretrained` wrote, or the `unet` folder of an image pipeline (then without time).

        Args:
            directory: Folder with `unet/` and, for a video network, `temporal.json` and `temporal.safetensors`.
            dtype: Data type of the weights; None keeps float32.

        Returns:
            The network, in evaluation mode.

        Raises:
            WeightsError: A file is missing or malformed, keys do not fit, or a weight is NaN or infinite.
        """
        root = Path(directory)
        config = read_json(root / "unet" / "config.json")
        name = config.get("_class_name", "UNet2DConditionModel")
        if name not in UNETS + TRANSFORMERS:
            raise unknown("image network class", name, UNETS + TRANSFORMERS, WeightsError)
        weights = read_folder(root / "unet")
        unet = built(lambda: getattr(diffusers, name).from_config(config), weights, str(root / "unet"))
        load_checked(unet, weights, spatial_state_dict(unet), f"image weights in '{root / 'unet'}'")
        model = unfilled(lambda: cls(unet, read_plan(root / "temporal.json")))
        if model.plan is not None:
            file = root / "temporal.safetensors"
            temporal = read_safetensors(file)
            load_checked(unet, temporal, temporal_state_dict(unet), f"temporal weights in '{file}'")
        return model.to(dtype).eval()


CONDITIONS = {
    "class_labels": "class labels",
    "encoder_hidden_states": "text",
    "encoder_attention_mask": "mask of the text",
    "added_cond_kwargs": "added conditions",
    "down_block_additional_residuals": "control residuals",
    "mid_block_additional_residual": "control residuals",
}
"""What diffusers calls the conditions of an image network, and what they are."""


def call_image_network(network: Any, x: Tensor, levels: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Call an image network of diffusers, whatever it is, on folded frames.

    Args:
        network: A U-Net or an image transformer.
        x: `(batch * frames, channels, height, width)`.
        levels: One timestep for each.
        arguments: Conditions under diffusers' names; None is none.

    Returns:
        The prediction, with the network's own number of channels.

    Raises:
        InputError: The network does not take a condition that is given.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    taken = inspect.signature(type(network).forward).parameters
    for name in given:
        if name not in taken:
            raise InputError(f"{type(network).__name__} takes no {CONDITIONS[name]}.")
    if type(network).__name__ == "PixArtTransformer2DModel":  # sizes are a condition at 1024 pixels only
        given.setdefault("added_cond_kwargs", {"resolution": None, "aspect_ratio": None})
    return network(x, timestep=levels, return_dict=False, **given)[0]


def _levels(timestep: Tensor | float, batch: int, frames: int, device: torch.device) -> Tensor:
    """Return one timestep per folded frame."""
    levels = torch.as_tensor(timestep, device=device)
    if (
        levels.ndim > 2
        or (levels.ndim and levels.shape[0] not in (1, batch))
        or levels.shape[1:] not in ((), (frames,))
    ):
        raise InputError(
            f"timestep is one number, ({batch},) or ({batch}, {frames}) for this clip; got {tuple(levels.shape)}."
        )
    return levels.reshape(-1, 1 if levels.ndim < 2 else frames).expand(batch, frames).flatten()


def _per_frame(value: Tensor | None, batch: int, frames: int, ndim: int, name: str) -> Tensor | None:
    """Fold a condition: given per clip it is repeated for each frame, given per frame it is flattened.

    Args:
        value: `(batch, ...)` with `ndim` further axes, or `(batch, frames, ...)`; with `ndim` 0 always per clip.
        batch: Clips.
        frames: Frames per clip.
        ndim: Axes of the condition of one frame.
        name: For the message.
    """
    if value is None:
        return None
    if value.shape[0] != batch:
        raise InputError(f"{name} has {value.shape[0]} entries on its first axis, the batch has {batch} clips.")
    if ndim and value.ndim == ndim + 2:
        if value.shape[1] != frames:
            raise InputError(f"{name} is given for {value.shape[1]} frames, the clips have {frames}.")
        return value.flatten(0, 1)
    return value.repeat_interleave(frames, 0)


def check_bare(network: Any) -> None:
    """Refuse a network with adapters beside its weights.

    Raises:
        InputError: Names them.
    """
    names = list(getattr(network, "peft_config", {}))
    if names:
        raise InputError(
            f"The network has an adapter attached ({', '.join(names)}), which a folder of weights has no place for. "
            "Add it to the weights (kineograph.temporal.adapters.fold_adapter), write it to a file of its own "
            "(kineograph.systems.motion_lora.save_adapter), or take it off (remove_adapter)."
        )


def write_temporal(plan: Plan, weights: Mapping[str, Tensor], directory: str | Path) -> None:
    """Write a plan and its temporal weights, `temporal.json` and `temporal.safetensors`."""
    root = Path(directory)
    write_safetensors(weights, root / "temporal.safetensors", {"format": "pt"})
    write_json({"format": FORMAT, "plan": plan.to_dict()}, root / "temporal.json", sort_keys=True)


def read_plan(path: Path) -> Plan | None:
    """Read the plan in a `temporal.json`; a folder without one is an image network."""
    if not path.exists():
        return None
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise WeightsError(f"{path} has format '{data.get('format')}'; this version reads '{FORMAT}'.")
    return Plan.from_dict(data["plan"])
