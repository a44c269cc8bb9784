"""The animated-emoji data set: Microsoft's Fluent emoji from four npm packages, with keywords from a fifth.

3,391 RGBA WebP files of 256x256 pixels (about two thirds animated, 24 frames a second, mostly 72 or 73 frames), MIT
licence. File names are code points; the PyPI package `emoji` turns them into captions. The names compose person, action
and skin tone, so the test split holds combinations that are absent from training although each part occurs in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from kineograph._text import read_json
from kineograph.data import emoji_words
from kineograph.data.manifest import Clip, write_manifest
from kineograph.errors import DataError, InputError, KineographError, ResourceError, require

PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4))
VERSION = "1.0.0"  # the published version of all four packages; pinned so that the data set is the same everywhere
VERSIONS = dict.fromkeys(PACKAGES, VERSION) | {emoji_words.PACKAGE: emoji_words.VERSION}
T = TypeVar("T")
R = TypeVar("R")
LICENCE = "MIT (Microsoft Fluent Emoji)"
FPS = 1000 / 42  # every frame of the originals lasts 42 ms
SKIN_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
HELD_OUT_SPLIT = "held-out-combinations"
HELD_OUT_PERCENT = 6  # share of the skin-toned names that become the test split
_TONE = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")


# Names -----------------------------------------------------------------------------------------------------------


def code_points(stem: str) -> str:
    """Turn a file stem such as `1f939-1f3ff` into the emoji's characters.

    Raises:
        DataError: The stem is not a list of code points.
    """
    try:  # the three flags of England, Scotland and Wales separate their tags by underscores without the leading `e00`
        return "".join(chr(int(point, 16)) for point in _tag_points(stem))
    except (ValueError, OverflowError) as error:
        raise DataError(f"'{stem}' is not a list of hexadecimal code points.") from error


def _tag_points(stem: str) -> list[str]:
    """Split a stem; a tag sequence (`1f3f4-e0067_e0062_...`) gets its cancel tag back."""
    points = re.split("[-_]", stem)
    return [*points, "e007f"] if "_" in stem else points


def caption_of(characters: str) -> str | None:
    """Return the Unicode name of an emoji in words, or None if it has none.

    `🤹🏿‍♂️` gives "man juggling dark skin tone", `🇱🇾` gives "flag of Libya".
    """
    table = _names()
    name = table.get(characters.replace("\ufe0f", ""))
    if name is None:
        return None
    words = re.sub(r"medium_(light|dark)_skin|medium-(light|dark)_skin", lambda m: f"medium-{m[1] or m[2]}_skin", name)
    words = words.strip(":").replace("_", " ")
    return f"flag of {words}" if _is_flag(characters) and "flag" not in words.lower() else words


def _names() -> dict[str, str]:
    """Map variation-selector-free characters to the English short name of package `emoji`."""
    data = require("emoji", "data").EMOJI_DATA
    return {characters.replace("\ufe0f", ""): entry["en"] for characters, entry in data.items()}


def _is_flag(characters: str) -> bool:
    """Say whether the emoji is a country's or a region's flag."""
    return "\U0001f1e6" <= characters[0] <= "\U0001f1ff" or "\U000e0067" in characters


# Split -----------------------------------------------------------------------------------------------------------


def split_tones(caption: str) -> tuple[str, tuple[str, ...]]:
    """Split a caption into its base and its skin tones: `("man juggling", ("dark skin tone",))`."""
    tones = tuple(_TONE.findall(caption))
    return " ".join(_TONE.sub("", caption).replace(",", " ").split()), tones


def held_out(captions: Iterable[str]) -> set[str]:
    """Choose the held-out combinations, deterministically by name.

    A caption with a skin tone is a candidate if its hash falls into the lowest `HELD_OUT_PERCENT`. It is held out only
    if its base stays in training with another tone and each of its tones stays in training with another base, so that
    every part of a held-out combination has been seen.

    Args:
        captions: All captions of the data set.

    Returns:
        The captions of the test split.
    """
    toned = sorted({caption for caption in captions if split_tones(caption)[1]})
    bases = Counter(split_tones(caption)[0] for caption in toned)
    chosen: set[str] = set()
    for caption in toned:
        base, _ = split_tones(caption)
        digest = int(hashlib.sha256(f"kineograph-emoji-split-v1:{caption}".encode()).hexdigest()[:8], 16)
        if digest % 100 < HELD_OUT_PERCENT and bases[base] > 1:
            chosen.add(caption)
            bases[base] -= 1
    seen_tones = {tone for caption in toned if caption not in chosen for tone in split_tones(caption)[1]}
    return {caption for caption in chosen if set(split_tones(caption)[1]) <= seen_tones}


# Archives --------------------------------------------------------------------------------------------------------


def archive_name(package: str) -> str:
    """Return the file name that `npm pack` gives a package."""
    return f"{package.lstrip('@').replace('/', '-')}-{VERSIONS[package]}.tgz"


def npm_pack(package: str, directory: Path) -> Path:
    """Download one package's archive with the user's `npm`; an archive that is already there is kept.

    Args:
        package: npm name.
        directory: Where the archive goes.

    Returns:
        The archive.

    Raises:
        ResourceError: There is no `npm`, or it failed.
    """
    target = directory / archive_name(package)
    if target.is_file():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise ResourceError(
            "The emoji come from npm packages and this machine has no `npm`. Install it (Debian: apt-get install npm), "
            f"or run `npm pack {package}@{VERSIONS[package]}` elsewhere for each of {', '.join(VERSIONS)} and pass the "
            "folder as --archives."
        )
    staging = directory / f".npm-{target.stem}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    result = subprocess.run(
        [npm, "pack", f"{package}@{VERSIONS[package]}", "--pack-destination", str(staging)],
        capture_output=True,
        text=True,
        check=False,
    )
    packed = sorted(staging.glob("*.tgz"))
    if result.returncode or not packed:
        problem = (result.stderr.strip() or "no output")[-500:]
        raise ResourceError(f"`npm pack {package}@{VERSIONS[package]}` failed: {problem}")
    packed[0].replace(target)
    staging.rmdir()
    return target


def iterate_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield `(stem, file content)` of each WebP of an archive.

    Raises:
        DataError: The file is no readable gzipped tar (for example an interrupted download).
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".webp"):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield Path(member.name).stem, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"'{archive}' is not a complete npm archive ({error}). Delete it and run the command again."
        ) from error


# The data set ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmojiReport:
    """What `obtain_emoji` did: counts for the user, written to `report.json` as well."""

    clips: int
    animated: int
    train: int
    held_out: int
    skipped: dict[str, str]
    manifest: str


def obtain_emoji(
    directory: str | Path,
    *,
    archives: str | Path | None = None,
    size: int = 256,
    background: str = "white",
    limit: int | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> EmojiReport:
    """Obtain, decode, composite, caption and split the animated emoji.

    Resumable: archives and clips that are already there are kept, and the manifest is written last.

    Args:
        directory: The data set's folder; clips go to `clips/*.webp` (lossless, all frames).
        archives: Folder with archives downloaded before; None downloads to `directory/archives` with `npm`.
        size: Edge in pixels, at most 256 (the originals' size).
        background: Colour name or `#rrggbb` to composite on, or `"transparent"` to keep the alpha channel.
        limit: Stop after this many clips (for trials); None takes all.
        progress: Called with `(done, total or None, what)`.

    Returns:
        The counts.

    Raises:
        InputError: A size or colour that is not allowed.
        ResourceError: No `npm`, or no network.
        DataError: A broken archive.
    """
    _check_options(size, background)
    out = Path(directory)
    store = Path(archives) if archives is not None else out / "archives"
    _check_settings(out, {"size": size, "background": background})
    (out / "clips").mkdir(parents=True, exist_ok=True)
    *files, words = _archive_files(store, download=archives is None, progress=progress)
    keywords = emoji_words.read_keywords(words)
    items = _unique(file for archive in files for file in iterate_archive(archive))
    clips, skipped = _convert_all(items, out, size, background, limit, progress)
    test = held_out(clip.caption for clip in clips)
    clips = [_finished(clip, HELD_OUT_SPLIT if clip.caption in test else "train", keywords) for clip in clips]
    manifest = write_manifest(out, clips)
    tested = sum(clip.split != "train" for clip in clips)
    report = EmojiReport(
        len(clips), sum(c.frames > 1 for c in clips), len(clips) - tested, tested, skipped, str(manifest)
    )
    (out / "report.json").write_text(json.dumps(report.__dict__, indent=2) + "\n")
    return report


def _check_options(size: int, background: str) -> None:
    """Refuse sizes and colours that cannot be."""
    from PIL import ImageColor

    if not 8 <= size <= 256:
        raise InputError(f"--size {size} is out of range: the originals are 256 pixels wide; choose 8 to 256.")
    if background != "transparent":
        try:
            ImageColor.getrgb(background)
        except ValueError as error:
            raise InputError(
                f"--background '{background}' is no colour. Use a name like white, #rrggbb, or transparent."
            ) from error


def _check_settings(out: Path, settings: dict[str, object]) -> None:
    """Refuse to mix clips of two settings in one folder; remember the settings of a new one."""
    file = out / "settings.json"
    if file.is_file():
        before = read_json(file)
        if before != settings:
            raise DataError(
                f"'{out}' was begun with {before}; now {settings} was asked. Use another folder or delete it."
            )
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings) + "\n")


def _archive_files(
    store: Path, *, download: bool, progress: Callable[[int, int | None, str], None] | None
) -> list[Path]:
    """Return the archives, downloading them if allowed: the four with pictures, then the one with keywords."""
    store.mkdir(parents=True, exist_ok=True)
    files = []
    for number, package in enumerate(VERSIONS):
        if progress:
            progress(number, len(VERSIONS), f"archive {package}")
        file = store / archive_name(package)
        if not file.is_file() and not download:
            raise DataError(f"'{store}' lacks {file.name}. Get it with: npm pack {package}@{VERSIONS[package]}")
        files.append(npm_pack(package, store))
    return files


def _unique(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str, bytes]]:
    """Yield `(stem, characters, content)`, dropping second spellings of the same emoji (`0023-...` and `23-...`)."""
    seen: set[str] = set()
    for stem, content in files:
        characters = code_points(stem)
        if characters.replace("\ufe0f", "") not in seen:
            seen.add(characters.replace("\ufe0f", ""))
            yield stem, characters, content


def _convert_all(
    items: Iterable[tuple[str, str, bytes]],
    out: Path,
    size: int,
    background: str,
    limit: int | None,
    progress: Callable[[int, int | None, str], None] | None,
) -> tuple[list[Clip], dict[str, str]]:
    """Convert every file on two threads, in order; what cannot be used is reported by name."""
    clips: list[Clip] = []
    skipped: dict[str, str] = {}

    def convert(item: tuple[str, str, bytes]) -> Clip | tuple[str, str]:
        stem, characters, content = item
        caption = caption_of(characters)
        if caption is None:
            return stem, "no Unicode name"
        try:
            return _convert(stem, caption, characters, content, out, size, background)
        except KineographError as error:
            return stem, str(error)

    with ThreadPoolExecutor(2) as pool:
        for result in _bounded_map(pool, convert, items):
            if isinstance(result, Clip):
                clips.append(result)
            else:
                skipped[result[0]] = result[1]
            if progress:
                progress(len(clips), None, "clips")
            if limit is not None and len(clips) >= limit:
                break
    return clips, skipped


def _bounded_map(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 8
) -> Iterator[R]:
    """Map in order with at most `ahead` results waiting, so that a fast reader does not fill memory."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _convert(stem: str, caption: str, characters: str, content: bytes, out: Path, size: int, background: str) -> Clip:
    """Decode one original, composite and resize its frames, and write it losslessly."""
    relative = f"clips/{stem}.webp"
    frames = decode_webp(content, size, None if background == "transparent" else background)
    if not (out / relative).is_file():
        _write(frames, out / relative)
    base, tones = split_tones(caption)
    return Clip(
        path=relative,
        caption=caption,
        fps=round(FPS, 6) if len(frames) > 1 else 0,
        frames=len(frames),
        width=size,
        height=size,
        source=f"npm:@lobehub/fluent-emoji-anim {VERSION} {stem}.webp",
        licence=LICENCE,
        extra={"emoji": characters, "base": base, "skin_tones": list(tones)},
    )


def decode_webp(content: bytes, size: int, background: str | None):
    """Decode all frames of an RGBA WebP.

    Args:
        content: The file's bytes.
        size: Edge to resize to, in pixels (area average).
        background: Colour to composite on; None keeps RGBA.

    Returns:
        uint8 array `(frames, size, size, 3 or 4)`.

    Raises:
        DataError: The bytes are not a WebP picture or are cut off.
    """
    import numpy as np
    from PIL import Image, ImageSequence

    frames = []
    try:
        with Image.open(BytesIO(content), formats=["WEBP"]) as image:
            for frame in ImageSequence.Iterator(image):
                rgba = frame.convert("RGBA")
                if background is not None:
                    rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
                if rgba.size != (size, size):
                    rgba = rgba.resize((size, size), Image.Resampling.BOX)
                frames.append(np.asarray(rgba))
    except (OSError, EOFError, SyntaxError) as error:
        raise DataError("not a readable WebP picture") from error
    return np.stack(frames)


def _write(frames, path: Path) -> None:
    """Write frames as lossless animated WebP (one frame as a still)."""
    from kineograph.video import Video

    Video.from_uint8(frames, fps=FPS).save(path)


def _finished(clip: Clip, split: str, keywords: dict[str, list[str]]) -> Clip:
    """Return the clip with its split and its other captions."""
    from dataclasses import replace

    words = keywords.get(emoji_words.bare(clip.extra["emoji"]), [])
    return replace(clip, split=split, extra={**clip.extra, "captions": emoji_words.phrasings(clip.caption, words)})
