"""Where runs write: nothing is replaced without being told, and raw footage never."""

import json
import shutil

import pytest
from runs import QUICK, tree

from kineograph.curation.config import from_json
from kineograph.curation.places import changes
from kineograph.curation.run import curate
from kineograph.data.manifest import read_manifest
from kineograph.data.synthetic import write_synthetic
from kineograph.errors import InputError


def test_a_folder_of_results_needs_resume(raw, tmp_path):
    out = tmp_path / "out"
    curate(raw, out, QUICK, executor_name="inline")
    with pytest.raises(InputError, match=r"finished curation \(5 sources, 2 clips\) with the same .*--resume.*--over"):
        curate(raw, out, QUICK, executor_name="inline")
    other = from_json({**QUICK.to_json(), "clips": {"min_seconds": 0.25}})
    with pytest.raises(InputError, match=r"another configuration \(clips\.min_seconds 0\.5 -> 0\.25\)"):
        curate(raw, out, other, executor_name="inline")
    assert curate(raw, out, other, resume=True, executor_name="inline").changed == ["clips.min_seconds 0.5 -> 0.25"]
    assert curate(raw, out, other, resume=True, executor_name="inline").changed == []
    scored = from_json({**other.to_json(), "scorers": {"overlay": {}}})
    assert changes(json.loads((out / "config.json").read_text()), scored) == ["scorers.overlay nothing -> {}"]
    with pytest.raises(InputError, match="one of them"):
        curate(raw, out, other, resume=True, overwrite=True, executor_name="inline")
    (out / "mine.txt").write_text("kept")
    fresh = curate(raw, out, QUICK, overwrite=True, executor_name="inline")
    assert (fresh.computed, fresh.clips) == (4, 2)
    assert len(list((out / "parts/sources").iterdir())) == 4
    assert (out / "mine.txt").exists()
    with pytest.raises(InputError, match="no file or folder"):
        curate(tmp_path / "nothing", tmp_path / "out2", QUICK, executor_name="inline")
    with pytest.raises(InputError, match="raw folder itself"):
        curate(raw, raw, QUICK, executor_name="inline")


@pytest.mark.parametrize("resume", [False, True])
def test_other_data_sets_are_not_replaced(raw, tmp_path, resume):
    out = tmp_path / "set"
    write_synthetic(out, 2, size=32, num_frames=4)
    before = tree(out)
    with pytest.raises(InputError, match=r"another data set \(manifest.jsonl with 2 clips\).*--overwrite"):
        curate(raw, out, QUICK, resume=resume, executor_name="inline")
    assert tree(out) == before
    made = curate(raw, out, QUICK, overwrite=True, executor_name="inline")
    assert {clip.source for clip in read_manifest(out)} == {"below/copy.mp4"}
    assert made.aside == str(out / "replaced-1")
    assert "replaced-1" in made.summary()
    assert tree(out / "replaced-1") == before, "nothing is lost"


def test_raw_footage_is_never_in_a_folder_that_is_written(tmp_path, film):
    raw = tmp_path / "clips"
    raw.mkdir()
    shutil.copy(film, raw / "a.mp4")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="lies in"):
            curate(raw, tmp_path, QUICK, overwrite=overwrite, executor_name="inline")
    assert (raw / "a.mp4").exists()
