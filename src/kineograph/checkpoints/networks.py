"""What diffusers' video network classes say in their configurations, and what that is here.

Each class is an image network with one system's layers built in; here it is `UNet2DConditionModel` and a plan. The
weights differ in names only, which the systems' key maps hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kineograph.errors import WeightsError, unknown
from kineograph.models.config_fields import check_fields
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import unfilled
from kineograph.systems import systems
from kineograph.systems.card import System
from kineograph.systems.key_loading import load_mapped
from kineograph.systems.keys import KeyMap
from kineograph.temporal.plan import Plan

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """One video network class of diffusers.

    Attributes:
        system: The system it implements, by its name in the registry.
        ending: What its block types end with where the image network's end with `2D`.
        image: From its configuration to what the image network's differs in beside the block types.
        options: From its configuration to the system's.
        published: From the image network's configuration and the plan back to its own; the inverse of the other two.
    """

    system: str
    ending: str
    image: Callable[[Config], dict[str, Any]]
    options: Callable[[Config], dict[str, Any]]
    published: Callable[[Config, Plan], dict[str, Any]]


def widths(config: Config) -> tuple[int, ...]:
    """Return the channels of each level."""
    return tuple(config["block_out_channels"])


def each(value: Any, count: int) -> tuple[Any, ...]:
    """Return one value per level of a setting that may be given once."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def same(config: Config, name: str, default: Any) -> Any:
    """Return a setting that diffusers allows to differ per level and we do not.

    Raises:
        WeightsError: It differs.
    """
    value = config.get(name, default)
    found = set(value) if isinstance(value, list | tuple) else {value}
    if len(found) != 1:
        raise WeightsError(f"'{name}' differs between the levels of this network ({value}); it must be one number.")
    return found.pop()


def _option(plan: Plan, layer: str, name: str, at: str | None = None) -> Any:
    """Return an option of the first placement of a layer."""
    found = [p for p in plan.placements if p.layer == layer and (at is None or p.at == at)]
    return found[0].options[name] if found else None


# --- ModelScopeT2V and ZeroScope: UNet3DConditionModel ---------------------------------------------------------------


