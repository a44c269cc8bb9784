"""Give an image network a time axis, by surgery: a child named `temporal` and a stateless hook that runs it.

    module.temporal = layer
    module.register_forward_hook(run)

No block is rewritten and no spatial key changes, so LoRA, DreamBooth, ControlNet and single-file weights of the image
model still load. Temporal weights are exactly the keys that contain `.temporal.`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from kineograph.errors import InputError, WeightsError, unknown
from kineograph.temporal.attention import TemporalTransformer
from kineograph.temporal.blend import TemporalResBlock, TemporalVideoBlock
from kineograph.temporal.convolution import TemporalConvolution, TemporalOutput
from kineograph.temporal.cross_frame import CrossFrameProcessor
from kineograph.temporal.finite import not_finite
from kineograph.temporal.frames import carry_clip_through_checkpoints, current_clip
from kineograph.temporal.layer import TemporalChain, TemporalLayer, run_layer
from kineograph.temporal.norm import SpatialClipNorm, span_clips, span_frames
from kineograph.temporal.picture import PictureAttention, PictureProcessor
from kineograph.temporal.plan import Part, Placement, Plan
from kineograph.temporal.rotary import TemporalRotaryAttention

Network = TypeVar("Network", bound=nn.Module)

LAYERS: Mapping[str, Callable[..., TemporalLayer]] = {
    "temporal_transformer": TemporalTransformer,
    "temporal_convolution": TemporalConvolution,
    "temporal_rotary_attention": TemporalRotaryAttention,
    "temporal_res_block": TemporalResBlock,
    "temporal_video_block": TemporalVideoBlock,
    "temporal_output": TemporalOutput,
    "picture_attention": PictureAttention,
}
"""The layers a plan can name. Each takes `channels` first."""

MARK = ".temporal."


def inflate(network: Network, plan: Plan) -> Network:
    """Add temporal layers to an image network, in place.

    Args:
        network: A diffusers U-Net (`UNet2DConditionModel`, `UNet2DModel`), ControlNet, autoencoder's decoder, or
            transformer (`PixArtTransformer2DModel`, `DiTTransformer2DModel`). Each block of a transformer stands for a
            ResNet block and its attention: what follows either of them follows the block, in the plan's order.
        plan: What goes where.

    Returns:
        The same network. On folded frames `(batch * frames, ...)` inside `clip_of(Clip(frames))` its temporal layers
        relate the frames of each clip; they start as the identity.

    Raises:
        InputError: The network already has temporal layers, a placement finds no place, or two meet on one module.
    """
    if temporal_state_dict(network):
        raise InputError("This network already has temporal layers. Remove them with strip(network) first.")
    try:
        for placement in plan.placements:
            _place(network, placement, skip_single_frame=plan.single_frame == "skip")
    except InputError:
        strip(network)
        raise
    if tuple(plan.self_attention) != ("own",):
        for attention in self_attentions(network):
            attention.set_processor(CrossFrameProcessor(plan.self_attention, attention.processor))
    if plan.spatial_norm == "clip":
        if is_transformer(network):
            raise InputError(f"{type(network).__name__} has no group norms whose statistics could span a clip.")
        for norm in spatial_norms(network):
            span_clips(norm)
    network.register_forward_pre_hook(_carry_clip)
    return network


def _place(network: nn.Module, placement: Placement, skip_single_frame: bool) -> None:
    """Attach one new layer at every place the placement names."""
    if placement.layer not in LAYERS:
        raise unknown("temporal layer", placement.layer, LAYERS)
    places = list(hook_points(network, placement))
    if not places:
        raise InputError(f"{type(network).__name__} has no '{placement.at}' in its {', '.join(placement.parts)} parts.")
    for module in places:
        taken = module._modules.get("temporal")
        if taken is not None and not (is_transformer(network) and placement.at in _AFTER_BLOCK):
            raise InputError(f"Two placements meet on one module: '{placement.at}' is already taken by another layer.")
        layer = LAYERS[placement.layer](output_channels(module), **placement.options)
        layer.skip_single_frame = skip_single_frame
        layer.to(next(module.parameters())).train(module.training)
        if isinstance(taken, TemporalLayer):
            module.temporal = TemporalChain([*getattr(taken, "layers", [taken]), layer])
            continue
        module.temporal = layer
        if placement.at == "cross_attention":
            cast(Any, module).set_processor(PictureProcessor(cast(Any, module).processor))
        elif placement.at == "before_feed_forward":
            _keep_stream_for(network, module)
            module.register_forward_hook(_run_on_stream, with_kwargs=True)
        else:
            module.register_forward_hook(_run_after, with_kwargs=True)


def _keep_stream_for(network: nn.Module, attention: Any) -> None:
    """Let the norm before a cross-attention leave the residual stream for the attention's hook, under a shared name.

    With PixArt's `ada_norm_single` there is no norm, and the attention's own input is the stream.
    """
    name = next(name for name, module in network.named_modules() if module is attention)
    block: Any = network.get_submodule(name.removesuffix(".attn2"))
    norm: Any = attention if getattr(block, "norm_type", "") == "ada_norm_single" else block.norm2
    norm.stream_name = attention.stream_name = name
    norm.register_forward_pre_hook(_leave_stream)


def strip(network: Network) -> Network:
    """Remove all temporal layers and their hooks, in place; what remains is the image network."""
    for module in list(network.modules()):
        hooks = {**module._forward_hooks, **module._forward_pre_hooks}
        for number, hook in hooks.items():
            if hook in _OWN_HOOKS:
                for table in (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_pre_hooks):
                    table.pop(number, None)
        module.__dict__.pop("stream_name", None)
        if isinstance(module._modules.get("temporal"), TemporalLayer):
            del module.temporal
        if isinstance(module, SpatialClipNorm):
            span_frames(module)
        if isinstance(processor := getattr(module, "processor", None), CrossFrameProcessor | PictureProcessor):
            cast(Any, module).set_processor(processor.inner)
    return network


# Hook points


def hook_points(network: nn.Module, placement: Placement) -> Iterator[nn.Module]:
    """Yield the modules after which a placement's layers run, in the order of the forward pass."""
    if is_transformer(network):
        yield from _transformer_points(network, placement.at)
        return
    if placement.at in ("conv_in", "conv_out"):
        yield network.get_submodule(placement.at)
        return
    for block in _blocks(network, placement.parts):
        yield from _AT[placement.at](block)


