"""Rows: schemas derive from the dataclasses; types by name."""

import dataclasses

import pyarrow as pa
import pytest

from kineograph.curation.rows import STATUSES, ClipRow, SourceRow, arrow_type, schema, schema_of, seconds
from kineograph.errors import InputError


@pytest.mark.parametrize("row", [SourceRow, ClipRow])
def test_every_field_has_a_column_in_order(row):
    assert schema(row).names == [field.name for field in dataclasses.fields(row)]


def test_a_row_survives_arrow():
    row = SourceRow(source_id="ab", path="a.mp4", name="a.mp4", bytes=3, status="ok", gradual=[[1, 2], [5, 9]])
    table = pa.Table.from_pylist([dataclasses.asdict(row)], schema=schema(SourceRow))
    assert SourceRow(**table.to_pylist()[0]) == row


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("double", pa.float64()),
        ("string", pa.string()),
        ("list<double>", pa.list_(pa.float64())),
        (
            "list<struct<text: string, weights: list<double>, n: int64>>",
            pa.list_(pa.struct([("text", pa.string()), ("weights", pa.list_(pa.float64())), ("n", pa.int64())])),
        ),
    ],
)
def test_types_by_name(text, expected):
    assert arrow_type(text) == expected
    assert schema_of({"x": text}).field("x").type == expected


def test_an_unknown_type_is_refused():
    with pytest.raises(InputError, match="'text'"):
        arrow_type("text")


def test_seconds_are_exact_for_ntsc():
    assert seconds(30000, "1001/30000") == 1001.0


def test_statuses_are_distinct():
    assert len(set(STATUSES)) == len(STATUSES) == 12
