"""Selections: rules become numbers, numbers keep what they should, and stay put when clips are added."""

import json
import shutil

import numpy as np
import pytest
from fabricated import output, scores

from kineograph.curation import duplicates, rows
from kineograph.curation.catalogue import Catalogue
from kineograph.curation.select import (
    PRESETS,
    Rule,
    apply,
    kept,
    load,
    parse_rule,
    parse_rules,
    run,
    stored,
    threshold,
)
from kineograph.errors import DataError, InputError


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    output(folder, clips=16)
    return folder


@pytest.fixture(scope="module")
def made(out):
    with Catalogue(out) as catalogue:
        return catalogue.clips()


@pytest.mark.parametrize("share", [12.5, 25, 50])
def test_dropping_a_share_drops_exactly_that_share(share):
    values = np.random.default_rng(0).permutation(np.arange(64.0))
    low = threshold(Rule("x", ">=", share, True), values)
    high = threshold(Rule("x", "<=", 100 - share, True), values)
    assert (values < low).sum() == (values > high).sum() == 64 * share / 100


def test_a_percentile_rule_is_frozen_as_its_number(out):
    selection = run(out, ["motion_mean>=p25"])
    (rule,) = selection.rules
    assert rule.threshold == pytest.approx(0.00375)  # clips have 0, 0.001, ... 0.015
    assert (selection.population, selection.kept, rule.drops, rule.missing) == (16, 12, 4, 0)
    assert (selection.seconds, selection.kept_seconds) == (128, 96)
    stored_rule = json.loads((out / "selections/default.json").read_text())["rules"][0]
    assert stored_rule["threshold"] == rule.threshold
    assert stored_rule["rule"] == "motion_mean>=p25"
    assert load(out, "default") == selection


def test_the_published_rules(out, made):
    selection = run(out, "svd", name="svd")
    axes = {axis: np.array([row[axis] for row in made]) for axis in ("aesthetic", "clip_similarity", "text_area")}
    motion = np.array([row["motion_mean"] for row in made])
    keep = (
        (motion >= np.percentile(motion, 25))
        & (axes["aesthetic"] >= np.percentile(axes["aesthetic"], 25))
        & (axes["clip_similarity"] >= np.percentile(axes["clip_similarity"], 50))
        & (axes["text_area"] <= np.percentile(axes["text_area"], 75))
    )
    assert kept(out, "svd") == sorted(row["clip_id"] for row, ok in zip(made, keep, strict=True) if ok)
    assert 0 < selection.kept < 16
    assert [str(rule) for rule in parse_rules("svd-f")][-1] == "text_area<=0.07"
    absolute = run(out, "svd-f", name="svd-f").rules[-1]
    assert absolute.threshold == 0.07
    assert absolute.drops == sum(scores(n)["text_area"] > 0.07 for n in range(16)) == 2


def test_axes_are_measured_on_the_whole_population(out):
    both = run(out, ["motion_mean>=p50", "motion_mean<=p75"], name="both")
    assert [rule.threshold for rule in both.rules] == pytest.approx([0.0075, 0.01125])
    assert both.kept == 4
    first, second = run(out, ["motion_mean>=p50", "aesthetic>=p50"], name="order").rules
    assert second.threshold == run(out, ["aesthetic>=p50"], name="one").rules[0].threshold
    assert first.drops_alone < first.drops


def test_reasons_are_written_beside_the_ids(out):
    import pyarrow.parquet as parquet

    run(out, ["motion_mean>=0.004", "text_area<=0.05"], name="why")
    table = parquet.read_table(out / "selections/why.parquet").to_pylist()
    reasons = {(row["kept"], tuple(row["failed"])) for row in table}
    assert reasons == {(True, ()), (False, ("motion_mean>=0.004",)), (False, ("text_area<=0.05",))}
    assert len(table) == 16


def test_a_frozen_selection_means_the_same_after_more_clips_arrive(tmp_path):
    output(tmp_path, clips=8)
    first = run(tmp_path, ["motion_mean>=p25"])
    ids = kept(tmp_path)
    output(tmp_path, clips=16)
    assert kept(tmp_path) == ids
    again = apply(tmp_path, "default", "grown")
    assert again.rules[0].threshold == first.rules[0].threshold
    assert again.population_hash != first.population_hash
    assert (again.population, again.kept) == (16, 14)
    assert set(ids) < set(kept(tmp_path, "grown"))
    assert run(tmp_path, ["motion_mean>=p25"], name="fresh").rules[0].threshold > first.rules[0].threshold
    assert stored(tmp_path) == ["default", "fresh", "grown"]


def test_the_population_hash_sees_values_and_ids(out, tmp_path):
    output(tmp_path, clips=16)
    one = run(tmp_path, ["text_area<=0.05"])
    assert one.population_hash == run(out, ["text_area<=0.05"], name="same").population_hash
    assert one.population_hash != run(out, ["aesthetic<=5"], name="other").population_hash


