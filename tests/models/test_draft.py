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
    Looks,
    Prototypes,
    far_apart,
    frame_moments,
    load_draft,
    means_of,
    nearest_other,
    resized,
    save_draft,
    scatter_within,
    unit_variance,
    waves,
    within_kinds,
)
from kineograph.models.latent_video import LatentVideoModel, load_latent_video


def draft(seed=0):
    torch.manual_seed(seed)
    network = DraftNetwork(32, (4, 8, 8), 6, width=16, prototypes=12, components=20).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def test_the_sentence_alone_counts():
    tokens = torch.randn(3, 5, 32)
    network = draft()
    network.known.keys[:3] = unit_variance(tokens)
    picture = network(tokens)
    assert picture.shape == (3, 4, 8, 8)
    others = torch.cat([tokens[:, :1] * 7, torch.randn(3, 4, 32)], dim=1)  # neither its length nor the words count
    torch.testing.assert_close(network(others), picture)
    assert not torch.allclose(network(tokens, noise=torch.randn(3, 32)), picture)


def test_a_fresh_draft_says_what_it_remembers():
    network = DraftNetwork(32, (4, 8, 8), 6, width=16, prototypes=3, components=20)
    network.basis.copy_(torch.linalg.qr(torch.randn(256, 20)).Q.T)
    network.mean.normal_()
    network.known.keys.copy_(unit_variance(network.known.keys[:, None]))
    pictures = network(network.known.keys[:, None], torch.rand(3))
    torch.testing.assert_close(pictures, network.picture(network.known.codes))
    torch.testing.assert_close(network.code(pictures), network.known.codes)


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
    near, far = (known + amount * torch.randn(3, 32) for amount in (0.3, 1.0))
    near, far = unit_variance(near[:, None]), unit_variance(far[:, None])
    assert torch.equal(network.known.read(near), near)
    assert torch.equal(network.known.read(far), known)
    torch.testing.assert_close(network.clip(far[:, None], 2), network.clip(tokens, 2))


def test_a_name_that_it_knows_is_recalled():
    memory = Prototypes(3, 32, 5)
    found = memory(memory.keys)
    torch.testing.assert_close(found.code, memory.codes)
    torch.testing.assert_close(found.name, memory.keys)
    torch.testing.assert_close(found.known, torch.ones(3))
    some = found.rows(torch.tensor([2]))
    torch.testing.assert_close(some.code, memory.codes[2:])
    assert some.share.argmax().item() == 2


def test_which_thing_was_meant_is_the_posterior_of_noise_around_its_names():
    memory, sentence = Prototypes(4, 6, 2), torch.randn(3, 6)
    memory.metric.copy_(torch.diag(torch.rand(6)))
    apart = (sentence[:, None] - memory.keys) @ memory.metric
    wanted = torch.softmax(-memory.RATE * apart.square().sum(2) / 2, 1)
    torch.testing.assert_close(memory.share(sentence), wanted)


def test_names_have_numbers():
    memory = Prototypes(3, 32, 5)
    asked = memory.keys[[2, 0, 1]].bfloat16().float()
    assert memory.number(asked).tolist() == [2, 0, 1]
    assert memory.number(asked + 0.1).tolist() == [-1, -1, -1]


def test_of_a_hidden_name_the_other_looks_are_known():
    memory = Prototypes(3, 32, 5)
    memory.keys[1] = memory.keys[0] + torch.randn(32) / 5
    found = memory(memory.keys, torch.tensor([0, -1, 1]))
    torch.testing.assert_close(found.code[:2], memory.codes[[1, 1]], atol=1e-3, rtol=0)
    assert found.known[0] < 0.9 < found.known[1]
    assert found.share[0, 0] < 1e-12


def test_a_new_look_is_the_mean_look_until_it_is_learned():
    looks = Looks(32, 4)
    change = looks(torch.randn(2, 32), torch.randn(2, 3, 32), torch.full((2, 3), 1 / 3), torch.randn(2, 3, 4, 9))
    assert torch.equal(change, torch.zeros(2, 4, 9))


