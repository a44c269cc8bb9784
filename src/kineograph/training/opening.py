"""What a run says first of its data: which clips, which part of each picture, which seconds, captions, validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from kineograph.data.captions import weighted_captions
from kineograph.data.frames import FrameStore
from kineograph.data.lengths import fitting
from kineograph.errors import DataError

PREVIEWS = 6
"""Prompts, or clips, that a preview shows."""


def about_data(store: FrameStore, held_out: str, *, num_frames: int = 1, captions: bool = False) -> list[str]:
    """Return what is to be said of a data set before training on it, a line each.

    Args:
        store: Its frames.
        held_out: The split to validate on.
        num_frames: Frames per sample; with 1, pictures.
        captions: Whether the stage reads them.
    """
    about = [*_clips(store, num_frames), *_pictures(store), *_seconds(store), *_validation(store, held_out, num_frames)]
    return [*about, *(_captions(store) if captions else ())]


def usable(store: FrameStore, split: str, num_frames: int) -> np.ndarray:
    """Return the indices of a split's clips that give a run's frames."""
    clips = store.clips_of(split)
    return clips[fitting(store.counts[clips], num_frames, store.spec.fps).kept]


def training_clips(store: FrameStore, num_frames: int) -> np.ndarray:
    """Return the indices of the training clips that give a run's frames.

    Raises:
        DataError: None does; the message says how long the longest is.
    """
    every = store.clips_of("train")
    if len(every) == 0:
        splits = ", ".join(sorted({clip.split for clip in store.clips})) or "none"
        raise DataError(f"The data set has no clip of the split 'train' to learn from; its splits: {splits}.")
    check_lengths(store.counts[every].tolist(), num_frames, store.spec.fps)
    return usable(store, "train", num_frames)


def check_lengths(given: Sequence[int], num_frames: int, fps: float) -> None:
    """Refuse a number of frames that no training clip gives.

    Args:
        given: Frames of each training clip at the run's rate.
        num_frames: Frames of a sample.
        fps: The run's rate.

    Raises:
        DataError: The message says how long the longest is.
    """
    fit, longest = fitting(given, num_frames, fps), max(given)
    if not fit.kept:
        raise DataError(
            f"There is nothing to train on: {fit}. The longest training clip gives {longest}: "
            + (f"--num-frames {longest}, a higher --sample-fps, or longer clips." if longest > 1 else "no motion.")
        )


def preview_prompts(store: FrameStore, held_out: str, count: int = PREVIEWS) -> tuple[str, ...]:
    """Return captions to draw previews of: of held-out clips and of training clips, half each, spread evenly."""
    unseen = _spread(_texts(store, held_out), count // 2)
    seen = [text for text in _texts(store, "train") if text not in unseen]
    return (*unseen, *_spread(seen, count - len(unseen)))


def _texts(store: FrameStore, split: str) -> list[str]:
    """Return the different captions of a split's clips, the first of each."""
    texts = (weighted_captions(store.clips[clip])[0][0].strip() for clip in store.clips_of(split))
    return list(dict.fromkeys(text for text in texts if text))


def _spread(texts: Sequence[str], count: int) -> tuple[str, ...]:
    picks = np.linspace(0, len(texts) - 1, min(count, len(texts))).round().astype(int)
    return tuple(texts[int(pick)] for pick in picks)


def _clips(store: FrameStore, num_frames: int) -> Iterator[str]:
    clips = store.clips_of("train")
    yield f"data: {fitting(store.counts[clips], num_frames, store.spec.fps)} of the split 'train'"
    if store.failed:
        path, why = next(iter(store.failed.items()))
        yield f"data: {len(store.failed)} clips cannot be read and are left out, such as '{path}': {why}"


def _pictures(store: FrameStore) -> Iterator[str]:
    """Say how much of the pictures is cut off."""
    shares = [1 - min(clip.width, clip.height) / max(clip.width, clip.height) for clip in store.clips]
    cropped, size = sum(share > 0 for share in shares), store.spec.size
    lost = f"; of {cropped} of {len(shares)} clips the sides are cut off, up to {max(shares):.0%} of the picture"
    yield f"pictures: the middle square, at {size}x{size} pixels{lost if cropped else ''}"


def _seconds(store: FrameStore) -> Iterator[str]:
    """Say which seconds of clips are used."""
    spec = store.spec
    seconds = spec.max_frames / spec.fps
    end = seconds + 0.5 / spec.fps
    longer = [clip for clip in store.clips if clip.frames > 1 and clip.fps and clip.frames / clip.fps > end]
    rest = f"; {len(longer)} of {len(store.clips)} clips are longer, and their rest is not used (--max-frames)"
    yield (
        f"seconds: the first {seconds:g} s of each clip, {spec.max_frames} frames at {spec.fps:g} fps"
        f"{rest if longer else ''}"
    )


def _validation(store: FrameStore, held_out: str, num_frames: int) -> Iterator[str]:
    splits = Counter(clip.split for clip in store.clips)
    if held_out in splits:
        clips = store.clips_of(held_out)
        fit = fitting(store.counts[clips], num_frames, store.spec.fps)
        yield f"validation: the split '{held_out}'; {fit}"
        return
    others = [split for split in splits if split != "train"]
    offer = f" Perhaps --held-out {others[0]}?" if others else ""
    yield (
        f"validation: only on training clips, since there is no split '{held_out}'. The splits are {_listed(splits)}."
        f"{offer}"
    )


def _captions(store: FrameStore) -> Iterator[str]:
    clips = store.clips_of("train")
    empty = sum(not any(text.strip() for text, _ in weighted_captions(store.clips[clip])) for clip in clips)
    if empty == len(clips):
        yield f"captions: none of the {len(clips)} training clips has one, so nothing is learned about words"
    elif empty:
        yield f"captions: {empty} of {len(clips)} training clips have none"


def _listed(splits: Counter[str]) -> str:
    return ", ".join(f"{split} ({count} clips)" for split, count in splits.items())