_AFTER_BLOCK = ("resnet", "attention", "pair", "transformer_block")


def is_transformer(network: nn.Module) -> bool:
    """Say whether an image network is a plain stack of transformer blocks."""
    return hasattr(network, "transformer_blocks") and not hasattr(network, "down_blocks")


def _transformer_points(network: nn.Module, at: str) -> Iterator[nn.Module]:
    """Yield the hook points of a transformer: its patch embedding, its blocks, or their cross-attentions."""
    if at == "conv_in":
        yield network.get_submodule("pos_embed")
    for block in _children(network, "transformer_blocks"):
        if block is not None and at in _AFTER_BLOCK:
            yield block
        elif getattr(block, "attn2", None) is not None and at in ("before_feed_forward", "cross_attention"):
            yield cast(Any, block).attn2


def _blocks(network: nn.Module, parts: Iterable[Part]) -> Iterator[nn.Module]:
    """Yield the down, mid and up blocks of a U-Net or ControlNet."""
    for part in ("down", "mid", "up"):
        blocks = getattr(network, "mid_block" if part == "mid" else f"{part}_blocks", None)
        if part in parts and blocks is not None:
            yield from [blocks] if part == "mid" else blocks


def _children(block: nn.Module, name: str) -> list[nn.Module | None]:
    return list(getattr(block, name, None) or [])


def _resnets(block: nn.Module) -> Iterator[nn.Module]:
    yield from (resnet for resnet in _children(block, "resnets") if resnet is not None)


def _attentions(block: nn.Module) -> Iterator[nn.Module]:
    yield from (attention for attention in _children(block, "attentions") if attention is not None)


def _pairs(block: nn.Module) -> Iterator[nn.Module]:
    yield from list(_attentions(block)) or _resnets(block)


def _transformer_blocks(block: nn.Module) -> Iterator[nn.Module]:
    for attention in _attentions(block):
        yield from (inner for inner in _children(attention, "transformer_blocks") if inner is not None)


def _cross_attentions(block: nn.Module) -> Iterator[nn.Module]:
    for inner in _transformer_blocks(block):
        if getattr(inner, "attn2", None) is not None and getattr(inner, "norm2", None) is not None:
            yield inner.get_submodule("attn2")


_AT: Mapping[str, Callable[[nn.Module], Iterator[nn.Module]]] = {
    "resnet": _resnets,
    "attention": _attentions,
    "pair": _pairs,
    "transformer_block": _transformer_blocks,
    "before_feed_forward": _cross_attentions,
    "cross_attention": _cross_attentions,
}


def spatial_norms(network: nn.Module) -> Iterator[nn.GroupNorm]:
    """Yield the group norms of a U-Net's ResNet blocks and of its output, those that LaVie takes over time."""
    for block in _blocks(network, ("down", "mid", "up")):
        for resnet in _resnets(block):
            yield from (norm for norm in (resnet.norm1, resnet.norm2) if isinstance(norm, nn.GroupNorm))
    output = getattr(network, "conv_norm_out", None)
    if isinstance(output, nn.GroupNorm):
        yield output


def self_attentions(network: nn.Module) -> Iterator[Any]:
    """Yield the self-attentions inside a network's transformer blocks.

    Raises:
        InputError: There is none.
    """
    found = [block.attn1 for block in network.modules() if hasattr(block, "attn1") and hasattr(block, "norm1")]
    found = [attention for attention in found if not getattr(attention, "is_cross_attention", False)]
    if not found:
        raise InputError(
            f"{type(network).__name__} has no transformer blocks whose self-attention could look elsewhere."
        )
    yield from found


