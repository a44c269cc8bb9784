"""What a resumed run shares with the run that it continues: what it must keep, what it may change, what begins anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kineograph.errors import InputError

MAY_CHANGE = (
    "learning-rate",
    "lr-schedule",
    "lr-warmup-steps",
    "weight-decay",
    "adam-betas",
    "max-grad-norm",
    "ema-halflife-samples",
    "micro-batch-size",
    "mixed-precision",
    "gradient-checkpointing",
    "caption-dropout",
    "timestep-shift",
    "image-share",
    "balance",
    "held-out",
)
"""Flags that may change from one sitting of a run to the next: the change is said."""
MUST_KEEP = ("train-batch-size", "seed")
"""Flags of the loop that decide the order of the data and the noise, which a run keeps; so are all of the task's."""
_AVERAGES = "ema-halflife-samples"
_SAMPLE = 64  # values of each frozen tensor that the fingerprint looks at: another base differs in the first ones


def settings(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that are compared when it is resumed, JSON values by flag.

    Args:
        config: `TrainConfig.to_dict()`.
        facts: `Task.facts()`, and those of the optimizer and the frozen weights.
    """
    own = {name.replace("_", "-"): value for name, value in config.items()}
    return {name: _plain(own[name]) for name in (*MAY_CHANGE, *MUST_KEEP) if name in own} | {
        name: _plain(value) for name, value in facts.items()
    }


def settle(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> list[str]:
    """Compare the settings of a run with those of its checkpoint.

    Args:
        before: Of the checkpoint; one of an older version knows fewer.
        now: Of this process.
        run: Run directory, for the message.

    Returns:
        A line for each change that is allowed.

    Raises:
        InputError: A setting that the run must keep is another one; the message names the flags.
    """
    changed = {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}
    kept = [name for name in changed if name not in MAY_CHANGE or _drops_averages(name, *changed[name])]
    if kept:
        differences = "; ".join(f"--{name} is {changed[name][1]} and was {changed[name][0]}" for name in kept)
        raise InputError(
            f"The run in '{run}' cannot be resumed with other settings: {differences}. Give those of the run, or start "
            f"a new one from its weights: --init-from {run} --output-dir ANOTHER, without --resume."
        )
    return [_line(name, *values) for name, values in changed.items()]


def _drops_averages(name: str, before: Any, now: Any) -> bool:
    """Say whether a change would lose the averaged weights."""
    return name == _AVERAGES and before > 0 and not now > 0


def _line(name: str, before: Any, now: Any) -> str:
    more = " The averages begin anew, from the weights as they are." if name == _AVERAGES and not before > 0 else ""
    return f"Changed on resume: --{name} is {now} and was {before}.{more}"


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of tensors' names, shapes and first values; empty for none."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        first = tensor.detach().flatten()[:_SAMPLE].float().cpu().numpy().tobytes()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + first)
    return digest.hexdigest()[:12] if tensors else ""


def autoencoder_print(model: Any) -> str:
    """Return the fingerprint of the encoder whose latents a model was trained on."""
    tensors = {name: value for name, value in model.autoencoder.state_dict().items() if "decoder" not in name}
    return f"autoencoder {fingerprint(tensors)}"


def frozen(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that no step changes: those of the base."""
    return {name: p for name, p in network.named_parameters() if not p.requires_grad}
