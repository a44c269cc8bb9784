"""The diffusion task: what is trained, what its samples are, and that training and sampling share their inputs."""

import pytest
import torch

from kineograph.errors import InputError
from kineograph.training.loop import trainable

from .conftest import tiny_diffusion_task


def test_temporal_layers_only_are_trained():
    task = tiny_diffusion_task(num_frames=3, system="modelscope")
    names = trainable(task.network)
    assert names
    assert all(".temporal." in name for name in names)
    before = {name: p.detach().clone() for name, p in task.network.named_parameters()}
    batch = task.load([0, 1], [5, 6])
    task.loss(task.network, batch, [5, 6]).mean().backward()
    changed = {name for name, p in task.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert changed
    assert changed <= set(names)
    assert all(torch.equal(p, before[name]) for name, p in task.network.named_parameters())


def test_loss_of_a_sample_does_not_depend_on_its_batch():
    task = tiny_diffusion_task(num_frames=3, system="modelscope")
    task.network.eval()
    together = task.loss(task.network, task.load([0, 1], [5, 6]), [5, 6])
    alone = task.loss(task.network, task.load([1], [6]), [6])
    torch.testing.assert_close(together[1:], alone)


def test_pictures_pass_the_temporal_layers_by():
    task = tiny_diffusion_task(num_frames=3, system="modelscope")
    for name, p in task.network.named_parameters():
        if ".temporal." in name:
            p.data += 0.1 * torch.randn_like(p)
    task.network.eval()
    batch = task.load([0, 1], [5, 6])
    as_clips = task.error(task.network, batch, torch.tensor([500, 500]), [5, 6])
    batch["pictures"] = torch.tensor([False, True])
    mixed = task.error(task.network, batch, torch.tensor([500, 500]), [5, 6])
    with task.network.temporal_off():
        image = task.error(task.network, task.load([0, 1], [5, 6]), torch.tensor([500, 500]), [5, 6])
    torch.testing.assert_close(mixed[0], as_clips[0])
    torch.testing.assert_close(mixed[1], image[1])
    assert not torch.allclose(image[1], as_clips[1])


def test_image_share_mixes_pictures_of_other_clips():
    task = tiny_diffusion_task(num_frames=3, image_share=0.5, system="modelscope")
    batch = task.load([0] * 64, list(range(64)))
    assert 16 < batch["pictures"].sum() < 48
    same_caption = (batch["context"] == batch["context"][:, :1]).all(-1).all(-1).all(-1)
    assert same_caption[~batch["pictures"]].all()
    assert not same_caption[batch["pictures"]].all()


def test_balance_shows_rare_kinds_more_often():
    task = tiny_diffusion_task(balance="kind")
    first = torch.from_numpy(task.store.window(0, 0, 4)).float()
    latents = task.load([3] * 200, list(range(200)))["latents"]
    share = (latents == first[None]).flatten(2).all(2).any(1).float().mean().item()
    assert share == pytest.approx(1 / (1 + 8**0.5), abs=0.08)  # one clip of the first kind, eight of the other
    again = task.load([3] * 200, list(range(200)))["latents"]
    assert torch.equal(latents, again)


def test_caption_dropout_has_its_share():
    task = tiny_diffusion_task()
    context = task.load([0] * 400, list(range(400)))["context"]
    dropped = (context[:, 0] == task.empty).all(-1).all(-1).float().mean()
    assert 0.05 < dropped < 0.16


def test_timestep_shift_trains_noisy_levels_more_often():
    task, drawn = tiny_diffusion_task(timestep_shift=3.0), []
    task.error = lambda network, batch, timesteps, seeds: drawn.append(timesteps)
    task.loss(task.network, {}, list(range(2000)))
    shares = [(drawn[0] >= level).float().mean().item() for level in (500, 750, 900)]
    assert shares == pytest.approx([0.75, 0.5, 0.25], abs=0.03)  # u >= t / (3 - 2 t)
    assert drawn[0].min() >= 0
    assert drawn[0].max() < 1000


def test_timestep_shift_must_be_positive():
    with pytest.raises(InputError, match="timestep shift"):
        tiny_diffusion_task(timestep_shift=0)


def test_validation_is_repeatable_and_named_by_timestep():
    task = tiny_diffusion_task()
    task.network.eval()
    with torch.no_grad():
        first, second = task.validate(), task.validate()
    assert first == second
    assert {"train_t500", "held_out_t500", "train_mean", "held_out_mean"} <= set(first)


def test_preview_draws_pictures(tmp_path):
    task = tiny_diffusion_task(num_frames=2, system="modelscope")
    with torch.no_grad():
        task.preview(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"sheet.png", "thing-1.mp4"}


def test_shares_out_of_range_are_refused():
    with pytest.raises(InputError, match="Shares"):
        tiny_diffusion_task(num_frames=2, image_share=1.5, system="modelscope")
