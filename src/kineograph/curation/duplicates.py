"""The same clip twice: exactly, by its content id, and nearly, by a perceptual hash.

A clip's hash is three 64-bit difference hashes (Krawetz 2013, "Kind of like that"): for first, middle and last frame,
whether each of 8 x 8 cells is darker than its right neighbour. Scaling, re-encoding, brightness and small marks change
few of the 192 bits; different pictures differ in about half. Pairs within a radius are found exactly, without
comparing all with all, by multi-index hashing (Norouzi et al. 2012, arXiv:1307.2982, sec. 3): two hashes that differ
in fewer bits than there are chunks agree in at least one chunk.

Clips whose frames are blank have no hash worth comparing: everything black would be a copy of everything else black.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.errors import InputError

BITS = 192
CHUNKS = 16
CHUNK_BITS = 12
DEFAULT_RADIUS = 14
"""Bits of 192. On Big Buck Bunny, 50 clips scaled from 720 to 270 lines and encoded at CRF 32 differ from their
originals in at most 14 bits, half of them in at most 4; different clips differ in at least 28."""
_BLOCK = 256
MIN_EDGES = 6
"""Fewest bits set or cleared over the three hashes: a blank clip has none, a plain gradient all."""
CONTRAST = 2.0
"""Grey levels by which a cell must be darker than its neighbour, so that noise in flat areas sets no bits."""
DUPLICATES_FILE = "duplicates.parquet"


def video_hash(strip: np.ndarray) -> str:
    """Hash a clip's look.

    Args:
        strip: uint8 (3, height, width, 3): first, middle and last frame in RGB.

    Returns:
        48 hex digits.
    """
    return "".join(f"{_frame_hash(frame):016x}" for frame in strip)


def _frame_hash(frame: np.ndarray) -> int:
    cells = shrink(grey(frame), 8, 9)
    bits = cells[:, :-1] + CONTRAST < cells[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def grey(frame: np.ndarray) -> np.ndarray:
    """Luma of an RGB picture (Rec. 601), float32 (height, width) in [0, 255]."""
    return frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average a picture (h, w) over a grid of cells; cells share the pixels on their borders by area."""
    return _box(height, picture.shape[0]) @ picture @ _box(width, picture.shape[1]).T