def _modelscope_image(config: Config) -> dict[str, Any]:
    """Its `attention_head_dim` is the width of a head; `UNet2DConditionModel`'s is the number of heads."""
    heads = each(config["attention_head_dim"], len(widths(config)))
    return {
        "attention_head_dim": tuple(width // head for width, head in zip(widths(config), heads, strict=True)),
        "use_linear_projection": True,
    }


def _modelscope_options(config: Config) -> dict[str, Any]:
    return {"head_dim": same(config, "attention_head_dim", 64)}


def _modelscope_published(image: Config, plan: Plan) -> dict[str, Any]:
    return {"attention_head_dim": _option(plan, "temporal_transformer", "head_dim", "attention")}


# --- AnimateDiff: UNetMotionModel ------------------------------------------------------------------------------------


def _motion_image(config: Config) -> dict[str, Any]:
    return {"attention_head_dim": config["num_attention_heads"]}


def _motion_options(config: Config) -> dict[str, Any]:
    return {
        "max_frames": config["motion_max_seq_length"],
        "num_heads": same(config, "motion_num_attention_heads", 8),
        "depth": same(config, "temporal_transformer_layers_per_block", 1),
        "norm_groups": config["norm_num_groups"],
        "middle": config.get("use_motion_mid_block", True),
        "motion_norm": "clip",
    }


def _motion_published(image: Config, plan: Plan) -> dict[str, Any]:
    options = dict(plan.placements[0].options)
    return {
        "num_attention_heads": image["attention_head_dim"],
        "motion_max_seq_length": options["max_frames"],
        "motion_num_attention_heads": options["num_heads"],
        "temporal_transformer_layers_per_block": options["depth"],
        "use_motion_mid_block": "mid" in plan.placements[0].parts,
    }


LAYOUTS: Mapping[str, Layout] = {
    "UNet3DConditionModel": Layout("modelscope", "3D", _modelscope_image, _modelscope_options, _modelscope_published),
    "UNetMotionModel": Layout("animatediff", "Motion", _motion_image, _motion_options, _motion_published),
}
"""diffusers' video network classes."""


def layout_of(config: Config) -> Layout:
    """Return what is known of the class that a network's `config.json` names.

    Raises:
        WeightsError: The class is unknown.
    """
    name = config.get("_class_name")
    if name is None or name not in LAYOUTS:
        raise unknown("video network class", name, LAYOUTS, WeightsError)
    return LAYOUTS[name]


def parameters_of(cls: type) -> dict[str, Any]:
    """Return the names and defaults of a diffusers network's arguments."""
    arguments = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {argument.name: argument.default for argument in arguments}


def image_config(config: Config) -> dict[str, Any]:
    """Return the arguments of the image network inside a video network of diffusers."""
    import diffusers

    layout = layout_of(config)
    check_fields(config, config["_class_name"], "unet/config.json")
    full = parameters_of(getattr(diffusers, config["_class_name"])) | dict(config)
    known = parameters_of(diffusers.UNet2DConditionModel)
    image = {name: value for name, value in full.items() if name in known and name != "num_attention_heads"}
    for name in ("down_block_types", "up_block_types"):
        image[name] = tuple(kind.removesuffix(layout.ending) + "2D" for kind in full[name])
    return image | layout.image(full)


def system_config(config: Config) -> tuple[System, Any]:
    """Return the system that a video network of diffusers is, and its configuration."""
    import diffusers

    layout = layout_of(config)
    system = systems()[layout.system]
    full = parameters_of(getattr(diffusers, config["_class_name"])) | dict(config)
    return system, system.config(**layout.options(full))


def from_diffusers(
    config: Config, tensors: Mapping[str, Tensor], plan: Plan | None = None, where: str = "the folder"
) -> VideoUNet:
    """Build a network from a diffusers video network's configuration and weights.

    Args:
        config: Content of its `config.json`.
        tensors: Its weights.
        where: Its folder, for messages.
        plan: The plan it was exported from, where that is known; None derives it from the configuration.

    Raises:
        WeightsError: The class or a setting is unknown, or the weights do not fit.
    """
    from diffusers import UNet2DConditionModel

    system, options = system_config(config)

    def build() -> VideoUNet:
        unet = UNet2DConditionModel(**image_config(config))
        return VideoUNet(unet, plan) if plan is not None else system.build(options, unet)

    network = unfilled(build)
    load_mapped(network.unet, tensors, key_map(system, network), where)
    return network.eval()


def key_map(system: System, network: VideoUNet, layout: str = "diffusers") -> KeyMap:
    """Return a system's key map for a network, with its position tables as long as the network's.

    Raises:
        WeightsError: The system has no such layout.
    """
    if layout not in system.key_maps:
        raise unknown(f"layout of {system.name}", layout, system.key_maps, WeightsError)
    longest = position_table(network.plan)
    if longest is not None and system.name == "animatediff":
        return system.key_maps[layout](network.config, longest)  # pyright: ignore[reportCallIssue]
    if (rates := own_rates(network.plan)) is not None:
        return system.key_maps[layout](network.config, rates)  # pyright: ignore[reportCallIssue]
    return system.key_maps[layout](network.config)


def own_rates(plan: Plan | None) -> tuple[float, ...] | None:
    """Return the rates of a plan's rotary position code where they are not the usual ones."""
    found = [p.options["rates"] for p in (plan.placements if plan else ()) if p.options.get("rates")]
    return tuple(found[0]) if found else None


def position_table(plan: Plan | None) -> int | None:
    """Return the frames that a plan's position code tells apart, or None."""
    found = [p.options["max_frames"] for p in (plan.placements if plan else ()) if p.options.get("max_frames")]
    return min(found) if found else None


def to_diffusers(network: VideoUNet, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a network's configuration and weights as a video network class of diffusers has them.

    Args:
        network: The network.
        name: The class.

    Raises:
        WeightsError: The class cannot hold the network.
    """
    import diffusers

    assert network.plan is not None
    layout = layout_of({"_class_name": name})
    known = parameters_of(getattr(diffusers, name))
    image = dict(network.config)
    config = {key: value for key, value in image.items() if key in known and key != "num_attention_heads"}
    for key in ("down_block_types", "up_block_types"):
        config[key] = [kind.removesuffix("2D") + layout.ending for kind in image[key]]
    config |= layout.published(image, network.plan)
    config = {"_class_name": name, "_diffusers_version": diffusers.__version__, **config}
    _check_held(network, config)
    return config, key_map(systems()[layout.system], network).to_theirs(network.unet.state_dict())


FREE = ("single_frame", "spatial_norm")
"""Fields of a plan that no class of diffusers knows and that do not decide which weights there are."""


def _check_held(network: VideoUNet, config: Config) -> None:
    """Refuse a network that another class than its own would be loaded as.

    Raises:
        WeightsError: Names the first difference.
    """
    from diffusers import UNet2DConditionModel

    again = image_config(config)
    defaults = parameters_of(UNet2DConditionModel)
    for name, default in defaults.items():
        ours, theirs = network.config.get(name, default), again.get(name, default)
        if _plain(ours) != _plain(theirs) and name not in ("num_attention_heads", "attention_head_dim", "sample_size"):
            raise WeightsError(
                f"{config['_class_name']} cannot hold this network: it has no place for {name}={ours!r}. "
                "Keep it in this library's own layout, --to kineograph."
            )
    system, options = system_config(config)
    theirs = _plan_of(system, options, again)
    assert network.plan is not None
    if _shape(theirs) != _shape(network.plan):
        raise WeightsError(
            f"{config['_class_name']} cannot hold this network: its temporal layers differ from those of "
            f"{system.name}. Keep it in this library's own layout, --to kineograph."
        )


def _plan_of(system: System, options: Any, image: Config) -> Plan:
    """Return the plan of a system on an image network, without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        plan = system.build(options, UNet2DConditionModel(**image)).plan
    assert plan is not None
    return plan


IMMATERIAL = ("norm_over", "dropout", "mix", "window")
"""Options of layers that do not decide which weights there are."""


def _shape(plan: Plan) -> Any:
    """Return what of a plan decides which weights there are."""
    data = plan.to_dict()["placements"]
    return [
        {**p, "options": {k: v for k, v in p["options"].items() if k not in IMMATERIAL and v is not None}} for p in data
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
