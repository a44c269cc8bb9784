"""VideoCrafter1's resampler of pictures in its authors' files, and in ours (`kineograph.models.picture`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kineograph.systems.keys import KeyMap, nest


def resampler_keys() -> KeyMap:
    """Return the map between the authors' resampler (`image_proj_model.` removed) and `models.picture`'s.

    Their `to_kv` holds keys, then values; `split_keys_values` takes it apart.
    """
    block = [("0.norm1.", "ln0."), ("0.norm2.", "ln1."), ("0.to_out.", "attn.to_out.0."), ("0.to_", "attn.to_")]
    feed = [("1.0.", "ff.0."), ("1.1.", "ff.1.net.0.proj."), ("1.3.", "ff.1.net.2.")]
    return KeyMap(pairs=nest([("layers.{n}.", "layers.{n}.")], [*block, *feed]), what="VideoCrafter resampler")


def split_keys_values(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each `to_kv` weight by its halves `to_k` and `to_v`."""
    split = dict(tensors)
    for name in [name for name in tensors if name.endswith("to_kv.weight")]:
        keys, values = split.pop(name).chunk(2)
        stem = name.removesuffix("kv.weight")
        split |= {f"{stem}k.weight": keys, f"{stem}v.weight": values}
    return split


def join_keys_values(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Join each `to_k` and `to_v` weight to `to_kv`; the inverse of `split_keys_values`."""
    import torch

    joined = dict(tensors)
    for name in [name for name in tensors if name.endswith("to_k.weight")]:
        stem = name.removesuffix("k.weight")
        joined[f"{stem}kv.weight"] = torch.cat([joined.pop(f"{stem}{part}.weight") for part in "kv"])
    return joined
