"""The animated-emoji data set: Microsoft's Fluent emoji from four npm packages, with keywords from a fifth.

3,391 RGBA WebP files of 256x256 pixels (about two thirds animated, 24 frames a second, mostly 72 or 73 frames), MIT
licence. File names are code points; the PyPI package `emoji` turns them into captions. The names compose person, action
and skin tone, so the test split holds combinations that are absent from training although each part occurs in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from kineograph._text import read_json
from kineograph.data import emoji_words
from kineograph.data.emoji_archives import VERSION, archive_files, contents, is_animated, iterate_archive
from kineograph.data.manifest import Clip, write_manifest
from kineograph.data.replacing import place_text, refuse_existing
from kineograph.errors import DataError, InputError, KineographError, require

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


# The data set ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmojiReport:
    """What `obtain_emoji` did: counts for the user, written to `report.json` as well.

    Attributes:
        clips: Clips in the manifest.
        animated: Those of more than one frame.
        train: Those to train on.
        held_out: Held-out combinations.
        skipped: File to reason, for what cannot be used.
        bytes: Bytes of the clips on disk, without the archives.
        manifest: The manifest.
    """

    clips: int
    animated: int
    train: int
    held_out: int
    skipped: dict[str, str]
    bytes: int
    manifest: str


def obtain_emoji(
    directory: str | Path,
    *,
    archives: str | Path | None = None,
    size: int = 256,
    background: str = "white",
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> EmojiReport:
    """Obtain, decode, composite, caption and split the animated emoji.

    Resumable: archives and clips that are already there are kept, and the manifest is written last.

    Of the clips without loss, 46 of four archives were 6.5 times as large as the originals at 256 pixels, and 2.4 times
    at 128: of 730 MB, that makes about 4.7 and 1.7 GB.

    Args:
        directory: The data set's folder; clips go to `clips/*.webp` (lossless, all frames).
        archives: Folder with archives downloaded before; None downloads to `directory/archives` with `npm`.
        size: Edge in pixels, at most 256 (the originals' size).
        background: Colour name or `#rrggbb` to composite on, or `"transparent"` to keep the alpha channel.
        limit: Take so many clips (for trials), see `chosen`; None takes all.
        overwrite: Make the manifest anew where there is one.
        progress: Called with `(done, total or None, what)`.

    Returns:
        The counts.

    Raises:
        InputError: A size, colour or limit that is not allowed.
        ResourceError: No `npm`, or no network.
        DataError: A broken archive, or a folder that holds a data set.
    """
    _check_options(size, background, limit)
    out = Path(directory)
    refuse_existing(out, overwrite)
    store = Path(archives) if archives is not None else out / "archives"
    _check_settings(out, {"size": size, "background": background})
    (out / "clips").mkdir(parents=True, exist_ok=True)
    *files, words = archive_files(store, download=archives is None, progress=progress)
    keywords = emoji_words.read_keywords(words)
    found, skipped = _listed(files, progress)
    wanted = chosen(found, limit)
    clips = _convert_all(contents(files, wanted), len(wanted), skipped, out, size, background, progress)
    test = held_out(clip.caption for clip in clips)
    clips = [_finished(clip, HELD_OUT_SPLIT if clip.caption in test else "train", keywords) for clip in clips]
    manifest = write_manifest(out, clips)
    tested = sum(clip.split != "train" for clip in clips)
    report = EmojiReport(
        clips=len(clips),
        animated=sum(clip.frames > 1 for clip in clips),
        train=len(clips) - tested,
        held_out=tested,
        skipped=skipped,
        bytes=sum((out / clip.path).stat().st_size for clip in clips),
        manifest=str(manifest),
    )
    place_text(out / "report.json", json.dumps(report.__dict__, indent=2) + "\n")
    return report


def _check_options(size: int, background: str, limit: int | None) -> None:
    """Refuse sizes, colours and limits that cannot be."""
    from PIL import ImageColor

    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} leaves no clip: give 1 or more.")
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
    place_text(file, json.dumps(settings) + "\n")


def _listed(
    archives: Sequence[Path], progress: Callable[[int, int | None, str], None] | None
) -> tuple[dict[str, bool], dict[str, str]]:
    """List the files with a Unicode name, and whether they move, in order; and, with the reason, those without.

    Second spellings of an emoji (`0023-...` and `23-...`) are passed over.
    """
    seen: set[str] = set()
    found: dict[str, bool] = {}
    nameless: dict[str, str] = {}
    for number, archive in enumerate(archives):
        for stem, content in iterate_archive(archive):
            characters = code_points(stem).replace("\ufe0f", "")
            if characters not in seen:
                seen.add(characters)
                if caption_of(characters) is None:
                    nameless[stem] = "no Unicode name"
                else:
                    found[stem] = is_animated(content)
        if progress:
            progress(number + 1, len(archives), "archives looked through")
    return found, nameless


def chosen(found: Mapping[str, bool], limit: int | None) -> set[str]:
    """Choose the emoji of a trial: animated ones first, from all over the set, each with all its skin tones.

    A larger limit chooses the same and more, so that a trial can go on.

    Args:
        found: File stem to whether it moves.
        limit: How many; None takes all.
    """
    families: dict[str, list[str]] = {}
    for stem in found:
        families.setdefault(emoji_words.bare(code_points(stem)), []).append(stem)
    mixed = sorted(families, key=lambda name: hashlib.sha256(f"kineograph-emoji-limit-v1:{name}".encode()).digest())
    stems = [stem for name in mixed for stem in families[name]]
    return set(sorted(stems, key=lambda stem: not found[stem])[:limit])


def _convert_all(
    items: Iterable[tuple[str, bytes]],
    total: int,
    skipped: dict[str, str],
    out: Path,
    size: int,
    background: str,
    progress: Callable[[int, int | None, str], None] | None,
) -> list[Clip]:
    """Convert every file on two threads, in order; what cannot be used is reported by name in `skipped`."""
    clips: list[Clip] = []

    def convert(item: tuple[str, bytes]) -> Clip | tuple[str, str]:
        stem, content = item
        try:
            return _convert(stem, content, out, size, background)
        except KineographError as error:
            return stem, str(error)

    with ThreadPoolExecutor(2) as pool:
        for done, result in enumerate(_bounded_map(pool, convert, items), 1):
            if isinstance(result, Clip):
                clips.append(result)
            else:
                skipped[result[0]] = result[1]
            if progress:
                progress(done, total, "clips")
    return clips


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


def _convert(stem: str, content: bytes, out: Path, size: int, background: str) -> Clip:
    """Decode one original, composite and resize its frames, and write it losslessly."""
    characters = code_points(stem)
    caption = caption_of(characters)
    assert caption is not None
    relative = f"clips/{stem}.webp"
    frames = decode_webp(content, size, None if background == "transparent" else background)
    if not (out / relative).is_file():
        _write(frames, out / relative)
    base, tones = split_tones(caption)
    return Clip(
        path=relative,
        caption=caption,
        fps=FPS if len(frames) > 1 else 0,
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
