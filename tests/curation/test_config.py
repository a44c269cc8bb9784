"""Configuration: strict reading, and fingerprints that change with what they should."""

import json

import pytest

from kineograph.curation.config import CurationConfig, from_json, read_config, scorer
from kineograph.errors import InputError


def test_defaults_survive_json():
    config = CurationConfig()
    assert from_json(json.loads(json.dumps(config.to_json()))) == config


def test_what_is_left_out_keeps_its_default(tmp_path):
    (tmp_path / "c.json").write_text('{"clips": {"min_seconds": 1}, "motion": {"algorithm": "dis"}}')
    config = read_config(tmp_path / "c.json")
    assert (config.clips.min_seconds, config.clips.max_seconds, config.motion.algorithm) == (1.0, 60.0, "dis")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"clip": {}}, "did you mean 'clips'"),
        ({"clips": {"min_second": 1}}, "did you mean 'min_seconds'"),
        ({"clips": {"method": "cpoy"}}, "did you mean 'copy'"),
        ({"clips": {"min_seconds": "2"}}, "clips.min_seconds must be of type float"),
        ({"cuts": {"rates": [8]}}, "list of 2 numbers"),
        ({"decoding": "exakt"}, "did you mean 'exact'"),
        ({"limits": {"max_pixels": True}}, "of type int"),
        ({"scorers": {"text": {}}}, "did you mean 'text_area'"),
        ([], "JSON object"),
    ],
)
def test_mistakes_are_named(content, said):
    with pytest.raises(InputError, match=said):
        from_json(content)


def test_no_json(tmp_path):
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(InputError, match=r"c\.json:1: not valid JSON"):
        read_config(tmp_path / "c.json")


def test_fingerprints_change_by_stage():
    base = CurationConfig()
    flow = from_json({"motion": {"short_side": 90}})
    clip = from_json({"clips": {"min_seconds": 1}})
    limit = from_json({"limits": {"stall_seconds": 5}})
    score = from_json({"scorers": {}})
    exact = from_json({"decoding": "exact"})
    assert flow.analysis_fingerprint != base.analysis_fingerprint
    assert flow.fingerprint != base.fingerprint
    assert exact.analysis_fingerprint != base.analysis_fingerprint
    assert exact.recipe == base.recipe
    assert clip.analysis_fingerprint == base.analysis_fingerprint
    assert clip.fingerprint != base.fingerprint
    assert clip.recipe == base.recipe
    assert (limit.fingerprint, score.fingerprint) == (base.fingerprint, base.fingerprint)


def test_scorers_are_made_by_name():
    assert scorer("overlay", {}).name == "overlay"
    with pytest.raises(InputError, match="did you mean"):
        scorer("overlya", {})
    with pytest.raises(InputError, match="options"):
        scorer("overlay", {"sise": 3})


def test_configurations_share_nothing():
    first = CurationConfig()
    first.scorers["overlay"] = {"size": 3}
    first.scorers.pop("text_area")
    assert CurationConfig().scorers == {"text_area": {}, "overlay": {}}
    assert scorer("overlay", {}).name == "overlay"
