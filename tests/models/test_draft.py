"""The draft: shapes, folder, damaged folders, and its place among the steps."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_model

from kineograph.diffusion.denoiser import KnownWhenNoisy
from kineograph.errors import WeightsError
from kineograph.models.draft import (
    DraftNetwork,
    Prototypes,
    frame_moments,
    load_draft,
    resized,
    save_draft,
    unit_variance,
    waves,
)
from kineograph.models.latent_video import LatentVideoModel, load_latent_video


def draft(seed=0):
    torch.manual_seed(seed)
    network = DraftNetwork(32, (4, 8, 8), 6, width=16, prototypes=12).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def test_the_sentence_alone_counts():
    tokens = torch.randn(3, 5, 32)
    network = draft()
    picture = network(tokens)
    assert picture.shape == (3, 4, 8, 8)
    others = torch.cat([tokens[:, :1] * 7, torch.randn(3, 4, 32)], dim=1)  # neither its length nor the words count
    torch.testing.assert_close(network(others), picture)
    assert not torch.allclose(network(tokens, noise=torch.randn(3, 32)), picture)


def test_a_fresh_draft_says_its_bias():
    network = DraftNetwork(32, (4, 8, 8), 6, width=16, prototypes=12)
    first, second = network(torch.randn(2, 5, 32))
    assert torch.equal(first, second)
    assert torch.equal(first.flatten(), network.leave.bias)


def test_a_clip_is_each_frame_at_its_moment():
    network, tokens = draft(), torch.randn(2, 5, 32)
    with torch.no_grad():
        network.known.keys[:2] = unit_variance(tokens)
    clip = network.clip(tokens, 6)
    assert clip.shape == (2, 6, 4, 8, 8)
    torch.testing.assert_close(clip[:, 1], network(tokens, torch.full((2,), 0.25)))
    assert not torch.allclose(clip[:, 0], clip[:, 5])
    torch.testing.assert_close(network.clip(tokens, 1)[:, 0], network(tokens))  # one frame is the middle
    torch.testing.assert_close(network.clip(tokens, 4), clip[:, 1:5])  # fewer frames: as fast as trained
    assert network.clip(tokens, 12).shape[1] == 12


def test_a_prompt_far_from_all_it_knows_is_taken_for_the_nearest():
    network, tokens = draft(), torch.randn(3, 1, 32)
    known = unit_variance(tokens)
    with torch.no_grad():
        network.known.keys[:3] = known
    near, far = known + 0.3 * torch.randn(3, 32), known + 0.8 * torch.randn(3, 32)
    assert torch.equal(network.known.read(near), near)
    assert torch.equal(network.known.read(far), known)
    torch.testing.assert_close(network.clip(far[:, None], 2), network.clip(tokens, 2))


def test_prototypes_say_which_sentence_was_meant():
    memory = Prototypes(3, 32, 5)
    blurred = memory.keys + 0.3 * torch.randn(3, 32)
    torch.testing.assert_close(memory(blurred), memory.values)  # so far apart, the posterior is sure
    with torch.no_grad():
        memory.log_rate.fill_(-30)
    torch.testing.assert_close(memory(blurred)[0], memory.values.mean(0))


def test_prototypes_are_compared_in_float32_under_autocast():
    memory = Prototypes(50, 384, 5)
    sentence = memory.keys[:4] + 0.5 * torch.randn(4, 384)
    with torch.no_grad():
        memory.log_rate.fill_(-4.0)  # so soft that rounding of hundreds would move the mean
        exact = memory(sentence)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(memory(sentence), exact)


def test_prototypes_are_placed_far_from_each_other():
    memory, points = Prototypes(3, 2, 4), torch.tensor([[0.0, 0], [0.1, 0], [5, 0], [5, 0.2], [0, 3]])
    memory.place(points)
    assert memory.keys.tolist() == points[[0, 3, 4]].tolist()


def test_vanishing_likelihoods_are_no_denormal_numbers():
    memory = Prototypes(2, 4, 1)
    with torch.no_grad():
        memory.keys.copy_(torch.tensor([[9.0] * 4, [-9.0] * 4]))
        memory.values.copy_(torch.tensor([[0.0], [1.0]]))
    assert memory(memory.keys[:1]).item() > 1e-30


def test_moments_are_the_middles_of_equal_parts():
    assert frame_moments(4, 4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert frame_moments(8, 4)[[0, -1]].tolist() == [0.0625, 0.9375]  # longer clips fill the same span


def test_waves_are_a_cosine_transform():
    rows = waves(frame_moments(16, 16))
    torch.testing.assert_close(rows.T @ rows, 8 * torch.eye(8), atol=1e-5, rtol=0)
    assert rows.sum(0).abs().max() < 1e-5


def test_resized_keeps_a_plain_picture():
    plain = torch.full((1, 2, 4, 8, 8), 0.3)
    torch.testing.assert_close(resized(plain, 6, 12), torch.full((1, 2, 4, 6, 12), 0.3))
    assert resized(plain, 8, 8) is plain


def test_folder_round_trip(tmp_path):
    network = draft()
    save_draft(network, tmp_path, torch.float32)
    again = load_draft(tmp_path)
    assert again.config == network.config
    tokens = torch.randn(2, 5, 32)
    assert torch.equal(again(tokens), network(tokens))
    assert load_draft(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 0}, "positive whole numbers"),
        ({"latent_shape": [4, 8]}, "positive whole numbers"),
        ({"text_dim": "wide"}, "positive whole numbers"),
        ({"frames": 0}, "positive whole numbers"),
        ({"depth": 3}, "depth"),
        ({"width": 10**5}, "do not belong together|limit|larger"),
        ({"blocks": 3}, "blocks.2"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, change, words):
    save_draft(draft(), tmp_path, torch.float32)
    file = tmp_path / "draft" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(WeightsError, match=words):
        load_draft(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = draft()
    with torch.no_grad():
        network.leave.bias[0] = float("nan")
    save_draft(network, tmp_path, torch.float32)
    with pytest.raises(WeightsError, match="leave.bias"):
        load_draft(tmp_path)


def test_a_model_carries_its_draft(tmp_path):
    model = tiny_model()
    model.draft = draft()
    model.save_pretrained(tmp_path, torch.float32)
    again = load_latent_video(tmp_path)
    tokens = model.text(["a red dog"])
    assert torch.equal(again.draft(tokens), model.draft(tokens))


def test_settings_of_a_model_without_draft_say_so():
    model = tiny_model()
    settings = replace(model.settings, draft_until=0.5)
    parts = model.network, model.autoencoder, model.text, settings
    assert LatentVideoModel(*parts).settings.draft_until == 1
    assert LatentVideoModel(*parts, draft()).settings.draft_until == 0.5


def test_each_clip_of_a_batch_has_its_own_time():
    calls = []
    known, x = torch.zeros(1), torch.ones(3, 2, 1, 1, 1)
    denoiser = KnownWhenNoisy(lambda x, t, c=None: calls.append(t) or x, known, 700.0)
    assert torch.equal(denoiser(x, 700), torch.zeros_like(x))
    assert torch.equal(denoiser(x, torch.tensor([900, 700, 999])), torch.zeros_like(x))
    assert not calls
    mixed = denoiser(x, torch.tensor([900, 699, 100]))
    assert mixed.flatten(1)[:, 0].tolist() == [0, 1, 1]
    assert torch.equal(denoiser(x, 699), x)