def test_new_looks_learn_to_lie_beyond_those_that_are_known():
    """Four looks on a line, of which the last is never among the seen: it is as far again as the third is."""
    torch.manual_seed(0)
    looks, direction, change = Looks(32, 4), torch.randn(32), torch.randn(4, 4)
    looks.directions[:, 0] = direction / direction.square().sum()
    names = direction * torch.tensor([-1.0, 0, 1, 2])[:, None]

    def batch(count):
        first = torch.randn(count, 4, 9)
        pictures = torch.stack([first + step * change @ first for step in range(4)], dim=1)
        share = torch.full((count, 3), 1 / 3)
        made = looks(names[3].expand(count, 32), names[:3].expand(count, 3, 32), share, pictures[:, :3])
        return pictures[:, :3].mean(1) + made, pictures[:, 3]

    optimizer = torch.optim.Adam(looks.parameters(), 1e-2)
    for _ in range(200):
        made, wanted = batch(16)
        loss = (made - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made, wanted = batch(64)
    assert (made - wanted).square().mean() < 0.01 * wanted.var()


def test_a_known_name_has_no_change_and_a_new_one_has():
    network = draft()
    network.known.keys[1] = network.known.keys[0] + torch.randn(32) / 3
    known = unit_variance(network.known.keys[:2, None])
    network.known.keys[:2] = known
    with torch.no_grad():
        plain = network(known[:, None], hidden=torch.tensor([-1, 1]))
        network.looks.shift.add_(1.0)
        changed = network(known[:, None], hidden=torch.tensor([-1, 1]))
    assert torch.equal(plain[0], changed[0])
    assert (plain[1] - changed[1]).abs().max() > 0.1


def test_prototypes_are_compared_in_float32_under_autocast():
    memory = Prototypes(50, 384, 5)
    sentence = memory.keys[:4] + 0.5 * torch.randn(4, 384)
    with torch.no_grad():
        memory.log_rate.fill_(-4.0)  # so soft that rounding of hundreds would move the mean
        exact = memory(sentence)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(memory(sentence).code, exact.code)


def test_chosen_sentences_are_far_from_each_other():
    points = torch.tensor([[0.0, 0], [0.1, 0], [5, 0], [5, 0.2], [0, 3]])
    assert far_apart(points, 3) == [0, 3, 4]


def test_the_metric_ignores_what_differs_within_kinds():
    torch.manual_seed(0)
    kinds = torch.arange(30).repeat_interleave(6)
    look = torch.nn.functional.normalize(torch.randn(8), dim=0)
    things, looks = torch.randn(30, 8), torch.randn(180, 1) * 2 * look
    sentences = things[kinds] + looks + 0.01 * torch.randn(180, 8)
    metric = within_kinds(sentences, kinds)
    torch.testing.assert_close(metric, metric.T)
    assert (look @ metric).norm() < 0.2 * (torch.linalg.svdvals(metric)[0])
    means = means_of(sentences, kinds)
    torch.testing.assert_close(nearest_other(means @ metric), nearest_other(means))


def test_scatter_within_kinds_finds_the_direction_of_looks():
    torch.manual_seed(0)
    kinds, look = torch.arange(30).repeat_interleave(6), torch.nn.functional.normalize(torch.randn(8), dim=0)
    sentences = 5 * torch.randn(30, 8)[kinds] + torch.randn(180, 1) * 2 * look + 0.01 * torch.randn(180, 8)
    values, directions = scatter_within(sentences, kinds)
    assert values[-1] == pytest.approx(4 * 5 / 6, rel=0.3)
    assert (directions[:, -1] @ look).abs() > 0.999
    assert values[:-1].max() < 1e-3


def test_the_metric_of_single_sentences_is_plain():
    assert torch.equal(within_kinds(torch.randn(5, 8), torch.arange(5)), torch.eye(8))


def test_vanishing_likelihoods_are_no_denormal_numbers():
    memory = Prototypes(2, 4, 1)
    with torch.no_grad():
        memory.keys.copy_(torch.tensor([[9.0] * 4, [-9.0] * 4]))
    assert memory.share(memory.keys[:1]).min().item() > 1e-30


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
        ({"prototypes": 10**6}, "do not belong together|limit|larger"),
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
