"""The loader sees every clip once an epoch, and a resumed run sees what an uninterrupted one would have."""

import dataclasses
import io
import json
from collections import Counter

import av
import numpy as np
import pytest
from fabricated import CONFIG, caption_rows, output, write_part

from kineograph.curation import export, rows
from kineograph.curation.loader import ShardLoader, decode, draw_caption
from kineograph.errors import DataError, InputError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    made = output(folder / "out", clips=30)
    mine = [row for row in made if row.source_id == made[1].source_id]  # of the second source, other lengths
    mine = [dataclasses.replace(row, frames=40) for row in mine]
    part = rows.clips_part(folder / "out", made[1].source_id, CONFIG)
    write_part(part, [dataclasses.asdict(row) for row in mine], rows.schema(rows.ClipRow))
    export.webdataset(folder / "out", folder / "shards", clips_per_shard=4)
    return folder / "shards"


def keys(loader, batches=None):
    found = []
    while batches is None or len(found) < batches:
        for batch in loader:
            found.append([sample.key for sample in batch])
            if len(found) == batches:
                return found
        if batches is None:
            return found
    return found


def test_an_epoch_is_every_clip_once_in_batches_of_one_bucket(shards):
    loader = ShardLoader(shards, 4)
    first = [[(sample.key, sample.fields["bucket"]) for sample in batch] for batch in loader]
    assert len(first) == len(loader) == 8  # two buckets of 15: 4 + 4 + 4 + 3 each
    assert all(len({bucket for _, bucket in batch}) == 1 for batch in first)
    seen = [key for batch in first for key, _ in batch]
    assert len(seen) == len(set(seen)) == 30
    assert loader.state_dict()["epoch"] == 1
    second = keys(loader)
    assert sorted(k for batch in second for k in batch) == sorted(seen)
    assert [k for batch in second for k in batch] != seen
    assert keys(ShardLoader(shards, 4)) == [[key for key, _ in batch] for batch in first]
    assert keys(ShardLoader(shards, 4, seed=1)) != keys(ShardLoader(shards, 4))


def test_samples_are_what_was_exported(shards):
    (batch,) = [next(iter(ShardLoader(shards, 5)))]
    for sample in batch:
        assert len(sample.video) == 2000
        number = round(sample.fields["motion_score"] * 1000)
        assert sample.fields["captions"] == caption_rows(number)
        assert sample.caption in {one["text"] for one in caption_rows(number)}
        assert sample.fields["clip_id"] == sample.key


@pytest.mark.parametrize("done", [0, 1, 5, 8, 11])
def test_a_resumed_run_goes_on_where_it_stopped(shards, done):
    whole = keys(ShardLoader(shards, 4), 20)
    loader = ShardLoader(shards, 4)
    begun = keys(loader, done) if done else []
    state = json.loads(json.dumps(loader.state_dict()))
    other = ShardLoader(shards, 4)
    other.load_state_dict(state)
    assert begun + keys(other, 20 - done) == whole


def test_ranks_share_an_epoch_and_may_change_in_number(shards):
    whole = keys(ShardLoader(shards, 4))
    pair = [ShardLoader(shards, 4, rank=rank, world=2) for rank in (0, 1)]
    begun = [batch for turn in zip(*(keys(one, 2) for one in pair), strict=True) for batch in turn]
    assert begun == whole[:4]
    assert pair[0].state_dict() == pair[1].state_dict()
    alone = ShardLoader(shards, 4)
    alone.load_state_dict(pair[0].state_dict())
    assert keys(alone) == whole[4:]
    three = [keys(ShardLoader(shards, 4, rank=rank, world=3)) for rank in range(3)]
    assert [len(one) for one in three] == [2, 2, 2]
    assert [three[i % 3][i // 3] for i in range(6)] == whole[:6]


def test_nothing_is_read_to_skip(shards, monkeypatch):
    loader = ShardLoader(shards, 4)
    loader.load_state_dict({**loader.state_dict(), "batch": 7})
    read = []
    original = ShardLoader._read
    monkeypatch.setattr(ShardLoader, "_read", lambda self, place: read.append(1) or original(self, place))
    assert len(keys(loader)) == 1
    assert len(read) <= 4


def test_smaller_batches_can_be_left_out(shards):
    loader = ShardLoader(shards, 4, drop_last=True)
    assert [len(batch) for batch in keys(loader)] == [4] * 6


def test_captions_are_drawn_by_their_weights():
    drawn = Counter(draw_caption(caption_rows(1), 0, epoch, "clip").split()[0] for epoch in range(4000))
    assert drawn["coca"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert drawn["v-blip"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert draw_caption(caption_rows(1), 0, 7, "clip") == draw_caption(caption_rows(1), 0, 7, "clip")
    assert len({draw_caption(caption_rows(1), seed, 0, "clip") for seed in range(20)}) == 3


def test_clips_are_decoded_from_their_bytes():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", 10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in (30, 90, 150, 210):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = decode(buffer.getvalue(), 2, start=1)
    assert frames.shape == (2, 48, 64, 3)
    assert np.abs(frames.mean((1, 2, 3)) - [90, 150]).max() < 4
    with pytest.raises(DataError, match="has 4 frames; 4 from frame 1"):
        decode(buffer.getvalue(), 4, start=1)
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(b"no film", 1)


def test_errors(shards, tmp_path):
    with pytest.raises(DataError, match=r"has no index\.json"):
        ShardLoader(tmp_path, 4)
    with pytest.raises(InputError, match="rank 2 from 0 to 1"):
        ShardLoader(shards, 4, rank=2, world=2)
    with pytest.raises(DataError, match="not one batch of 4"):
        ShardLoader(shards, 4, world=9)
    state = ShardLoader(shards, 4).state_dict()
    with pytest.raises(DataError, match="had batch_size=4, this one has 5"):
        ShardLoader(shards, 5).load_state_dict(state)
    with pytest.raises(DataError, match="other shards"):
        ShardLoader(shards, 4).load_state_dict({**state, "shards": "0"})
    (tmp_path / "index.json").write_text((shards / "index.json").read_text())
    with pytest.raises(DataError, match="is missing"):
        ShardLoader(tmp_path, 4)
