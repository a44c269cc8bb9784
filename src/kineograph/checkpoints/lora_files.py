"""Files and folders of LoRAs: which tensors belong together, and what is no plain LoRA, by name.

Read are the names of kohya's trainers and LyCORIS' plain kind (`lora_down`, `lora_up`, `lora_mid`), of diffusers in
three generations, of peft (`lora_A`, `lora_B`), ComfyUI's generic ones, and AnimateDiff's motion LoRAs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph.checkpoints.lora_scale import COMPONENTS, CONFIG, AdapterConfig, folder_config, header_configs
from kineograph.checkpoints.single_files import unwrapped
from kineograph.errors import WeightsError
from kineograph.models.weights import check_finite, read_weights

ROLES = (
    (re.compile(r"^(.*)\.lora_down\.weight$"), "down"),
    (re.compile(r"^(.*)\.lora_up\.weight$"), "up"),
    (re.compile(r"^(.*)\.lora_mid\.weight$"), "mid"),
    (re.compile(r"^(.*)\.lora_A(?:\.(?P<adapter>[^.]+))?\.weight$"), "down"),
    (re.compile(r"^(.*)\.lora_B(?:\.(?P<adapter>[^.]+))?\.weight$"), "up"),
    (re.compile(r"^(.*)\.lora(?:_linear_layer)?\.down\.weight$"), "down"),
    (re.compile(r"^(.*)\.lora(?:_linear_layer)?\.up\.weight$"), "up"),
    (re.compile(r"^(.*)_lora\.down\.weight$"), "down"),
    (re.compile(r"^(.*)_lora\.up\.weight$"), "up"),
    (re.compile(r"^(.*?)(?:\.lora(?:_linear_layer)?|_lora)?\.(?:lora_)?alpha$"), "alpha"),
)
"""How files name the factors of a change and the number it is scaled by."""
OTHERS = (
    (r"new_concept_embedding", "ED-LoRA"),
    (r"\.hada_[wt]\d", "LoHa"),
    (r"\.lokr_[wt]\d", "LoKr"),
    (r"\.dora_scale$|\.lora_magnitude_vector", "DoRA"),
    (r"\.(oft|boft)_|\.rescale$", "OFT"),
    (r"\.[ab][12]\.weight$", "GLoRA"),
    (r"\.(w_norm|b_norm)$", "learned norms"),
    (r"\.diff(_b)?$|\.set_weight$|\.reshape_weight$", "whole differences of weights"),
    (r"\.on_input$|\.ia3_", "IA3"),
    (r"\.lora_E\b|\.ranknum\b", "AdaLoRA"),
    (r"\bvera_lambda_", "VeRA"),
    (r"\.lora_embedding_[AB]\b", "LoRAs of embeddings"),
    (r"trainable_tokens_", "trained tokens"),
    (r"\.lora_(B|up)(\.[^.]+)?\.bias$", "LoRAs with biases (lora_bias)"),
    (r"^(ip_adapter|image_proj)\.", "IP-Adapter"),
    (r"^(bundle_emb|string_to_param|emb_params|clip_[lg]$|<.*>$)", "textual inversion"),
    (r"lora_controlnet", "Control-LoRA"),
)
"""Kinds of files beside plain LoRAs, by their names of weights."""
WEIGHTS = ("pytorch_lora_weights", "adapter_model")
"""What diffusers and peft call their files."""
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
STATES = ("optimizer", "scheduler", "random_states", "training_args")
"""Beginnings of what training scripts keep beside their LoRAs."""
KINDS_READ = (
    "Read are plain LoRAs in the layouts of kohya, diffusers and peft, and AnimateDiff's motion LoRAs; LoHa, LoKr and "
    "DoRA are not"
)


@dataclass
class Change:
    """One weight's change.

    Attributes:
        stem: The weight's name in the file, without what marks it as a LoRA's.
        down: `(rank, in, ...)`.
        up: `(out, rank, ...)`.
        mid: `(rank, rank, kernel, kernel)`, of convolutions in three factors, or None.
        alpha: Number that the change is multiplied by, over the rank; None: the file's tensors do not say.
    """

    stem: str
    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        """The name of the module today: diffusers once wrote `processor.to_out` for `to_out.0`, and so on."""
        plain = self.stem.replace(".processor.", ".")
        return f"{plain}.0" if plain.endswith(".to_out") else plain

    @property
    def rank(self) -> int:
        """Number of columns that are multiplied."""
        assert self.down is not None
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed; empty where the factors do not fit each other."""
        assert self.down is not None
        assert self.up is not None
        if self.down.ndim < 2 or self.up.ndim < 2:
            return ()
        inner = (self.up.flatten(1).shape[1], self.rank)
        if self.mid is None:
            return (self.up.shape[0], *self.down.shape[1:]) if inner[0] == inner[1] else ()
        fits = self.mid.shape[:2] == inner and self.down[0, 0].numel() == 1
        return (self.up.shape[0], self.down.shape[1], *self.mid.shape[2:]) if fits else ()

    def delta(self) -> Tensor:
        """Return the product of the factors, float32.

        With three it is Tucker's: `up` and `down` on the channels of `mid` (LyCORIS, `rebuild_tucker`).
        """
        assert self.down is not None
        assert self.up is not None
        down, up = self.down.float().flatten(1), self.up.float().flatten(1)
        if self.mid is None:
            return (up @ down).reshape(self.shape)
        return torch.einsum("ij...,oi,jc->oc...", self.mid.float(), up, down)


