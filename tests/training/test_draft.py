"""The draft's task: its targets are the frames around a clip's middle, and it learns captions by heart."""

import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.models.draft import DraftNetwork, far_apart, load_draft, unit_variance
from kineograph.training.captions import CaptionTokens
from kineograph.training.draft import HIDDEN, DraftTask, looks_of
from kineograph.training.recipes import DraftConfig

from .conftest import tiny_diffusion_task


def tiny_draft_task(frames=2, prototypes=9, **options):
    around = tiny_diffusion_task()
    torch.manual_seed(0)
    sizes = {"width": 64, "blocks": 1, "prototypes": prototypes, "components": 100}
    around.model.draft = DraftNetwork(16, (4, 8, 8), frames, **sizes)
    torch.nn.init.constant_(around.model.draft.known.log_rate, 3.0)  # sentences of 16 values are less far than of 384
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


def test_a_fresh_draft_knows_each_name_and_its_middle_frame():
    task = tiny_draft_task()
    task.start_from_data()
    names = task.captions.rows([task.captions.texts[clip][0] for clip in task.clips])
    middles = torch.stack([task.middle(int(clip)) for clip in task.clips])
    torch.testing.assert_close(task.network(names), middles, atol=0.02, rtol=0)
    assert task.validate()["train_unexplained"] < 1e-3


def test_names_of_things_in_several_looks_are_often_hidden():
    task = tiny_draft_task(kind="kind")
    task.start_from_data()
    assert task.own.tolist() == [
        task.network.known.keys.sub(k).square().sum(1).argmin() if i < 9 else -1
        for i, k in enumerate(unit_variance(task._first(np.arange(11))))
    ]
    hidden = task.load([4] * 200 + [0] * 50, list(range(250)))["hidden"]
    assert hidden[:200].unique().tolist() == [-1, task.own[4]]
    assert (hidden[:200] >= 0).float().mean().item() == pytest.approx(HIDDEN, abs=0.1)
    assert (hidden[200:] == -1).all()  # the only one of its kind cannot be told from others


def test_looks_are_learned_before_all_else():
    """Each thing in two looks, the second the negative of the first: told from one, the other is found."""
    around = tiny_draft_task(frames=1)
    things = np.random.default_rng(3).standard_normal((5, 4, 8, 8)).astype(np.float16)
    for clip in range(9):
        around.store.latents[4 * clip : 4 * clip + 4] = things[clip // 2] * (1 if clip % 2 else -1)
        around.store.frames.clips[clip].extra["thing"] = clip // 2
    for clip in range(8):
        names = around.captions.tokens
        names[around.captions.texts[clip][0]] = names[around.captions.texts[clip // 2 * 2][0]]
        names[around.captions.texts[clip][0], :, 0] = 3 if clip % 2 else -3
    task = DraftTask(around.model, around.store, around.captions, kind="thing")
    task.start_from_data()
    own = task.own[:8]
    tokens = task.captions.rows([task.captions.texts[clip][0] for clip in range(8)])
    told = task.network(tokens, hidden=own)
    wanted = torch.stack([task.middle(clip) for clip in range(8)])
    assert (told - wanted).square().mean() < 0.1 * wanted.square().mean()


def test_what_is_hidden_is_told_from_other_looks():
    task = tiny_draft_task(kind="kind")
    task.start_from_data()
    batch = task.load([4] * 2, [0, 1])
    batch["noise"].zero_()
    batch["moments"].fill_(0.75)
    own = task.middle(int(task.clips[4]))
    errors = []
    for hidden in (-1, int(task.own[4])):
        made = task.network(batch["context"], batch["moments"], batch["noise"], torch.full((2,), hidden))
        errors.append((made - own).abs().max().item())
    assert errors[0] < 0.02 < errors[1]


def test_a_memory_with_too_little_room_keeps_names_far_from_each_other():
    task = tiny_draft_task(prototypes=4)
    task.start_from_data()
    known = task.network.known
    every = unit_variance(task.captions.rows([task.captions.texts[clip][0] for clip in task.clips]))
    places = [int((every - key).square().sum(1).argmin()) for key in known.keys]
    assert places == far_apart(every, 4)
    middles = torch.stack([task.middle(int(task.clips[place])) for place in places])
    torch.testing.assert_close(task.network.picture(known.codes), middles, atol=0.02, rtol=0)
    known_ones = sorted(int(task.clips[place]) for place in places)
    assert (task.own >= 0).nonzero()[:, 0].tolist() == known_ones


def test_looks_are_other_clips_of_the_kind_at_the_same_frame():
    task = tiny_draft_task(kind="kind")
    batch = task.load([0] * 3 + [4] * 20, list(range(23)))
    assert torch.equal(batch["looks"][:3], batch["pictures"][:3])  # the only one of its kind
    found = set()
    for picture, look, moment in zip(*(batch[k][3:] for k in ("pictures", "looks", "moments")), strict=True):
        frame = 0 if moment == 0.25 else 1
        assert torch.equal(picture, task.frames(4)[frame])
        found |= {clip for clip in range(1, 9) if torch.equal(look, task.frames(clip)[frame])}
    assert 4 not in found
    assert len(found) > 4


def test_looks_have_as_many_frames():
    task = tiny_draft_task()
    counts = np.full(11, 4)
    counts[2] = 3
    looks = looks_of(task.clips, np.array([0, 0, 0, 0, 1, 1, 1, 1, 2]), counts)
    assert looks[1].tolist() == [0, 3]
    assert looks[2].tolist() == [2]
    assert looks[8].tolist() == [8]


def test_error_towards_another_look_weighs_more():
    task = tiny_draft_task(kind="kind", contrast=7.0)
    batch = task.load([4], [0])
    away = torch.nn.functional.normalize((batch["looks"] - batch["pictures"]).flatten(1), dim=1).view(1, 4, 8, 8)
    across = torch.randn(1, 4, 8, 8)
    across -= (across * away).sum() * away
    for error, weight in ((2 * away, 8), (2 * across / across.norm(), 1)):
        loss = task.loss(lambda *around, error=error: batch["pictures"] + error, batch, [0])
        assert loss.item() == pytest.approx(4 * weight / 256, rel=1e-4)


def test_captions_that_are_far_from_every_name_are_not_shown():
    task = tiny_draft_task()
    task.start_from_data()
    tokens = np.concatenate([task.captions.tokens, task.captions.tokens[:1] * 0.9, -task.captions.tokens[:1]])
    texts = [[0, 11, 12], *task.captions.texts[1:]]
    task.captions = CaptionTokens(tokens, texts, [[0.0, 0.5, 0.5], *task.captions.weights[1:]])
    assert task.near[[0, 11, 12]].tolist() == [True, True, False]
    shown = {task._sample(0, seed)[3] for seed in range(50)}
    assert shown == {0, 11}


def test_loss_of_a_sample_does_not_depend_on_its_batch():
    task = tiny_draft_task()
    with torch.no_grad():
        task.network.leave.weight.normal_()
        task.network.known.keys.copy_(unit_variance(task._first(task.clips)))
    together = task.loss(task.network, task.load([0, 1], [5, 6]), [5, 6])
    alone = task.loss(task.network, task.load([1], [6]), [6])
    torch.testing.assert_close(together[1:], alone)


def test_captions_are_learned_by_heart():
    task = tiny_draft_task(blur=0.2)
    task.start_from_data()
    task.network.known.codes.zero_()
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
        ({"contrast": "much"}, "contrast"),
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
