"""Copies have near hashes, other clips far ones; every near pair is found."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from fabricated import CONFIG, clip, output, picture, source, write_part
from PIL import Image, ImageDraw

from kineograph.curation import rows
from kineograph.curation.catalogue import Catalogue
from kineograph.curation.duplicates import (
    DEFAULT_RADIUS,
    distance,
    duplicates_among,
    find,
    near_pairs,
    shrink,
    telling,
    video_hash,
)
from kineograph.errors import InputError


def changed(strip, how):
    frames = []
    for frame in strip:
        image = Image.fromarray(frame)
        if how == "jpeg":
            buffer = io.BytesIO()
            image.save(buffer, "jpeg", quality=25)
            image = Image.open(buffer).convert("RGB")
        elif how == "half":
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        elif how == "brighter":
            image = Image.fromarray(np.clip(frame.astype(int) * 1.1 + 8, 0, 255).astype(np.uint8))
        elif how == "noise":
            noise = np.random.default_rng(0).normal(0, 6, frame.shape)
            image = Image.fromarray(np.clip(frame + noise, 0, 255).astype(np.uint8))
        elif how == "mark":
            ImageDraw.Draw(image).text((3, image.height - 14), "TV1", fill="white")
        frames.append(np.asarray(image))
    return np.stack(frames)


def test_a_hash_is_the_comparison_of_neighbouring_cells():
    strip = np.zeros((3, 8, 9, 3), np.uint8)
    strip[0, :, :, :] = (np.arange(9) * 20)[None, :, None]  # rises to the right: all 64 bits
    strip[1, 2, 4] = 255  # one bright cell: its left neighbour is darker
    assert video_hash(strip) == "f" * 16 + f"{1 << (63 - (2 * 8 + 3)):016x}" + "0" * 16


def test_shrink_is_the_area_average():
    x = np.random.default_rng(0).random((90, 160)).astype(np.float32)
    blocks = x.reshape(9, 10, 16, 10).mean((1, 3))
    np.testing.assert_allclose(shrink(x, 9, 16), blocks, rtol=1e-5)
    np.testing.assert_allclose(shrink(x, 8, 9).mean(), x.mean(), rtol=1e-5)
    assert np.ptp(shrink(np.full((7, 11), 3.0, np.float32), 8, 9)) < 1e-5  # finer than the picture, too


@pytest.mark.parametrize("how", ["jpeg", "half", "brighter", "noise", "mark"])
def test_copies_are_within_the_radius(how):
    strips = [picture(n, 360, 640) for n in range(6)]
    bits = [distance(video_hash(s), video_hash(changed(s, how))) for s in strips]
    assert max(bits) <= 8 < DEFAULT_RADIUS, how
    assert how in ("half", "mark") or max(bits) > 0


def test_other_clips_are_far_away():
    hashes = [video_hash(picture(n)) for n in range(60)]
    assert min(distance(a, b) for a, b in itertools.combinations(hashes, 2)) >= 40


def test_near_pairs_are_those_that_comparing_all_with_all_finds():
    rng = np.random.default_rng(1)
    hashes = []
    for _ in range(60):
        base = int.from_bytes(rng.bytes(24), "big")
        for flips in (0, 3, 9, 15, 16):
            mask = sum(1 << int(b) for b in rng.choice(192, flips, replace=False))
            hashes.append(f"{base ^ mask:048x}")
    for radius in (0, 5, 15):
        expected = [
            (i, j, distance(hashes[i], hashes[j]))
            for i, j in itertools.combinations(range(len(hashes)), 2)
            if distance(hashes[i], hashes[j]) <= radius
        ]
        assert near_pairs(hashes, radius) == expected
    with pytest.raises(InputError, match="from 0 to 15"):
        near_pairs(hashes, 16)


def test_large_groups_are_compared_in_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    base = int.from_bytes(rng.bytes(24), "big") & ~0xFFF
    hashes = [f"{base ^ (int(flip) << 100) ^ int(rng.integers(2)) << 20:048x}" for flip in rng.integers(0, 64, 150)]
    whole = near_pairs(hashes, 6)
    monkeypatch.setattr("kineograph.curation.duplicates._BLOCK", 7)
    assert near_pairs(hashes, 6) == whole
    assert len(whole) > 5000
    assert all(distance(hashes[i], hashes[j]) == d <= 6 for i, j, d in whole)


def test_blank_clips_are_no_copies_of_each_other():
    black = video_hash(np.zeros((3, 90, 160, 3), np.uint8))
    noisy = video_hash(np.random.default_rng(0).integers(14, 18, (3, 90, 160, 3)).astype(np.uint8))
    assert not telling(black)
    assert not telling(noisy)
    assert near_pairs([black, black, noisy], 10) == []
    assert near_pairs(["", "f" * 48], 10) == []


def rowed(number, phash, **changes):
    row = clip(number, source())
    return {k: getattr(row, k) for k in ("clip_id", "width", "height", "frames", "duration")} | {
        "sha256": f"{number}",
        "phash": phash,
        **changes,
    }


def test_of_a_group_the_largest_is_kept():
    base = int.from_bytes(np.random.default_rng(2).bytes(24), "big")
    step = [f"{base:048x}", f"{base ^ 0xFF:048x}", f"{base ^ 0xFFFF:048x}"]  # a chain: the ends are 16 bits apart
    clips = [
        rowed(0, step[0]),
        rowed(1, step[1], width=1280, height=720),
        rowed(2, step[2]),
        rowed(3, step[0], duration=20.0),  # looks the same, much longer: another clip
        rowed(4, "", sha256="1", width=64, height=64),  # the very file of clip 1
    ]
    found = duplicates_among(clips)
    assert (found.clips, found.exact, found.near, found.blank) == (5, 1, 2, 1)
    kept = clips[1]["clip_id"]
    assert {row["clip_id"]: row["duplicate_of"] for row in found.rows} == {clips[i]["clip_id"]: kept for i in (0, 2, 4)}
    kinds = {row["clip_id"]: (row["kind"], row["distance"]) for row in found.rows}
    assert kinds[clips[0]["clip_id"]] == ("near", 8)
    assert kinds[clips[4]["clip_id"]][0] == "exact"
    assert "1 exact and 2 near duplicates among 5 clips" in found.summary()
    assert duplicates_among(clips[::-1]) == found


def test_an_output_is_searched_and_its_catalogue_told(tmp_path):
    made = output(tmp_path)
    assert find(tmp_path).rows == []
    with Catalogue(tmp_path) as catalogue:
        assert all(row["duplicate_of"] is None for row in catalogue.clips())

    mine = [row for row in made if row.source_id == made[0].source_id]
    mine[3] = dataclasses.replace(mine[3], phash=mine[0].phash, width=320, height=180)
    part = rows.clips_part(tmp_path, mine[0].source_id, CONFIG)
    write_part(part, [dataclasses.asdict(row) for row in mine], rows.schema(rows.ClipRow))
    found = find(tmp_path)
    assert found.to_json()["rows"] == [
        {"clip_id": mine[3].clip_id, "duplicate_of": mine[0].clip_id, "kind": "near", "distance": 0}
    ]
    with Catalogue(tmp_path) as catalogue:
        got = {row["clip_id"]: row["duplicate_of"] for row in catalogue.clips()}
    assert {k: v for k, v in got.items() if v} == {mine[3].clip_id: mine[0].clip_id}