@dataclass(frozen=True)
class LoraPart:
    """A file of a LoRA.

    Attributes:
        path: The file.
        component: Which network it changes, such as `"text_encoder"`, where its place or configuration says so.
        changes: What it changes.
        configs: What is noted of the scale, by component; under an empty name for all.
    """

    path: Path
    component: str | None
    changes: list[Change]
    configs: Mapping[str, AdapterConfig] = field(default_factory=dict)


def read_parts(path: Path) -> list[LoraPart]:
    """Read a LoRA: a file, or a folder as diffusers or peft save it.

    Raises:
        WeightsError: It cannot be read, holds something else, or contradicts itself.
    """
    return [_part(file, component) for file, component in _located(path)]


def _part(file: Path, component: str | None) -> LoraPart:
    """Read a file with what is noted beside it and in its header."""
    changes, configs = read_changes(file), header_configs(file)
    beside = file.with_name(CONFIG)
    if beside.is_file() and (file.stem == WEIGHTS[1] or any(c.stem.startswith("base_model.") for c in changes)):
        if configs:
            raise WeightsError(f"'{file}' says its scale twice, in its header and in '{beside}'. Remove one of them.")
        config, told = folder_config(beside)
        configs, component = {"": config}, component or told
    return LoraPart(file, component, changes, configs)


def _located(path: Path, component: str | None = None) -> list[tuple[Path, str | None]]:
    """Return the files of a LoRA, each with the network it is for where the folder says so.

    Raises:
        WeightsError: The folder holds none, or several that do not belong together.
    """
    if not path.is_dir():
        return [(path, component)]
    for stem in reversed(WEIGHTS) if (path / CONFIG).is_file() else WEIGHTS:
        for ending in (".safetensors", ".bin"):
            if (path / f"{stem}{ending}").is_file():
                return [(path / f"{stem}{ending}", component)]
    parts = [name for name in COMPONENTS if _is_lora_folder(path / name)]
    if parts:
        return [found for name in parts for found in _located(path / name, name)]
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and not file.stem.startswith(STATES))
    inside = sorted(folder for folder in path.iterdir() if _is_lora_folder(folder))
    if not files and len(inside) == 1:
        return _located(inside[0], component)
    if len(files) == 1 and not inside and not (path / "config.json").is_file():
        return [(files[0], component)]
    raise WeightsError(_no_lora(path, [file.name for file in (*inside, *files)]))


def _is_lora_folder(path: Path) -> bool:
    names = (CONFIG, *(f"{WEIGHTS[0]}{ending}" for ending in (".safetensors", ".bin")))
    return any((path / name).is_file() for name in names)


def _no_lora(path: Path, choices: list[str]) -> str:
    """Say why a folder is no LoRA's, and what to give."""
    if (path / "model_index.json").is_file() or (path / "config.json").is_file():
        return f"--lora: '{path}' is the folder of a model, not of a LoRA. Give it as --model or --base."
    if choices:
        return f"--lora: '{path}' holds several LoRAs; give one of them: {', '.join(choices[:8])}."
    return (
        f"--lora: the folder '{path}' holds no LoRA: neither {WEIGHTS[0]}.safetensors, as diffusers saves it, nor "
        f"{CONFIG} and {WEIGHTS[1]}.safetensors, as peft does."
    )


