"""Parts are whole or absent."""

import os

import pytest

from kineograph.curation.parts import is_whole, place, place_text, read_part, sweep, write_part
from kineograph.curation.rows import schema_of
from kineograph.errors import DataError

COLUMNS = {"name": "string", "numbers": "list<int64>"}
ROWS = [{"name": "a", "numbers": [1, 2]}, {"name": "b", "numbers": []}]


def test_rows_come_back_and_bytes_are_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        write_part(tmp_path / name / "x.parquet", ROWS, schema_of(COLUMNS))
    assert read_part(tmp_path / "one" / "x.parquet") == ROWS
    assert (tmp_path / "one" / "x.parquet").read_bytes() == (tmp_path / "two" / "x.parquet").read_bytes()


def test_no_rows_are_a_part_too(tmp_path):
    write_part(tmp_path / "x.parquet", [], schema_of(COLUMNS))
    assert is_whole(tmp_path / "x.parquet")
    assert read_part(tmp_path / "x.parquet") == []


@pytest.mark.parametrize("keep", [0, 3, 11, 100, -1])
def test_a_part_cut_short_is_not_whole(tmp_path, keep):
    path = tmp_path / "x.parquet"
    write_part(path, ROWS, schema_of(COLUMNS))
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert not is_whole(path)
    with pytest.raises(DataError, match="damaged"):
        read_part(path)


def test_a_missing_part_is_not_whole(tmp_path):
    assert not is_whole(tmp_path / "x.parquet")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    place_text(tmp_path / "x", "old")

    def fails(path):
        path.write_text("half")
        raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError):
        place(tmp_path / "x", fails)
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208


def test_a_leftover_that_exists_is_not_kept(tmp_path):
    """NVIDIA's writer skips files that exist, so that a crash's truncated file stays for ever."""
    (tmp_path / "x").write_text("trunc")
    place_text(tmp_path / "x", "whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_sweeping_deletes_only_what_nothing_refers_to(tmp_path):
    for name in ("clips/aa/1", "clips/aa/2", "tmp/9-0/3", "selections/s"):
        place_text(tmp_path / name, "x")
    wanted = [tmp_path / "clips/aa/1"]
    assert [p.name for p in sweep(tmp_path, wanted, ["clips"], dry_run=True)] == ["2", "3"]
    assert (tmp_path / "clips/aa/2").exists()
    sweep(tmp_path, wanted, ["clips"])
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["clips/aa/1", "selections/s"]
