"""The draft's task: its targets are the frames around a clip's middle, and it learns captions by heart."""

import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.models.draft import DraftNetwork, load_draft
from kineograph.training.draft import DraftTask
from kineograph.training.recipes import DraftConfig

from .conftest import tiny_diffusion_task


def tiny_draft_task(frames=2, **options):
    around = tiny_diffusion_task()
    torch.manual_seed(0)
    around.model.draft = DraftNetwork(16, (4, 8, 8), frames, width=64, blocks=1, prototypes=9)
    return DraftTask(around.model, around.store, around.captions, held_out="test", **options)


def test_frames_stand_around_the_middle_of_a_clip():
    task = tiny_draft_task()
    task.store.latents[4:8] = np.arange(4, dtype=np.float16)[:, None, None, None]
    assert task.frames(1)[:, 0, 0, 0].tolist() == [1, 2]
    assert task.middle(1)[0, 0, 0] == 2
    task = tiny_draft_task(frames=6)
    assert task.frames(1)[:, 0, 0, 0].tolist() == task.store.latents[[4, 5, 6, 7, 7, 7], 0, 0, 0].tolist()


def test_every_frame_is_shown_with_its_moment():
    task = tiny_draft_task()
    task.store.latents[4:8] = np.arange(4, dtype=np.float16)[:, None, None, None]
    batch = task.load([1] * 20, list(range(20)))
    pairs = {(p.unique().item(), m.item()) for p, m in zip(batch["pictures"], batch["moments"], strict=True)}
    assert pairs == {(1.0, 0.25), (2.0, 0.75)}
    assert batch["context"].shape == (20, 1, 16)


def test_a_fresh_draft_explains_nothing_and_starts_at_the_mean():
    task = tiny_draft_task()
    task.start_from_data()
    mean = torch.stack([task.middle(int(clip)) for clip in task.clips]).mean(dim=0)
    torch.testing.assert_close(task.network(torch.randn(1, 4, 16))[0], mean)
    assert task.validate()["train_unexplained"] == pytest.approx(1.0)


def test_loss_of_a_sample_does_not_depend_on_its_batch():
    task = tiny_draft_task()
    with torch.no_grad():
        task.network.leave.weight.normal_()
    together = task.loss(task.network, task.load([0, 1], [5, 6]), [5, 6])
    alone = task.loss(task.network, task.load([1], [6]), [6])
    torch.testing.assert_close(together[1:], alone)


def test_captions_are_learned_by_heart():
    task = tiny_draft_task(blur=0.2)
    task.start_from_data()
    optimizer = torch.optim.Adam(task.network.parameters(), 3e-3)
    for step in range(150):
        seeds = list(range(9 * step, 9 * step + 9))
        loss = task.loss(task.network, task.load(list(range(9)), seeds), seeds).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.validate()["train_unexplained"] < 0.05


def test_balance_shows_rare_kinds_more_often():
    task = tiny_draft_task(balance="kind")
    pictures = task.load([3] * 300, list(range(300)))["pictures"]
    mine = (pictures[:, None] == task.frames(0)).flatten(2).all(2).any(1)
    share = mine.float().mean().item()
    assert share == pytest.approx(1 / (1 + 8**0.5), abs=0.08)


def test_preview_and_export_hold_the_draft(tmp_path):
    task = tiny_draft_task()
    with torch.no_grad():
        task.preview(tmp_path)
    assert (tmp_path / "sheet.png").is_file()
    task.model.text.save_pretrained = lambda *around: None  # stands for an encoder, has no files
    task.model.text.components = lambda: {}
    task.export(tmp_path)
    again, tokens = load_draft(tmp_path), torch.randn(2, 4, 16)
    assert torch.equal(again(tokens), task.network(tokens))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 0}, "whole numbers"),
        ({"blocks": "two"}, "whole numbers"),
        ({"blur": -1}, "blur"),
        ({"until": 1.5}, "until"),
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        DraftConfig(**change).check()


def test_a_model_without_draft_is_refused():
    around = tiny_diffusion_task()
    with pytest.raises(InputError, match="no draft"):
        DraftTask(around.model, around.store, around.captions)
