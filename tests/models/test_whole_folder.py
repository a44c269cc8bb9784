"""A model folder appears whole or not at all, whoever writes it and whatever fails."""

import pytest
import torch
from tiny_models import tiny_model

from kineograph.models import latent_video
from kineograph.models.whole_folder import whole_folder


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_takes_its_place_when_all_is_written(tmp_path):
    with whole_folder(tmp_path / "a" / "model") as folder:
        (folder / "x").write_text("new")
        assert not (tmp_path / "a" / "model").exists()
    assert names(tmp_path) == ["a", "a/model", "a/model/x"]


def test_a_failure_leaves_nothing_behind_and_changes_nothing(tmp_path):
    for already in ({}, {"x": "old", "own.txt": "mine"}):
        target = tmp_path / f"model{len(already)}"
        for name, text in already.items():
            target.mkdir(exist_ok=True)
            (target / name).write_text(text)
        before = names(tmp_path)
        with pytest.raises(OSError, match="disk full"), whole_folder(target) as folder:
            (folder / "x").write_text("new")
            raise OSError("disk full")
        assert names(tmp_path) == before
        assert not already or (target / "x").read_text() == "old"


def test_what_is_there_is_replaced_by_name(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "x").write_text("old")
    (tmp_path / "own.txt").write_text("mine")
    with whole_folder(tmp_path) as folder:
        (folder / "unet").mkdir()
        (folder / "unet" / "x").write_text("new")
        (folder / "model_index.json").write_text("{}")
    assert (tmp_path / "unet" / "x").read_text() == "new"
    assert names(tmp_path) == ["model_index.json", "own.txt", "unet", "unet/x"]


@pytest.mark.parametrize("part", ["save_autoencoder", "write_json"])
def test_saving_a_model_that_fails(tmp_path, monkeypatch, part):
    def full(*_, **__):
        raise OSError("disk full")

    model = tiny_model()
    with monkeypatch.context() as patch:
        patch.setattr(latent_video, part, full)
        with pytest.raises(OSError, match="disk full"):
            model.save_pretrained(tmp_path / "model")
    assert names(tmp_path) == []
    model.save_pretrained(tmp_path / "model", torch.float32)
    assert (tmp_path / "model" / "model_index.json").is_file()
