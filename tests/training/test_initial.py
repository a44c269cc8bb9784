"""Starting a task from weights that exist already."""

import pytest
import torch
from tiny_models import tiny_text

from kineograph.errors import KineographError, WeightsError
from kineograph.models.autoencoder import build_autoencoder
from kineograph.training import checkpoint
from kineograph.training.autoencoder import AutoencoderTask
from kineograph.training.config import TrainConfig
from kineograph.training.initial import start_from
from kineograph.training.loop import Trainer

from .conftest import tiny_diffusion_task
from .test_decoder import tiny_decoder_task
from .test_draft import tiny_draft_task


def perturb(module):
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


def save(task, folder):
    task.model.text = tiny_text()
    task.model.save_pretrained(folder, torch.float32)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("inner", ["", "model"])
@pytest.mark.parametrize("system", [None, "modelscope"])
def test_a_task_starts_from_the_weights_of_a_model_or_of_a_run_that_holds_one(system, inner, tmp_path):
    trained, task = (tiny_diffusion_task(num_frames=4 if system else 1, system=system) for _ in range(2))
    perturb(trained.network)
    save(trained, tmp_path / inner)
    frozen = {n: p.clone() for n, p in task.network.named_parameters() if not p.requires_grad}
    start_from(task, tmp_path)
    for name, parameter in task.network.named_parameters():
        expected = frozen.get(name, trained.network.state_dict()[name])
        assert torch.equal(parameter, expected), name


def test_an_image_task_takes_the_image_network_of_a_video_model(tmp_path):
    trained, task = tiny_diffusion_task(num_frames=4, system="modelscope"), tiny_diffusion_task()
    perturb(trained.network)
    save(trained, tmp_path)
    start_from(task, tmp_path)
    spatial = {n: v for n, v in trained.network.state_dict().items() if ".temporal." not in n}
    assert all(torch.equal(value, task.network.state_dict()[name]) for name, value in spatial.items())


def test_an_autoencoder_task_takes_the_autoencoder_of_a_model(store, tmp_path):
    trained = tiny_diffusion_task()
    perturb(trained.model.autoencoder)
    save(trained, tmp_path)
    task = AutoencoderTask(build_autoencoder(patch=1, channels=(32, 32), latent_channels=4), store, "test")
    start_from(task, tmp_path)
    assert same(task.network, trained.model.autoencoder)


def test_weights_of_another_size_or_of_nothing_are_errors(tmp_path):
    trained, task = tiny_diffusion_task(), tiny_diffusion_task(num_frames=4, system="modelscope")
    save(trained, tmp_path / "image")
    with pytest.raises(KineographError, match="temporal"):
        start_from(task, tmp_path / "image")
    with pytest.raises(KineographError, match="absent"):
        start_from(task, tmp_path / "absent")


def test_a_draft_takes_what_the_other_one_knows(tmp_path):
    trained, task = tiny_draft_task(), tiny_draft_task()
    trained.start_from_data()
    trained.network.basis.copy_(torch.linalg.qr(torch.randn(256, 100)).Q.T)
    perturb(trained.network)
    task.start_from_data()
    assert not same(task.network, trained.network)
    save(trained, tmp_path)
    start_from(task, tmp_path)
    assert same(task.network, trained.network)


def test_a_draft_takes_what_the_draft_of_another_run_knows(tmp_path):
    trained, task = tiny_draft_task(), tiny_draft_task()
    trained.start_from_data()
    trained.export = trained.preview = lambda directory: None
    settings = TrainConfig(output_dir=tmp_path, max_train_steps=1, train_batch_size=2, ema_halflife_samples=0)
    Trainer(trained, settings).run()
    start_from(task, tmp_path)
    assert same(task.network, trained.network)


def test_sizes_that_differ_are_said(tmp_path):
    save(tiny_draft_task(), tmp_path)
    with pytest.raises(WeightsError, match="known.keys.*wants"):
        start_from(tiny_draft_task(prototypes=5), tmp_path)


def test_a_decoder_takes_that_of_a_model(tmp_path):
    trained, task = tiny_decoder_task(), tiny_decoder_task()
    perturb(trained.model.autoencoder)
    save(trained, tmp_path)
    start_from(task, tmp_path)
    for name, parameter in task.network.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, trained.network.state_dict()[name]), name


def test_a_task_starts_from_one_checkpoint_of_a_run(tmp_path, capsys):
    settings = TrainConfig(output_dir=tmp_path, max_train_steps=2, checkpointing_steps=1, mixed_precision="no")
    trained = tiny_diffusion_task()
    trained.export, trained.preview, trained.validate = lambda _: None, lambda _: None, dict
    trainer = Trainer(trained, settings)
    trainer.run()
    first, second = checkpoint.checkpoints(tmp_path)
    task = tiny_diffusion_task()
    start_from(task, second)
    own = dict(task.network.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in trainer.ema.shadow.items())
    (second / "ema.safetensors").write_bytes(b"")
    start_from(task, tmp_path)
    averaged = checkpoint.load(first, "ema")
    assert all(torch.equal(own[name], value) for name, value in averaged.items())
    assert "ema.safetensors' is empty" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="ema.safetensors' is empty"):
        start_from(task, second)
