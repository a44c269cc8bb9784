"""The catalogue sees what is committed, and nothing else."""

import dataclasses
import json

import numpy as np
import pytest
from fabricated import CONFIG, caption_rows, output, scores, source, write_part

from kineograph.curation import rows
from kineograph.curation.catalogue import Catalogue
from kineograph.errors import DataError, InputError


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "o'clock"  # a quote in the path must not end an SQL string
    folder.mkdir()
    return folder


def test_clips_come_with_their_scores(out):
    made = output(out)
    with Catalogue(out) as catalogue:
        found = {row["clip_id"]: row for row in catalogue.clips()}
        assert set(found) == {row.clip_id for row in made}
        for number, row in enumerate(made):
            got = found[row.clip_id]
            assert {**dataclasses.asdict(row), **scores(number), "captions": caption_rows(number)} == got
        assert catalogue.scorers == {"text_area": "f00d", "clip": "f00d", "captions": "beef"}
        assert {row["status"] for row in catalogue.sources()} == {"ok", "unreadable"}
        assert catalogue.sources()[1]["gradual"] == [[300000, 330000]]
        assert catalogue.query("SELECT count(*) AS n FROM clips WHERE motion_mean >= ?", [0.008]) == [{"n": 8}]


def test_an_axis_is_in_the_order_of_ids_with_nan_for_what_is_missing(out):
    made = output(out)
    rows.scores_part(out, "text_area", made[0].source_id, "f00d").unlink()
    with Catalogue(out) as catalogue:
        ids, motion, text = catalogue.ids(), catalogue.axis("motion_mean"), catalogue.axis("text_area")
    expected = {row.clip_id: row.motion_mean for row in made}
    assert list(ids) == sorted(expected)
    np.testing.assert_array_equal(motion, [expected[one] for one in ids])
    owners = {row.clip_id: row.source_id for row in made}
    np.testing.assert_array_equal(np.isnan(text), [owners[one] == made[0].source_id for one in ids])


def test_clips_without_their_sources_part_are_garbage(out):
    made = output(out)
    rows.source_part(out, made[1].source_id, CONFIG).unlink()
    with Catalogue(out) as catalogue:
        assert {row["source_id"] for row in catalogue.clips()} == {made[0].source_id}


def test_a_source_whose_clips_are_gone_is_an_error(out):
    made = output(out)
    rows.clips_part(out, made[0].source_id, CONFIG).unlink()
    with pytest.raises(DataError, match="its clips .* are gone"):
        Catalogue(out)


def test_one_configuration_and_one_fingerprint_are_in_use(out):
    made = output(out)
    owner = made[0].source_id
    kept = dataclasses.asdict(made[0])
    write_part(rows.clips_part(out, owner, "0ld"), [kept], rows.schema(rows.ClipRow))
    write_part(
        rows.source_part(out, owner, "0ld"),
        [dataclasses.asdict(source(0, config="0ld"))],
        rows.schema(rows.SourceRow),
    )
    schema = rows.schema_of({"clip_id": "string", "text_area": "double"})
    write_part(rows.scores_part(out, "text_area", owner, "0ld"), [{"clip_id": made[0].clip_id, "text_area": 9}], schema)
    with Catalogue(out) as catalogue:  # without a configuration, what was written last
        assert len(catalogue.clips()) == 1 + 8
        assert np.nanmax(catalogue.axis("text_area")) == 9
        assert np.isnan(catalogue.axis("text_area")).sum() == 8  # no mixture of two versions
    (out / "config.json").write_text(json.dumps({"fingerprints": {"config": CONFIG, "scorers": {"text_area": "f00d"}}}))
    with Catalogue(out) as catalogue:
        assert len(catalogue.clips()) == 16
        assert np.nanmax(catalogue.axis("text_area")) < 0.1
    (out / "config.json").write_text(json.dumps({"fingerprints": {"config": "0ld"}}))
    with Catalogue(out) as catalogue:  # a run that was interrupted after its configuration was changed
        assert [row["clip_id"] for row in catalogue.clips()] == [made[0].clip_id]
        assert len(catalogue.sources()) == 1


def test_clips_by_id(out):
    made = output(out)
    with Catalogue(out) as catalogue:
        assert [row["clip_id"] for row in catalogue.clips([made[3].clip_id])] == [made[3].clip_id]
        with pytest.raises(DataError, match="1 of 1 clips are not in"):
            catalogue.clips(["no"])


def test_errors_say_what_would_be_right(out):
    with pytest.raises(DataError, match="kineograph curate"):
        Catalogue(out)
    output(out)
    with Catalogue(out) as catalogue:
        with pytest.raises(InputError, match="did you mean 'motion_mean'"):
            catalogue.axis("motion_meen")
        with pytest.raises(InputError, match="Unknown axis 'captions'"):
            catalogue.axis("captions")
        with pytest.raises(InputError, match="cannot answer"):
            catalogue.query("SELECT nothing")


def test_an_output_without_clips_has_empty_tables(out):
    row = dataclasses.asdict(source(3, status="no_video"))
    write_part(rows.source_part(out, row["source_id"], CONFIG), [row], rows.schema(rows.SourceRow))
    with Catalogue(out) as catalogue:
        assert catalogue.clips() == []
        assert len(catalogue.axis("motion_mean")) == 0
