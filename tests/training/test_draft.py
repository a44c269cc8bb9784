"""The draft's task: its target is a clip's typical frame, and it learns captions by heart."""

import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.models.draft import DraftNetwork, load_draft
from kineograph.training.draft import DraftTask
from kineograph.training.recipes import DraftConfig

from .conftest import tiny_diffusion_task


def tiny_draft_task(**options):
    around = tiny_diffusion_task()
    torch.manual_seed(0)
    around.model.draft = DraftNetwork(16, (4, 8, 8), width=64, blocks=1)
    return DraftTask(around.model, around.store, around.captions, held_out="test", **options)


def test_target_is_the_frame_nearest_to_the_mean():
    task = tiny_draft_task()
    task.store.latents[4:8] = np.array([0.0, 1.0, 2.0, 9.0], np.float16)[:, None, None, None]  # mean 3
    assert task.target(1).unique().tolist() == [2.0]


def test_a_fresh_draft_explains_nothing_and_starts_at_the_mean():
    task = tiny_draft_task()
    task.start_at_the_mean()
    mean = torch.stack([task.target(int(clip)) for clip in task.clips]).mean(dim=0)
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
    task.start_at_the_mean()
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
    share = (pictures == task.target(0)).flatten(1).all(1).float().mean().item()
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
