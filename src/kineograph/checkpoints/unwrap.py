"""What training programs put around weights: tables around the table of weights, and words in their names.

Known are `{"state_dict": {"module.x": ...}}` of PyTorch's DistributedDataParallel (AnimateDiff's `train.py`),
`{"module": {"_forward_module.model.x": ...}}` of DeepSpeed (VideoCrafter's checkpoints), `_orig_mod.x` of
torch.compile, and averaged weights beside the last ones, `{"ema": {...}, "model": {...}}` (LaVie).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from kineograph._notices import notice
from kineograph.errors import WeightsError

EMA = ("ema", "ema_state_dict", "model_ema", "state_dict_ema", "params_ema", "ema_model")
"""Tables of averaged weights, which are what their authors sample with."""
WRAPPERS = (
    *EMA,
    *("state_dict", "model_state_dict", "model", "module", "unet", "unet_state_dict", "net", "network"),
    *("generator", "params", "weights", "shadow"),
)
"""Names of the table of weights, in the order of preference."""
SEGMENTS = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that wrappers of PyTorch put in: no network that is known here has a child of such a name."""
LEADS = ("unet.", "model.", "net.", "network.")
"""What stands before every name where a training program keeps the network as an attribute."""
PARTS = ("vae.", "text_encoder.", "text_encoder_2.", "image_encoder.", "tokenizer.", "noise_scheduler.", "scheduler.")
"""What may stand beside `unet.` where a program keeps a whole pipeline as attributes."""
COUNTERS = frozenset({"n_averaged", "num_updates", "global_step", "epoch", "step", "decay", "optimization_step"})
"""Single numbers that programs keep among the weights."""
MOST_LEADS = 8
"""How many such words are taken off."""


def unwrapped(content: Mapping[str, Any], where: str = "") -> dict[str, Tensor]:
    """Return the weights in a file's content by their own names, out of tables and without wrappers' words.

    Args:
        content: What the file holds.
        where: The file; where it holds several sets of weights, a line says which one is taken.

    Raises:
        WeightsError: Two names differ in wrappers' words only.
    """
    tables = _tables(content)
    for name in (*WRAPPERS, *tables):
        if name in tables and (found := unwrapped(tables[name], where)):
            _say_which(where, name, [other for other in tables if other != name])
            return found
    return _bare({key: v for key, v in content.items() if isinstance(key, str) and isinstance(v, Tensor)}, where)


def _tables(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the tables that may be the one of weights: the known names, or the only one with weights in it."""
    inside = {key: v for key, v in content.items() if isinstance(key, str) and isinstance(v, Mapping)}
    known = {key: v for key, v in inside.items() if key in WRAPPERS}
    if known or any(isinstance(v, Tensor) for v in content.values()):
        return known
    holding = {key: v for key, v in inside.items() if _holds_weights(v) and "optim" not in key}
    return holding if len(holding) == 1 else {}


def _holds_weights(table: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(value, Tensor) for key, value in table.items())


def _say_which(where: str, name: str, others: list[str]) -> None:
    """Say which table of weights was taken, where there were several."""
    if where and others:
        kind = ", the averaged weights" if name in EMA else ""
        notice(f"'{where}' holds several sets of weights; taken is '{name}'{kind}, not {', '.join(map(repr, others))}.")


def _bare(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return weights without the words that wrappers put into their names, and without counters.

    Raises:
        WeightsError: Two names become one.
    """
    kept = {key: value for key, value in tensors.items() if not (key in COUNTERS and value.numel() == 1)}
    bare: dict[str, Tensor] = {}
    for key, value in kept.items():
        name = ".".join(part for part in key.split(".") if part not in SEGMENTS)
        if name in bare:
            raise WeightsError(f"'{where}' holds '{name}' twice, once as '{key}': which one is meant cannot be told.")
        bare[name] = value
    return bare


def own_names(tensors: Mapping[str, Tensor], where: str = "") -> dict[str, Tensor]:
    """Return a network's weights without what stands before every name, such as `unet.`; not for LoRAs.

    Names of the latent diffusion layout keep their `model.diffusion_model.`, which says what they are.
    """
    names = dict(tensors)
    for _ in range(MOST_LEADS):
        lead = next((lead for lead in LEADS if _leads(lead, names)), None)
        if lead is None:
            break
        others = [key for key in names if not key.startswith(lead)]
        if others and where:
            notice(f"Of '{where}' the network ('{lead}') is taken, not what stands beside it, such as '{others[0]}'.")
        names = {key.removeprefix(lead): value for key, value in names.items() if key.startswith(lead)}
    return _diffusion_model(names)


def _leads(lead: str, names: Iterable[str]) -> bool:
    """Say whether a word stands before every name, or before every one that is no other part's."""
    names = list(names)
    if lead == "model." and any(name.startswith("model.diffusion_model.") for name in names):
        return False
    beside = (lead, *PARTS) if lead == "unet." else lead
    return any(name.startswith(lead) for name in names) and all(name.startswith(beside) for name in names)


def _diffusion_model(names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mend `model.diffusion_model.` before diffusers' names, where it says nothing, and a lost `model.` before it."""
    long = "model.diffusion_model."
    for prefix in (long, "diffusion_model."):
        if names and all(name.startswith(prefix) for name in names):
            short = {name.removeprefix(prefix): value for name, value in names.items()}
            ldm = any(name.startswith("input_blocks.") for name in short)
            return {long + name: value for name, value in short.items()} if ldm else short
    return names
