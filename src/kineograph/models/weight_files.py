"""Which files of a folder of diffusers or transformers hold a network's weights.

    STEM.safetensors                      whole
    STEM.fp16.safetensors                 a variant (`variant="fp16"`)
    STEM.safetensors.index.json           in shards, STEM-00001-of-00002.safetensors and so on
    STEM.safetensors.index.fp16.json      a variant in shards; older writers put the variant before `.safetensors`

and the same with `.bin`, where transformers says `pytorch_model` for `model`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kineograph._notices import notice
from kineograph._read_weights import read_configuration
from kineograph.errors import WeightsError

PRECISIONS = ("", "fp32", "fp16", "bf16")
"""Variants in the order of preference; no name is full precision. Other variants come after these."""
ENDINGS = ("safetensors", "bin")
"""In the order of preference."""
ELSEWHERE = (".msgpack", ".h5", ".onnx", ".gguf", ".tflite", ".xml")
"""Endings of weights for other programs, which are not read."""


@dataclass(frozen=True, order=True)
class Candidate:
    """Files that together hold all weights; the least is preferred.

    Attributes:
        precision: Place of the variant among `PRECISIONS`.
        ending: Place among `ENDINGS`.
        shards: Whether there are several files.
        name: The file, or the index of several.
        variant: Name of the variant; empty for none.
    """

    precision: int
    ending: int
    shards: bool
    name: str
    variant: str


def find_files(folder: str | Path, stem: str, *, quiet: bool = False) -> list[Path]:
    """Return the files that together hold a network's weights, and say which were taken where there are several.

    Full precision is preferred to `fp16`, that to other variants, safetensors to PyTorch files, one file to several.

    Args:
        folder: The network's folder.
        stem: `"diffusion_pytorch_model"`, or `"model"` as transformers says.
        quiet: Say nothing.

    Raises:
        WeightsError: There is none, or an index of shards is wrong.
    """
    root = Path(folder)
    found = sorted(filter(None, (_candidate(path.name, stem) for path in root.iterdir()))) if root.is_dir() else []
    if not found:
        raise WeightsError(_none_found(root, stem))
    best = found[0]
    if len(found) > 1 and not quiet:
        precision = "full precision" if best.variant in PRECISIONS[:2] else best.variant
        others = ", ".join(other.name for other in found[1:])
        notice(f"'{root}' holds its weights several times; taken is {best.name} ({precision}), not {others}.")
    if best.name.endswith(".json"):
        return shards_of(root / best.name)
    return _numbered(root, best.name) if best.shards else [root / best.name]


NEVER_READ = ("safety_checker",)
"""Parts of pipelines whose weights nothing here wants."""


def lacks_weights(folder: str | Path) -> bool:
    """Say whether a model folder, or a part of it, has a configuration of a network and no weights beside it."""
    root = Path(folder)
    parts = [path.parent for path in (root / "config.json", *root.glob("*/config.json")) if path.is_file()]
    stems = ("diffusion_pytorch_model", "model")
    return any(
        part.name not in NEVER_READ
        and not any(_candidate(path.name, stem) for path in part.iterdir() for stem in stems)
        for part in parts
    )


def _candidate(name: str, stem: str) -> Candidate | None:
    """Return what a file is, if it is one that holds or lists weights; of shards without an index the first."""
    for place, ending in enumerate(ENDINGS):
        own = "pytorch_model" if stem == "model" and ending == "bin" else stem
        variant = r"(?:\.(?P<variant>\w+))?"
        for shards, pattern in (
            (False, rf"{own}{variant}\.{ending}"),
            (True, rf"{own}{variant}\.{ending}\.index\.json"),
            (True, rf"{own}\.{ending}\.index\.(?P<variant>\w+)\.json"),
            (True, rf"{own}{variant}-0*1-of-\d+\.{ending}"),
        ):
            if found := re.fullmatch(pattern, name):
                kind = found["variant"] or ""
                rank = PRECISIONS.index(kind) if kind in PRECISIONS else len(PRECISIONS)
                return Candidate(rank, place, shards, name, kind)
    return None


def _none_found(root: Path, stem: str) -> str:
    others = sorted(path.name for path in root.iterdir() if path.suffix in ELSEWHERE) if root.is_dir() else []
    old = "pytorch_model" if stem == "model" else stem
    said = f"; {', '.join(others)} is for another program and not read" if others else ""
    return f"'{root}' holds no weights: there is no {stem}.safetensors and no {old}.bin{said}."


def _numbered(root: Path, first: str) -> list[Path]:
    """Return the shards of a set whose index is lost, by the numbers in their names.

    Raises:
        WeightsError: One is missing.
    """
    found = re.fullmatch(r"(.*-)(0*1)(-of-)(\d+)(\.\w+)", first)
    assert found
    before, one, between, count, ending = found.groups()
    if int(count) > 10_000:
        raise WeightsError(f"'{root / first}' says that it is one of {count} files, which is not believed.")
    names = [f"{before}{n:0{len(one)}d}{between}{count}{ending}" for n in range(1, int(count) + 1)]
    for name in names:
        if not (root / name).is_file():
            raise WeightsError(f"'{root}' holds weights in {count} files, of which '{name}' is missing.")
    return [root / name for name in names]


def shards_of(index: Path) -> list[Path]:
    """Return the files that an index names, all in its own folder.

    Raises:
        WeightsError: It cannot be read, names none, one elsewhere, or one that is missing.
    """
    parts = _weight_map(index)
    for part in parts:
        if not isinstance(part, str) or Path(part).name != part or part in ("", ".", ".."):
            raise WeightsError(
                f"'{index}' names a file of weights '{part}' outside its own folder, which is not read. It must be the "
                "name of a file beside it."
            )
    for part in sorted(set(parts)):
        if not (index.parent / part).is_file():
            raise WeightsError(f"'{index}' names '{part}', which is not beside it: a file of the weights is missing.")
    return [index.parent / part for part in sorted(set(parts))]


def _weight_map(index: Path) -> list[str]:
    content = read_configuration(index)
    parts = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not parts:
        raise WeightsError(f"'{index}' names no files of weights.")
    return list(parts.values())
