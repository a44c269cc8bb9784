"""The clips of an evaluation: where they come from, which frames are taken, which prompt belongs to which."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kineograph._container import FOLDER_RECORD
from kineograph._pictures import PICTURE_SUFFIXES
from kineograph._text import read_json, read_json_lines, read_words
from kineograph.data.manifest import MANIFEST_NAME, read_manifest
from kineograph.errors import DataError, InputError, KineographError, MediaError
from kineograph.metrics.features.weights import file_hash
from kineograph.video import Video, probe

SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".webp", ".apng")
Rule = Literal["first", "middle", "random"]
RULES = ("first", "middle", "random")
ClipSource: TypeAlias = str | Path | Tensor | np.ndarray | Sequence["Video | str | Path"]


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are measured.

    Attributes:
        num_frames: Frames per clip; None takes all.
        stride: Every how many frames of the file.
        rule: `"first"`, `"middle"` or `"random"` window of a longer clip; random is drawn from the seed and the name.
        seed: Of the random rule.
        size: Side in pixels to which clips are scaled before anything else; None keeps theirs.
    """

    num_frames: int | None = 16
    stride: int = 1
    rule: Rule = "first"
    seed: int = 0
    size: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES or self.stride < 1 or (self.num_frames is not None and self.num_frames < 1):
            raise InputError(
                f"Frames must be chosen by one of {RULES} with num_frames and stride from 1, given {self}."
            )

    @property
    def key(self) -> str:
        """Hash of the choice."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]

    def facts(self) -> dict[str, Any]:
        """What the protocol records."""
        chosen: dict[str, Any] = {"frames": self.num_frames or "all", "stride": self.stride, "window": self.rule}
        chosen |= {"window_seed": self.seed} if self.rule == "random" else {}
        return chosen | ({"scaled_to": self.size} if self.size else {})

    def indices(self, length: int, name: str) -> list[int]:
        """Frame indices of a clip of `length` frames.

        Raises:
            MediaError: The clip is too short.
        """
        count = self.num_frames or -(-length // self.stride)
        span = (count - 1) * self.stride + 1
        if span > length:
            raise MediaError(
                f"{name} has {length} frame{'s' * (length != 1)}; {count} frames at stride {self.stride} need {span}."
            )
        start = {"first": 0, "middle": (length - span) // 2}.get(self.rule)
        if start is None:
            digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
            start = int.from_bytes(digest[:8], "big") % (length - span + 1)
        return list(range(start, start + span, self.stride))


class Facts(NamedTuple):
    """Length and size of a clip: frames, and pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Record:
    """One clip to measure.

    Attributes:
        name: What it is called in reports, and how it is paired with its reference: the path without its suffix.
        load: Decodes it.
        identity: Gives the hash of its content.
        prompt: Its prompt; None means: ask the file.
        embedded: Reads the prompt that the file carries.
        facts: Looks for length and size without decoding; None where only decoding tells.
    """

    name: str
    load: Callable[[], Video]
    identity: Callable[[], str]
    prompt: str | None = None
    embedded: Callable[[], str | None] = lambda: None
    facts: Callable[[], Facts | None] = lambda: None

    def find_prompt(self) -> str | None:
        """The prompt given, or the one that the file carries."""
        return self.prompt or self.embedded()


def look_at(path: Path) -> Facts | None:
    """Return what a file says of its length and size, without decoding it; None where it does not."""
    try:
        info = probe(path)
    except (KineographError, OSError):
        return None
    return None if info.frames is None else Facts(info.frames, info.height, info.width)


def read_clip(path: Path) -> Video:
    """Decode a file, white behind transparency. The one place of an evaluation that decodes."""
    return Video.read(path, background="white")


def list_clips(source: ClipSource, what: str) -> list[Record]:
    """List the clips of a folder, a manifest, a list of paths or videos, or an array.

    Args:
        source: A folder of videos or of folders of numbered pictures (with subfolders), or with a `manifest.jsonl`; a
            folder of numbered pictures, which is one clip; a manifest; paths or `Video`s; pixels of shape (clips,
            frames, channels, height, width) in [-1, 1], or uint8 (clips, frames, height, width, 3).
        what: What they are, for messages.

    Returns:
        At least one record, in the order of their names or as given.

    Raises:
        InputError: Nothing there, or another type.
    """
    if isinstance(source, (Tensor, np.ndarray)):
        records = [_from_video(_as_video(x, what), f"{i:05d}") for i, x in enumerate(source)]
    elif isinstance(source, (str, Path)):
        records = _from_path(Path(source).expanduser(), what)
    else:
        records = [_from_entry(x, i) for i, x in enumerate(source)]
    if not records:
        raise InputError(
            f"There are no clips in {what} '{source}'. Looked for: {', '.join(SUFFIXES)}, and folders of numbered "
            "pictures."
        )
    return _distinct(records, what)


def _from_entry(entry: Video | str | Path, index: int) -> Record:
    if isinstance(entry, Video):
        return _from_video(entry, f"{index:05d}")
    return _from_file(Path(entry), _bare(Path(entry)).name)


def _from_path(path: Path, what: str) -> list[Record]:
    if not path.exists():
        raise InputError(f"{what} '{path}' does not exist.")
    if path.suffix == ".jsonl" or (path / MANIFEST_NAME).is_file():
        root = path if path.is_dir() else path.parent
        return [
            replace(_from_file(root / clip.path, str(Path(clip.path).with_suffix(""))), prompt=clip.caption or None)
            for clip in read_manifest(path)
        ]
    if path.is_file():
        return [_from_file(path, path.stem)]
    if is_frames(path):
        return [_from_file(path, path.resolve().name)]
    found = sorted(f for f in path.rglob("*") if (f.suffix.lower() in SUFFIXES and f.is_file()) or is_frames(f))
    return [_from_file(f, str(_bare(f).relative_to(path))) for f in found]