def output_channels(module: Any) -> int:
    """Return the channels a module of a diffusers network puts out.

    Raises:
        InputError: The kind of module is not known here.
    """
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(getattr(module, "proj", None), nn.Conv2d):  # PatchEmbed
        return module.proj.out_channels
    if hasattr(module, "conv2"):  # ResnetBlock2D, ResnetBlockCondNorm2D
        return module.conv2.out_channels
    if hasattr(module, "to_out"):  # Attention with its residual inside, as in DeepFloyd-IF
        return module.to_out[0].out_features
    if hasattr(module, "ff"):  # BasicTransformerBlock
        return module.ff.net[-1].out_features
    if hasattr(module, "in_channels"):  # Transformer2DModel
        return module.in_channels
    if hasattr(module, "attn2"):  # KAttentionBlock
        return module.attn2.to_out[0].out_features
    raise InputError(f"Temporal layers cannot be placed after a {type(module).__name__}: its width is not known.")


# Hooks: stateless, so that a deep copy of the network runs its own layers


def _run_after(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    for layer in getattr(module.temporal, "layers", [module.temporal]):
        output = _on_tensor(output, partial(_run_with, layer, _used(layer, args, kwargs)))
    return output


def _run_with(layer: TemporalLayer, extra: tuple[Tensor, ...], x: Tensor) -> Tensor:
    return run_layer(layer, x, *extra)


def _used(layer: TemporalLayer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return what a layer takes of its place's arguments; under gradient checkpointing they arrive by position."""
    if layer.uses == "temb":  # of a ResNet block
        return (kwargs["temb"] if "temb" in kwargs else args[1],)
    if layer.uses == "context":  # of a transformer block
        return (kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2],)
    return ()


def _leave_stream(norm: Any, args: tuple[Any, ...]) -> None:
    """Leave the residual stream, which the norm takes in, for `_run_on_stream`."""
    current_clip().scratch[norm.stream_name] = args[0]


def _run_on_stream(attention: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    """Run on the residual stream after cross-attention; the block adds the stream to what is returned."""
    stream = current_clip().scratch.pop(attention.stream_name)
    x = stream + output
    changed = run_layer(attention.temporal, x)
    return output if changed is x else changed - stream


def _carry_clip(network: nn.Module, args: tuple[Any, ...]) -> None:
    """Before each forward pass that builds a graph: checkpoints, whenever they were enabled, must carry the clip."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        carry_clip_through_checkpoints(network)


_OWN_HOOKS = (_run_after, _run_on_stream, _leave_stream, _carry_clip)


def _on_tensor(output: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensor in a module's output: itself, first of a tuple, or `.sample`."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, tuple):
        return (function(output[0]), *output[1:])
    output.sample = function(output.sample)
    return output


# Weights


def temporal_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return the temporal weights: the keys that contain `.temporal.`, which is all a motion file holds."""
    return {key: value for key, value in network.state_dict().items() if MARK in key}


def spatial_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the image network, under the keys it had before inflation."""
    return {key: value for key, value in network.state_dict().items() if MARK not in key}


def load_temporal_state_dict(network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load temporal weights; every key must fit.

    Raises:
        WeightsError: Keys are missing, unknown or of another shape, or a value is not finite.
    """
    load_checked(network, state_dict, temporal_state_dict(network), "temporal weights")


def load_spatial_state_dict(network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load the weights of the image network; every key must fit. See `load_temporal_state_dict`."""
    load_checked(network, state_dict, spatial_state_dict(network), "image weights")


def load_checked(
    network: nn.Module, state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str
) -> None:
    """Copy `state_dict` into a network after checking it against the expected tensors.

    Raises:
        WeightsError: See `load_temporal_state_dict`; the message names `what` and example keys.
    """
    check_fits(network, state_dict, expected, what)
    network.load_state_dict(dict(state_dict), strict=False)


def check_fits(network: nn.Module, state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Check names, shapes and values as `load_checked` does, and copy nothing; the network may be on the meta device.

    Raises:
        WeightsError: See `load_temporal_state_dict`; the message names `what` and example keys.
    """
    misfits = {k: v for k, v in state_dict.items() if k in expected and expected[k].shape != v.shape}
    problems = [
        _listed("missing", [key for key in expected if key not in state_dict]),
        _listed("unknown", [key for key in state_dict if key not in expected]),
        _listed("of another shape", [_shapes(key, value, expected[key]) for key, value in misfits.items()]),
        _listed("not finite (NaN or infinity)", [key for key, value in state_dict.items() if not_finite(value)]),
    ]
    if any(problems):
        raise WeightsError(f"The {what} do not fit this {type(network).__name__}: " + " ".join(filter(None, problems)))


def _shapes(key: str, given: Tensor, expected: Tensor) -> str:
    return f"{key} {list(given.shape)} instead of {list(expected.shape)}"


def _listed(problem: str, keys: list[str], examples: int = 3) -> str:
    """Return one sentence with a few example keys, or nothing."""
    if not keys:
        return ""
    shown = ", ".join(keys[:examples]) + (", ..." if len(keys) > examples else "")
    return f"{len(keys)} {'key is' if len(keys) == 1 else 'keys are'} {problem} ({shown})."
