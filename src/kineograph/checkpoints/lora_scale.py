"""By how much a LoRA counts: alpha and rank where trainers note them outside the tensors.

diffusers writes peft's configuration into the header of the file (`lora_adapter_metadata`, since 0.34), peft into
`adapter_config.json` beside it. Both say `lora_alpha` and `r`, for some modules differently (`alpha_pattern`,
`rank_pattern`), and `use_rslora`: alpha over the root of the rank (Kalajdzievski 2023, arXiv:2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineograph._read_weights import read_configuration, read_metadata
from kineograph.errors import WeightsError

HEADER = "lora_adapter_metadata"
"""Where diffusers keeps the configuration: `LORA_ADAPTER_METADATA_KEY` in `loaders/lora_base.py`."""
CONFIG = "adapter_config.json"
"""Where peft keeps it."""
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""What diffusers writes before the fields of each network."""
DEFAULT = 8
"""Rank and alpha of a configuration that does not say them (`LoraConfig` in `peft/tuners/lora/config.py`)."""
OTHER_KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "velora_config": "VeLoRA",
    "alora_invocation_tokens": "an activated LoRA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "layer_replication": "replicated layers",
}
"""Fields of peft's configuration that make something else of a LoRA, and what."""
BASES = {"CLIPTextModel": "text_encoder", "CLIPTextModelWithProjection": "text_encoder_2"}
"""Classes in peft's `auto_mapping` that say which text encoder of Stable Diffusion XL an adapter is for."""
CHANGED_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Values of `init_lora_weights` with which peft takes the start of the LoRA off the weights under it."""


@dataclass(frozen=True)
class AdapterConfig:
    """What peft's configuration of a LoRA says of its scale.

    Attributes:
        where: For messages.
        rank: Rank of modules without one of their own.
        alpha: Number that changes are multiplied by, over the rank.
        rslora: Whether it is over the root of the rank.
        ranks: Ranks of some modules, by patterns of their names.
        alphas: Alphas of some modules, by patterns of their names.
    """

    where: str
    rank: int = DEFAULT
    alpha: float = DEFAULT
    rslora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def scale(self, names: Iterable[str], rank: int) -> float:
        """Return what a module's change is multiplied by.

        Args:
            names: The module's names, without what stands before them in a file; the first that a pattern fits counts.
            rank: Its rank in the tensors.

        Raises:
            WeightsError: The rank is another one here.
        """
        names = list(names)
        said = _matched(self.ranks, names, self.rank)
        if said != rank:
            raise WeightsError(
                f"{self.where} says rank {said} for '{names[0]}', whose tensors have rank {rank}: they do not belong "
                "together."
            )
        return _matched(self.alphas, names, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


def _matched(patterns: Mapping[str, Any], names: Iterable[str], default: Any) -> Any:
    """Return the value of the first pattern that fits the end of a name, after a dot, or all of it.

    So does peft (`get_pattern_key` in `peft/utils/other.py`).
    """
    for name in names:
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
    return default


def header_configs(file: Path) -> dict[str, AdapterConfig]:
    """Return the configurations in a file's header, by component; under an empty name that of a network alone.

    Raises:
        WeightsError: The header is broken, or says that this is no plain LoRA.
    """
    text = read_metadata(file).get(HEADER)
    if not text:
        return {}
    where = f"The header of '{file}' ({HEADER})"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{where} does not hold a JSON object.")
    groups: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        component, _, name = key.rpartition(".")
        groups.setdefault(component, {})[name] = value
    return {component: adapter_config(values, where) for component, values in groups.items()}


def folder_config(file: Path) -> tuple[AdapterConfig, str | None]:
    """Return the configuration in peft's file, and the component that it is for where it says so.

    Raises:
        WeightsError: It is broken, or of another kind of adapter.
    """
    content = read_configuration(file)
    if not isinstance(content, dict):
        raise WeightsError(f"'{file}' does not hold a JSON object.")
    kind = content.get("peft_type", "LORA")
    if kind != "LORA":
        raise WeightsError(f"'{file}' is of an adapter of kind {kind}, which is not read; only plain LoRAs are.")
    named = content.get("auto_mapping")
    base = str(named.get("base_model_class", "")) if isinstance(named, dict) else ""
    component = (
        "text_encoder_2" if base == "CLIPTextModelWithProjection" else "text_encoder" if "Text" in base else None
    )
    return adapter_config(content, f"'{file}'"), component


def adapter_config(values: Mapping[str, Any], where: str) -> AdapterConfig:
    """Check and keep what a configuration says of the scale.

    Raises:
        WeightsError: A value is none that peft has, or the adapter is no plain LoRA.
    """
    for name, kind in OTHER_KINDS.items():
        if values.get(name):
            raise WeightsError(f"{where} says {name}: this is {kind}, which is not read; only plain LoRAs are.")
    start = str(values.get("init_lora_weights")).lower()
    if start.startswith(CHANGED_BASE):
        raise WeightsError(
            f"{where} says init_lora_weights='{start}': its training changed the weights under the LoRA too, so that "
            "it fits no other model. Convert it to a plain LoRA when it is saved (peft: "
            "path_initial_model_for_weight_conversion)."
        )
    patterns = {name: _patterns(values, name, where) for name in ("rank_pattern", "alpha_pattern")}
    return AdapterConfig(
        where,
        int(_number(values.get("r", DEFAULT), "r", where, least=1)),
        _number(values.get("lora_alpha", DEFAULT), "lora_alpha", where),
        bool(values.get("use_rslora")),
        {key: int(_number(value, "rank_pattern", where, least=1)) for key, value in patterns["rank_pattern"].items()},
        {key: _number(value, "alpha_pattern", where) for key, value in patterns["alpha_pattern"].items()},
    )


def _number(value: Any, name: str, where: str, least: int | None = None) -> float:
    """Return a number; a rank is a whole one from 1 on.

    Raises:
        WeightsError: It is none, or not finite.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6
    if not is_number or (least is not None and (value < least or value != int(value))):
        allowed = "a whole number from 1 on" if least is not None else "a finite number"
        raise WeightsError(f"{where} says {name}={value!r}; it must be {allowed}.")
    return value


def _patterns(values: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return patterns of names that can be tried without running for ever.

    Raises:
        WeightsError: They are no patterns, or such as no configuration needs.
    """
    patterns = values.get(name) or {}
    if not isinstance(patterns, dict):
        raise WeightsError(f"{where} says {name}={str(patterns)[:40]!r}; it must be an object of patterns and numbers.")
    for pattern in patterns:
        repeats = re.findall(r"(?<!\\)[*+{]", pattern)
        if len(pattern) > 300 or len(repeats) > 4 or re.search(r"\)[*+{]", pattern):
            raise WeightsError(f"{where} has a pattern in {name} that could be tried for ever: '{pattern[:60]}'.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise WeightsError(f"{where} has a broken pattern in {name}: '{pattern}': {error}.") from error
    return patterns
