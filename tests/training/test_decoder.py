"""The decoder's task: what it is shown, what it changes, what it says."""

import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.features.perceptual import PerceptualDistance
from kineograph.training.autoencoder import gradient_l1
from kineograph.training.decoder import DecoderTask
from kineograph.training.recipes import DecoderConfig

from .conftest import tiny_diffusion_task
from .test_draft import tiny_draft_task


def tiny_decoder_task(drafts=0.0, perceptual=0.0, frames=2, kind=""):
    around = tiny_draft_task(frames)
    around.start_from_data()
    distance = PerceptualDistance() if perceptual else None
    options = {"held_out": "test", "distance": distance, "perceptual": perceptual, "drafts": drafts, "kind": kind}
    return DecoderTask(around.model, around.store, around.captions, **options)


def test_latents_are_those_of_the_picture():
    task = tiny_decoder_task()
    batch = task.load(list(range(9)) * 4, list(range(36)))
    frames = task.store.frames.frames
    seen = set()
    for picture, latents in zip(batch["pictures"], batch["latents"], strict=True):
        row = next(
            r
            for r in range(len(frames))
            if np.array_equal(((picture + 1) * 127.5).round().byte().permute(1, 2, 0), frames[r])
        )
        assert torch.equal(latents, torch.from_numpy(task.store.latents[row].astype(np.float32)))
        seen.add(row % 4)
    assert seen == {0, 1, 2, 3}  # every frame of a clip


def test_drafts_stand_for_the_same_frame():
    task = tiny_decoder_task(drafts=1.0)
    batch = task.load([3] * 12, list(range(12)))
    middle = task.drafted(np.array([3, 3]), torch.tensor([0, 1]), torch.tensor([False, False]))
    frames = torch.from_numpy(task.store.frames.frames[13:15].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    for picture, latents in zip(batch["pictures"], batch["latents"], strict=True):
        place = int((frames - picture).abs().sum((1, 2, 3)).argmin())
        torch.testing.assert_close(frames[place], picture)
        torch.testing.assert_close(latents, middle[place])


def test_most_drafts_of_looks_are_made_without_their_name():
    task = tiny_decoder_task(drafts=1.0, kind="kind")
    latents = task.load([4] * 60, list(range(60)))["latents"]
    assert len(latents.unique(dim=0)) == 2  # with and without; a fresh draft is alike at all moments
    known, told = (task.drafted(np.array([4]), torch.tensor([1]), torch.tensor([hide]))[0] for hide in (False, True))
    own = torch.from_numpy(task.store.latents[task._row(4, 1)].astype(np.float32))
    assert (known - own).abs().max() < 0.02 < (told - own).abs().max()
    alone = [task.drafted(np.array([0]), torch.tensor([1]), torch.tensor([hide])) for hide in (False, True)]
    assert torch.equal(*alone)


def test_a_share_of_the_samples_are_drafts():
    task = tiny_decoder_task(drafts=0.3)
    latents = task.load([0] * 200, list(range(200)))["latents"]
    own = torch.from_numpy(task.store.latents[1:3].astype(np.float32))
    share = (latents[:, None] == own).flatten(2).all(2).any(1).float().mean().item()
    assert share == pytest.approx(0.7, abs=0.1)


def test_loss_is_squared_error_and_half_the_edges():
    task = tiny_decoder_task()
    pictures, error = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    loss = task.loss(lambda latents: pictures + error, {"pictures": pictures, "latents": torch.zeros(2)}, [0, 1])
    wanted = 5 * error.square().mean((1, 2, 3)) + gradient_l1(error, torch.zeros_like(error)) / 2
    torch.testing.assert_close(loss, wanted)


def test_perceptual_distance_is_added():
    pytest.importorskip("efficientnet_lite_pytorch")
    task = tiny_decoder_task(perceptual=0.2)
    batch = task.load([0, 1], [0, 1])
    without = tiny_decoder_task().loss(task.network, batch, [0, 1])
    more = task.loss(task.network, batch, [0, 1]) - without
    torch.testing.assert_close(
        more, 0.2 * task.distance(task.network(batch["latents"]), batch["pictures"]), atol=1e-4, rtol=1e-4
    )
    assert set(task.validate()) == {"psnr", "perceptual"}


def test_only_the_decoder_learns():
    task = tiny_decoder_task(drafts=0.5)
    before = {name: value.clone() for name, value in task.model.autoencoder.vae.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in task.network.parameters() if p.requires_grad], 0.1)
    task.loss(task.network, task.load([0, 1], [1, 2]), [1, 2]).mean().backward()
    optimizer.step()
    after = task.model.autoencoder.vae.state_dict()
    assert {name.split(".")[0] for name in after if (after[name] != before[name]).any()} == {
        "decoder",
        "post_quant_conv",
    }
    assert all(p.grad is None for p in task.model.draft.parameters())


def test_decoder_sees_latents_as_the_networks_do():
    task = tiny_decoder_task()
    task.model.autoencoder.calibrate(0.25, 2.0)
    latents = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(
        task.network(latents).clamp(-1, 1), task.model.autoencoder.decode(latents[None])[0], atol=1e-5, rtol=1e-5
    )


def test_preview_shows_frames_beside_what_is_decoded(tmp_path):
    task = tiny_decoder_task()
    with torch.no_grad():
        task.preview(tmp_path)
    assert (tmp_path / "reconstruction.png").stat().st_size > 0


def test_drafts_need_a_draft():
    around = tiny_diffusion_task()
    with pytest.raises(InputError, match="train draft"):
        DecoderTask(around.model, around.store, around.captions, perceptual=0, drafts=0.5)


@pytest.mark.parametrize("change", [{"perceptual": -1}, {"perceptual": "much"}, {"drafts": 2}, {"drafts": "half"}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        DecoderConfig(**change).check()
