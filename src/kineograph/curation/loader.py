"""Read exported shards in a shuffled order that can be resumed in the middle of an epoch, by any number of ranks.

The order of an epoch is a function of seed and epoch: batches of one bucket each, shuffled. So the whole state is
`(seed, epoch, batch)`: a resumed run sees exactly the samples that an uninterrupted one would have seen, without
reading what it skips, even with another number of ranks. The `webdataset` library reads the same shards as streams,
but cannot resume within an epoch.

Each sample's caption is drawn from its captioners by their weights (SVD, arXiv:2311.15127, app. C: 0.5, 0.25, 0.25),
again as a function of seed, epoch and clip.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kineograph._text import read_json
from kineograph.curation.export import INDEX
from kineograph.errors import DataError, InputError


@dataclass(frozen=True)
class Sample:
    """One clip as it stands in a shard.

    Attributes:
        key: The clip's id.
        video: The bytes of its mp4 file.
        caption: One of its captions, drawn by their weights.
        fields: Everything else: `fps`, `motion_score`, all captions, scores, where it was cut, licence, bucket.
    """

    key: str
    video: bytes
    caption: str
    fields: dict[str, Any]


class ShardLoader:
    """Iterate over batches of exported shards, for ever.

    One iteration yields the batches of the current epoch that are left for this rank, then moves to the next epoch.
    Every rank yields equally many batches per epoch: what does not divide among the ranks is left out, other batches
    in every epoch.

    Args:
        folder: What `export.webdataset` wrote.
        batch_size: Samples per batch; all of one bucket. A bucket's last batch of an epoch may be smaller.
        seed: Of order and captions.
        rank: Of this process.
        world: Number of processes.
        drop_last: Leave smaller batches out.

    Raises:
        DataError: There is no index, or a shard is missing or has another length than it says.
        InputError: A number is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world:
            raise InputError(f"batch_size {batch_size} is at least 1, and rank {rank} from 0 to {world - 1}.")
        self.folder, self.batch_size, self.seed = Path(folder), batch_size, seed
        self.rank, self.world, self.drop_last = rank, world, drop_last
        self._index, self.hash = _read_index(self.folder)
        self._buckets = _by_bucket(self._index)
        self.epoch, self.batch = 0, 0
        if not len(self):
            raise DataError(f"'{folder}' holds {self.num_samples} clips: not one batch of {batch_size} per rank.")

    @property
    def num_samples(self) -> int:
        """Clips in the shards."""
        return sum(map(len, self._buckets.values()))

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        return len(self._order(0)) // self.world

    def state_dict(self) -> dict[str, Any]:
        """Return the position, as plain JSON values; the same on every rank after equally many batches."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "batch": self.batch,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "shards": self.hash,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. The number of ranks may differ from that of the run that saved it.

        Raises:
            DataError: The position is of other shards, or of another batch size.
        """
        if state["shards"] != self.hash:
            raise DataError(f"The position to resume from is of other shards than those in '{self.folder}'.")
        for name in ("batch_size", "drop_last"):
            if state[name] != getattr(self, name):
                raise DataError(f"The run to resume had {name}={state[name]}, this one has {getattr(self, name)}.")
        self.seed, self.epoch, self.batch = state["seed"], state["epoch"], state["batch"]

    def __iter__(self) -> Iterator[list[Sample]]:
        order = self._order(self.epoch)
        while self.batch + self.world <= len(order):
            mine = order[self.batch + self.rank]
            self.batch += self.world  # before the yield: a state saved while the batch is worked on counts it as done
            yield [self._read(place) for place in mine]
        self.epoch, self.batch = self.epoch + 1, 0

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Return the epoch's batches over all ranks: shuffled within buckets, cut, and shuffled among them."""
        random = np.random.default_rng([self.seed, epoch])
        batches = []
        for bucket in sorted(self._buckets):
            places = random.permutation(self._buckets[bucket])
            cut = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
            batches += [one for one in cut if len(one) == self.batch_size or not self.drop_last]
        return [batches[i] for i in random.permutation(len(batches))]

    def _read(self, place: np.ndarray) -> Sample:
        shard = self._index[place[0]]
        entry = shard["samples"][place[1]]
        with (self.folder / shard["file"]).open("rb") as file:
            fields = json.loads(_slice(file, entry["json"]))
            caption = _slice(file, entry["txt"]).decode()
            video = _slice(file, entry["mp4"])
        captions = fields.get("captions")
        drawn = draw_caption(captions, self.seed, self.epoch, entry["key"]) if captions else caption
        return Sample(entry["key"], video, drawn, fields)


def draw_caption(captions: list[dict[str, Any]], seed: int, epoch: int, key: str) -> str:
    """Draw one of a clip's captions by their weights.

    Args:
        captions: With `text` and `weight`; weights need not sum to 1.
        seed: Of the run.
        epoch: Of the run.
        key: The clip's id.
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {key}".encode(), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64 * sum(one["weight"] for one in captions)
    for one in captions:
        point -= one["weight"]
        if point < 0:
            return one["text"]
    return captions[-1]["text"]


def decode(video: bytes, num_frames: int, start: int = 0) -> np.ndarray:
    """Decode frames of a clip's mp4 bytes.

    Args:
        video: The file.
        num_frames: Frames wanted.
        start: First of them.

    Returns:
        uint8 (num_frames, height, width, 3), RGB.

    Raises:
        DataError: The clip is shorter, or is no video.
    """
    import io
    from itertools import islice

    import av

    try:
        with av.open(io.BytesIO(video), "r", format="mp4") as container:
            container.streams.video[0].thread_count = 1
            pictures = islice(container.decode(video=0), start, start + num_frames)
            frames = [picture.to_ndarray(format="rgb24") for picture in pictures]
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"The clip cannot be decoded: {error}.") from error
    if len(frames) < num_frames:
        raise DataError(
            f"The clip has {start + len(frames)} frames; {num_frames} from frame {start} on were asked for."
        )
    return np.stack(frames)


def _slice(file: Any, span: list[int]) -> bytes:
    file.seek(span[0])
    return file.read(span[1])


def _read_index(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Read the index, check that the shards are there, and hash what names their content."""
    file = folder / INDEX
    if not file.is_file():
        raise DataError(f"'{folder}' has no {INDEX}: it is no export of `kineograph curate export`.")
    shards = read_json(file)["shards"]
    for shard in shards:
        path = folder / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            raise DataError(f"'{path}' is {'missing' if size is None else 'damaged'}: it should be {shard['bytes']} B.")
    names = "\n".join(shard["sha256"] for shard in shards)
    return shards, hashlib.sha256(names.encode()).hexdigest()


def _by_bucket(shards: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return `(shard, sample)` of every clip, by bucket."""
    found: dict[str, list[tuple[int, int]]] = {}
    for i, shard in enumerate(shards):
        found.setdefault(shard["bucket"], []).extend((i, j) for j in range(len(shard["samples"])))
    return {bucket: np.array(places) for bucket, places in found.items()}