def read_changes(path: Path) -> list[Change]:
    """Read the tensors of a LoRA file.

    Raises:
        WeightsError: It cannot be read, holds weights of another kind, or a factor without its partner.
    """
    content = read_weights(path)
    tensors = _by_network(content) or unwrapped(content, str(path))
    refuse_others(path, [*_words(content), *tensors])
    check_finite(tensors, str(path))
    changes: dict[str, Change] = {}
    adapters: set[str] = set()
    strange: list[str] = []
    for key, value in tensors.items():
        found = next(((m, role) for pattern, role in ROLES if (m := pattern.match(key))), None)
        if found is None:
            strange.append(key)
            continue
        _refuse_second(path, adapters, found[0].groupdict().get("adapter"))
        change = changes.setdefault(found[0][1], Change(found[0][1]))
        if getattr(change, found[1]) is not None:
            raise WeightsError(f"'{path}' changes one weight twice, '{change.stem}' in two spellings, such as '{key}'.")
        setattr(change, found[1], _alpha(path, key, value) if found[1] == "alpha" else value)
    _refuse_strange(path, strange, len(tensors))
    _refuse_broken(path, list(changes.values()))
    return list(changes.values())


def _by_network(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a file with a table for each network, under its name; none of a file without such."""
    tables = {name: content[name] for name in COMPONENTS if isinstance(content.get(name), Mapping)}
    return {
        key if key.startswith(f"{name}.") else f"{name}.{key}": value
        for name, table in tables.items()
        for key, value in unwrapped(table).items()
    }


def _refuse_second(path: Path, adapters: set[str], name: str | None) -> None:
    """Refuse a file with adapters of several names, which peft puts after `lora_A`."""
    adapters |= {name} if name else set()
    if len(adapters) > 1:
        raise WeightsError(f"'{path}' holds several LoRAs ({', '.join(sorted(adapters))}). Save them one by one.")


def _words(content: Mapping[Any, Any], depth: int = 0) -> list[str]:
    """Return the names in a file, also those of what is not unwrapped, of which other kinds are told."""
    inner = [
        word
        for value in content.values()
        if isinstance(value, Mapping) and depth < 3
        for word in _words(value, depth + 1)
    ]
    return [*(str(key) for key in content), *inner]


def refuse_others(path: Path, names: list[str]) -> None:
    """Refuse a file of another kind by its name; nothing of it is used.

    Raises:
        WeightsError: Names the kind, and a weight that shows it.
    """
    for pattern, kind in OTHERS:
        found = [name for name in names if re.search(pattern, name)]
        if found:
            raise WeightsError(
                f"'{path}' holds {kind}, which is not read, as its '{found[0]}' shows. Nothing of it was used. "
                f"{KINDS_READ}."
            )


def _alpha(path: Path, key: str, value: Tensor) -> float:
    """Return a number that is stored as a tensor.

    Raises:
        WeightsError: It holds several.
    """
    if value.numel() != 1:
        raise WeightsError(f"'{path}' has a '{key}' of shape {tuple(value.shape)}; alpha is one number.")
    return float(value)


def _refuse_strange(path: Path, strange: list[str], count: int) -> None:
    """Refuse weights beside those of a LoRA, such as biases and whole weights that were trained with it."""
    if strange:
        beside = ", trained whole beside its LoRA" if len(strange) < count else ""
        raise WeightsError(
            f"'{path}' has {len(strange)} of {count} weights that are no LoRA's{beside}, such as "
            f"{', '.join(strange[:3])}. {KINDS_READ}."
        )


def _refuse_broken(path: Path, changes: list[Change]) -> None:
    if not changes:
        raise WeightsError(f"'{path}' holds no weights by name, so it is no LoRA. {KINDS_READ}.")
    broken = [change.stem for change in changes if change.down is None or change.up is None]
    if broken:
        raise WeightsError(f"'{path}' has {len(broken)} changes with one factor only, such as {', '.join(broken[:3])}.")
