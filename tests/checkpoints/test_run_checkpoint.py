"""A training run's checkpoint as a model."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_text

from kineograph.checkpoints.load import load_checkpoint
from kineograph.errors import WeightsError
from kineograph.training import checkpoint
from kineograph.training.loop import Trainer

sys.path.append(str(Path(__file__).parents[1]))
from training.conftest import tiny_diffusion_task
from training.test_decoder import tiny_decoder_task
from training.test_draft import tiny_draft_task
from training.test_loop import config


def drafted():
    task = tiny_draft_task()
    task.start_from_data()
    return task


def temporal():
    return tiny_diffusion_task(num_frames=4, system="modelscope")


def stopped(task, folder, **changes):
    """Train one step and leave the run without its end."""
    task.model.text = tiny_text()
    task.validate = dict
    trainer = Trainer(task, config(folder, max_train_steps=1, no_export=True, no_preview=True, **changes))
    trainer.write_start()
    trainer.run()
    return checkpoint.latest(folder)


@pytest.mark.parametrize("make", [tiny_diffusion_task, temporal, drafted, tiny_decoder_task])
@pytest.mark.parametrize("halflife", [20_000, 0])
def test_a_checkpoint_is_the_model_that_the_run_would_export(make, halflife, tmp_path):
    task = make()
    path = stopped(task, tmp_path, ema_halflife_samples=halflife)
    found = load_checkpoint(path)
    trainer = Trainer(task, config(tmp_path, resume=True, export=True, ema_halflife_samples=halflife))
    trainer.export()
    trainer.log.close()
    assert not (tmp_path / "checkpoints" / "start").exists()
    wanted = load_checkpoint(tmp_path / "model")
    for part in ("network", "autoencoder", "draft"):
        if getattr(wanted, part) is None:
            continue
        own, others = (getattr(model, part).state_dict() for model in (found, wanted))
        assert own.keys() == others.keys()
        assert all(torch.equal(own[name], others[name]) for name in own), part
    again = load_checkpoint(path)  # now the rest is taken of model/
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), found.network.parameters(), strict=True))


def test_a_run_without_a_model_is_its_newest_whole_checkpoint(tmp_path, capsys):
    task = tiny_diffusion_task()
    path = stopped(task, tmp_path)
    shutil.copytree(path, path.with_name("step-00000002"))
    (path.with_name("step-00000002") / "ema.safetensors").unlink()
    found, wanted = load_checkpoint(tmp_path), load_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(found.network.parameters(), wanted.network.parameters(), strict=True))
    assert "without a model yet; its checkpoint step-00000001 is taken" in capsys.readouterr().err


def test_what_no_model_can_be_made_of_is_said(tmp_path):
    path = stopped(tiny_diffusion_task(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "start")
    with pytest.raises(WeightsError, match="--resume --export"):
        load_checkpoint(path)
    (path / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"damaged.*weights\.safetensors"):
        load_checkpoint(path)
    (path / "index.json").unlink()
    (path / "state.json").write_text(json.dumps({"task": "autoencoder", "part": ""}))
    with pytest.raises(WeightsError, match="'autoencoder', of which no model can be sampled"):
        load_checkpoint(path)
