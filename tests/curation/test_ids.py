"""Ids follow from content and parameters alone."""

import os

from kineograph.curation.ids import clip_id, fingerprint, printable, sha256_of, source_id


def test_known_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert source_id(tmp_path / "a") == "384264f676f39536840523f284921cdc68b6846b"  # BLAKE2b-160 of "abc"
    assert sha256_of(tmp_path / "a").startswith("ba7816bf")


def test_the_same_bytes_anywhere_and_new_bytes_at_the_same_place(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    first = source_id(tmp_path / "a")
    assert first == source_id(tmp_path / "b")
    (tmp_path / "a").write_bytes(b"two")
    assert source_id(tmp_path / "a") != first


def test_every_part_of_a_clip_id_counts():
    base = ("s", 0, 10, 20, "1/24", "copy")
    others = [("t", 0, 10, 20, "1/24", "copy"), ("s", 1, 10, 20, "1/24", "copy"), ("s", 0, 1, 20, "1/24", "copy")]
    others += [("s", 0, 10, 21, "1/24", "copy"), ("s", 0, 10, 20, "1/25", "copy"), ("s", 0, 10, 20, "1/24", "x")]
    others += [("s", 0, 1, 1020, "1/24", "copy"), ("s", 0, 101, 20, "1/24", "copy")]
    assert len({clip_id(*one) for one in (base, *others)}) == len(others) + 1


def test_fingerprints_change_with_name_version_and_parameters_not_with_order():
    base = fingerprint("flow", 1, {"a": 1, "b": 2})
    assert base == fingerprint("flow", 1, {"b": 2, "a": 1})
    assert len({base, fingerprint("flow", 2, {"a": 1, "b": 2}), fingerprint("flow", 1, {"a": 1, "b": 3})}) == 3


def test_undecodable_names_are_printable():
    assert printable(b"caf\xe9.mp4") == "caf\\xe9.mp4"
    assert printable(os.fsdecode(b"caf\xe9.mp4")) == "caf\\xe9.mp4"
    assert printable("grün.mp4") == "grün.mp4"