def _bare(path: Path) -> Path:
    """Return a file's path without its suffix; folders have none."""
    return path if path.is_dir() else path.with_suffix("")


BESIDE = (".txt", ".json", ".csv", ".db")
"""What may lie in a folder of frames beside them: captions, records, thumbnails."""


def is_frames(folder: Path) -> bool:
    """Say whether a folder is a clip: numbered pictures, or what `Video.save` writes, and nothing else that is seen."""
    if not folder.is_dir():
        return False
    files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")]
    pictures = [f for f in files if f.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures or (folder / MANIFEST_NAME).is_file():
        return False
    if (folder / FOLDER_RECORD).is_file():
        return True
    others = [f for f in files if f not in pictures and f.suffix.lower() not in BESIDE]
    numbered = all(re.search(r"\d", f.stem) and f.suffix.lower() not in SUFFIXES for f in pictures)
    return len(pictures) > 1 and numbered and not others


def _from_file(path: Path, name: str) -> Record:
    embedded = lambda: Video.read_metadata(path).get("prompt")
    return Record(
        name,
        lambda: read_clip(path),
        lambda: _content_hash(path),
        None,
        embedded,
        functools.cache(lambda: look_at(path)),
    )


def _content_hash(path: Path) -> str:
    if path.is_dir():
        parts = [f"{file.name} {file_hash(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if not path.is_file():
        raise MediaError(f"{path} does not exist.")
    return file_hash(path)


def _from_video(video: Video, name: str) -> Record:
    identity = lambda: hashlib.sha256(video.frames.numpy().tobytes()).hexdigest()
    facts = Facts(len(video), video.height, video.width)
    return Record(name, lambda: video, identity, video.metadata.get("prompt"), facts=lambda: facts)


def _as_video(clip: Tensor | np.ndarray, what: str) -> Video:
    x = torch.as_tensor(clip)
    if x.ndim != 4:
        raise InputError(
            f"{what} must have shape (clips, frames, channels, height, width), given clips of {tuple(x.shape)}."
        )
    if x.dtype == torch.uint8:
        return Video.from_uint8(x if x.shape[-1] == 3 else x.movedim(1, -1), fps=8.0)
    return Video(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x, fps=8.0)


def _distinct(records: list[Record], what: str) -> list[Record]:
    names = [record.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"Several clips of {what} share the name '{twice[0]}'; give them different names.")
    return records


def attach_prompts(
    records: Sequence[Record], prompts: str | Path | Mapping[str, str] | Sequence[str] | None
) -> list[Record]:
    """Give every clip its prompt.

    Args:
        records: The clips.
        prompts: A text file with a line per clip in the order of names; a JSON object from name to prompt; a JSON-lines
            file with `path`, `file` or `name` and `caption` or `prompt`; the same as a list or mapping; or None, which
            leaves the manifest's captions and the prompts embedded in the files.

    Returns:
        The records with prompts.

    Raises:
        InputError: Another number of lines than clips, or a clip without a prompt.
    """
    if prompts is None:
        return list(records)
    given = _read_prompts(Path(prompts)) if isinstance(prompts, (str, Path)) else prompts
    if isinstance(given, Mapping):
        table = {str(Path(k).with_suffix("")) if Path(k).suffix in SUFFIXES else k: v for k, v in given.items()}
        missing = [r.name for r in records if r.name not in table]
        if missing:
            raise InputError(
                f"{len(missing)} clips have no prompt, such as '{missing[0]}'. Known: {sorted(table)[:5]}."
            )
        return [replace(r, prompt=table[r.name]) for r in records]
    if len(given) != len(records):
        raise InputError(
            f"{len(given)} prompts for {len(records)} clips: give one line per clip, or a JSON object by name."
        )
    return [replace(r, prompt=p) for r, p in zip(records, given, strict=True)]


def _read_prompts(path: Path) -> Mapping[str, str] | list[str]:
    if not path.is_file():
        raise InputError(f"The prompt file '{path}' does not exist.")
    if path.suffix == ".json":
        return _prompt_table(read_json(path), path)
    if path.suffix == ".jsonl":
        return dict(_prompt_row(row, f"{path}:{number}") for number, row in read_json_lines(path))
    return read_words(path)


def _prompt_table(content: Any, path: Path) -> Mapping[str, str]:
    if not isinstance(content, dict) or not all(isinstance(prompt, str) for prompt in content.values()):
        raise DataError(f"'{path}' is no prompt file: expected a JSON object from clip name to prompt.")
    return content


def _prompt_row(row: Any, where: str) -> tuple[str, str]:
    """Return a clip's name and prompt from one line of JSON."""
    found = row if isinstance(row, dict) else {}
    name, prompt = (
        next((found[key] for key in keys if isinstance(found.get(key), str)), None)
        for keys in (("path", "file", "name"), ("caption", "prompt"))
    )
    if name is None or prompt is None:
        raise DataError(f"{where}: expected an object with path (or file, name) and caption (or prompt).")
    return name, prompt


def fingerprint(identities: Iterable[str]) -> str:
    """Hash of a set of files, independent of their order."""
    return hashlib.sha256("".join(sorted(identities)).encode()).hexdigest()[:12]