def _box(cells: int, pixels: int) -> np.ndarray:
    """Weights (cells, pixels) of an area average; rows sum to 1."""
    edges = np.linspace(0, pixels, cells + 1)
    left, right = np.arange(pixels), np.arange(1, pixels + 1)
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    overlap = np.clip(overlap, 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def distance(first: str, second: str) -> int:
    """Number of differing bits of two hashes, 0 to 192."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def telling(phash: str) -> bool:
    """Whether a hash has enough detail to be compared."""
    ones = int(phash or "0", 16).bit_count()
    return MIN_EDGES <= ones <= BITS - MIN_EDGES


def near_pairs(hashes: Iterable[str], radius: int = DEFAULT_RADIUS) -> list[tuple[int, int, int]]:
    """Find all pairs of hashes within a radius.

    Args:
        hashes: 48 hex digits each; hashes that are not `telling` take no part.
        radius: Largest number of differing bits, at most 15.

    Returns:
        `(i, j, distance)` with i < j, sorted; every such pair, none twice.

    Raises:
        InputError: The radius is beyond what the index guarantees.
    """
    if not 0 <= radius < CHUNKS:
        raise InputError(f"The radius is {radius} bits; pairs are found for sure from 0 to {CHUNKS - 1}.")
    hashes = list(hashes)
    use = np.array([i for i, one in enumerate(hashes) if telling(one)], np.int64)
    found: dict[tuple[int, int], int] = {}
    if len(use) < 2:
        return []
    data = np.frombuffer(bytes.fromhex("".join(hashes[i] for i in use)), np.uint8).reshape(len(use), -1)
    chunks = np.unpackbits(data, axis=1).reshape(len(use), CHUNKS, CHUNK_BITS) @ (1 << np.arange(CHUNK_BITS))
    words = data.view(np.uint64)
    for chunk in range(CHUNKS):
        for group in _equal_groups(chunks[:, chunk]):
            _compare(words, use, group, radius, found)
    return sorted((i, j, d) for (i, j), d in found.items())


def _equal_groups(values: np.ndarray) -> Iterable[np.ndarray]:
    """Yield the positions of each value that occurs more than once."""
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    return (group for group in np.split(order, cuts) if len(group) > 1)


def _compare(words: np.ndarray, use: np.ndarray, group: np.ndarray, radius: int, found: dict) -> None:
    """Add the pairs of a group that lie within the radius, a block of rows against the rest at a time."""
    group = np.sort(group)
    for start in range(0, len(group) - 1, _BLOCK):
        rest = group[start:]
        rows = rest[:_BLOCK]
        bits = np.bitwise_count(words[rows][:, None] ^ words[rest]).sum(-1)
        for i, j in zip(*np.nonzero(np.triu(bits <= radius, 1)), strict=True):
            found[int(use[rows[i]]), int(use[rest[j]])] = int(bits[i, j])


@dataclass(frozen=True)
class Duplicates:
    """Which clips are copies of which.

    Attributes:
        radius: Largest distance of a near pair, in bits.
        clips: Clips looked at.
        exact: Clips that are bit for bit another clip's file.
        near: Clips that look like another clip.
        blank: Clips without enough detail to compare by looks.
        rows: One per copy: `clip_id`, `duplicate_of`, `kind` (`"exact"` or `"near"`) and `distance` to the kept clip.
    """

    radius: int
    clips: int
    exact: int
    near: int
    blank: int
    rows: list[dict[str, Any]] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Give counts and rows as plain JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """Give the counts in words."""
        return (
            f"{self.exact} exact and {self.near} near duplicates among {self.clips} clips (within {self.radius} of "
            f"{BITS} bits); {self.blank} clips too plain to compare"
        )


def duplicates_among(clips: list[dict[str, Any]], radius: int = DEFAULT_RADIUS) -> Duplicates:
    """Name the copies among clips.

    Of each group that hangs together by near pairs, the clip with most pixels, then most frames, then the smallest id
    is kept. Near copies must also agree in length to a tenth, so that a still title and a film that begins with it
    stay two clips.

    Args:
        clips: Rows with `clip_id`, `sha256`, `phash`, `width`, `height`, `frames` and `duration`.
        radius: See `near_pairs`.
    """
    ranked = sorted(clips, key=lambda c: (-c["width"] * c["height"], -c["frames"], c["clip_id"]))
    parent = list(range(len(ranked)))
    kinds = ["near"] * len(ranked)
    first: dict[str, int] = {}
    for i, clip in enumerate(ranked):
        if clip["sha256"] and (j := first.setdefault(clip["sha256"], i)) != i:
            kinds[i] = "exact"
            _join(parent, i, j)
    for i, j, _ in near_pairs([clip["phash"] for clip in ranked], radius):
        if _alike_in_length(ranked[i], ranked[j]):
            _join(parent, i, j)
    rows = []
    for i, clip in enumerate(ranked):
        if (root := _root(parent, i)) != i:
            kept = ranked[root]
            bits = distance(clip["phash"] or "0", kept["phash"] or "0")
            rows.append(
                {"clip_id": clip["clip_id"], "duplicate_of": kept["clip_id"], "kind": kinds[i], "distance": bits}
            )
    rows.sort(key=lambda row: row["clip_id"])
    exact = sum(row["kind"] == "exact" for row in rows)
    blank = sum(not telling(clip["phash"]) for clip in ranked)
    return Duplicates(radius, len(ranked), exact, len(rows) - exact, blank, rows)


def _alike_in_length(first: dict[str, Any], second: dict[str, Any]) -> bool:
    longer = max(first["duration"], second["duration"])
    return abs(first["duration"] - second["duration"]) <= 0.1 * longer


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = i = parent[parent[i]]
    return i


def _join(parent: list[int], i: int, j: int) -> None:
    """Unite two groups under their first member, which is the one to keep."""
    i, j = sorted((_root(parent, i), _root(parent, j)))
    parent[j] = i


def find(out: str | Path, *, radius: int = DEFAULT_RADIUS) -> Duplicates:
    """Find the copies among all clips of an output folder, and write them to its `duplicates.parquet`.

    The catalogue joins `duplicate_of` to the clips; nothing is deleted.

    Args:
        out: Folder that `kineograph curate` wrote.
        radius: See `near_pairs`.
    """
    from kineograph.curation.catalogue import Catalogue
    from kineograph.curation.parts import write_part
    from kineograph.curation.rows import schema_of

    with Catalogue(out) as catalogue:
        clips = catalogue.query(
            "SELECT clip_id, sha256, phash, width, height, frames, duration FROM clips ORDER BY clip_id"
        )
    found = duplicates_among(clips, radius)
    columns = {"clip_id": "string", "duplicate_of": "string", "kind": "string", "distance": "int64"}
    write_part(Path(out) / DUPLICATES_FILE, found.rows, schema_of(columns))
    return found