def test_clips_without_a_value_are_dropped_and_counted(tmp_path):
    made = output(tmp_path, clips=8)
    rows.scores_part(tmp_path, "text_area", made[0].source_id, "f00d").unlink()
    selection = run(tmp_path, ["text_area<=1"])
    assert (selection.kept, selection.rules[0].drops, selection.rules[0].missing) == (4, 4, 4)
    assert "4 of them without a value" in selection.summary()
    for part in (tmp_path / "parts/scores/text_area").iterdir():
        part.unlink()
    with pytest.raises(DataError, match="'text_area' was not measured"):
        run(tmp_path, ["text_area<=1"])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("motion>=p25", r"Write 'motion_mean>=p25' \(or motion_median, motion_p10, motion_p90\)"),
        ("watermark<=0.1", r"Write 'overlay<=0\.1'"),
        ("duplicates is none", r"Write 'duplicate_of is none'"),
    ],
)
def test_axes_by_other_words_are_named(out, rule, said):
    with pytest.raises(InputError, match=said):
        run(out, [rule])


def test_what_measures_an_axis_is_named(tmp_path):
    """The preset of the paper needs weights; the message says which, and what does without."""
    output(tmp_path, clips=4)
    for folder in (tmp_path / "parts/scores").iterdir():
        if folder.name != "text_area":
            shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"'aesthetic' was not measured.*--similarity clip:FOLDER,HEAD.*svd-standin"):
        run(tmp_path, "svd")
    with pytest.raises(DataError, match=r"--similarity standin.*--captions"):
        run(tmp_path, "svd-standin")


def test_rules_account_for_every_clip_and_second(out):
    """Each clip that is dropped is lost to the first rule that fails it."""
    found = run(out, ["motion_mean>=p25", "text_area<=p75", "duration>=0"])
    assert found.kept + sum(one.lost for one in found.rules) == found.population
    assert found.kept_seconds + sum(one.lost_seconds for one in found.rules) == pytest.approx(found.seconds)
    assert found.rules[0].lost == found.rules[0].drops > 0
    assert "s lost here" in found.summary()
    assert load(out) == found


def test_a_percentile_of_one_value_is_said_to_choose_nothing(out):
    found = run(out, ["hdr>=p50"])
    assert found.kept == found.population
    assert "every clip has the same value of 'hdr'" in found.summary()
    assert "same value" not in run(out, ["motion_mean>=p50"]).summary()


def test_copies_can_be_left_out(tmp_path):
    output(tmp_path, clips=4)
    with pytest.raises(DataError, match="Duplicates have not been looked for"):
        run(tmp_path, ["duplicate_of is none"])
    duplicates.find(tmp_path)
    selection = run(tmp_path, ["duplicate_of is none", "motion_mean>=p0"])
    assert selection.kept == 4
    assert "duplicate_of is none: drops 0" in selection.summary()


def test_rules_are_read_and_written_alike():
    for text in ("motion_mean>=p25", "text_area<=0.07", "x<=-1.5", "y>=p12.5", "duplicate_of is none"):
        assert str(parse_rule(text)) == text
        assert parse_rule(str(parse_rule(f" {text} "))) == parse_rule(text)
    assert parse_rule("a >= 1e-3") == Rule("a", ">=", 0.001)
    assert len(parse_rules(["svd", "duration>=2"])) == 5
    assert all(parse_rules(name) for name in PRESETS)


@pytest.mark.parametrize(
    "text", ["motion_mean>p25", "motion_mean>=", "__import__('os')>=1", "a>=p101", "a>=1-2", "a>=nan"]
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(InputError, match="is no rule|percentile is from 0 to 100"):
        parse_rules([text])


def test_errors_name_the_way_out(out):
    with pytest.raises(InputError, match="did you mean 'svd'"):
        run(out, "sdv")
    with pytest.raises(InputError, match="did you mean 'motion_mean'"):
        run(out, ["motion_men>=1"])
    with pytest.raises(DataError, match=r"keep none of 16 clips; 'motion_mean>=5' alone drops 16"):
        run(out, ["motion_mean>=5", "text_area<=1"])
    with pytest.raises(DataError, match="Unknown selection 'gone'"):
        load(out, "gone")
    with pytest.raises(InputError, match="is no name"):
        run(out, "svd", name="../escape")
    with pytest.raises(InputError, match="at least one rule"):
        run(out, [])
    run(out, ["motion_mean>=0.001"], name="damaged")
    (out / "selections/damaged.json").write_text("{}")
    with pytest.raises(DataError, match="is not a selection"):
        load(out, "damaged")
    run(out, ["motion_mean>=0.001"], name="mixed")
    run(out, ["motion_mean>=0.002"], name="mixed2")
    (out / "selections/mixed2.parquet").replace(out / "selections/mixed.parquet")
    with pytest.raises(DataError, match="does not fit"):
        kept(out, "mixed")
