import pytest
import torch

from kineograph.diffusion.frames import (
    attention_mask,
    augmented,
    every_known,
    first_known,
    frame_times,
    joint_mask,
    keep_known,
    random_known,
    with_known_channels,
)
from kineograph.diffusion.noise import iid
from kineograph.diffusion.process import VarianceExploding
from kineograph.diffusion.schedule import Schedule
from kineograph.errors import InputError


def test_pictures_see_only_themselves():
    mask = attention_mask(joint_mask(3, 2))
    assert mask[0].int().tolist() == [[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_masked_attention_over_frames_leaves_pictures_alone():
    """What the mask is for: softmax attention with it returns a picture's own value."""
    images = joint_mask(4, 2)
    q, k, v = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask(images)[0])
    torch.testing.assert_close(out[:, 4:], v[:, 4:])
    alone = torch.nn.functional.scaled_dot_product_attention(q[:, :4], k[:, :4], v[:, :4])
    torch.testing.assert_close(out[:, :4], alone)


def test_padding_is_seen_by_nobody():
    valid = torch.tensor([[True, True, False, True]])
    mask = attention_mask(torch.tensor([[False, False, False, True]]), valid)
    assert mask[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_masks_of_prediction_and_interpolation():
    assert first_known(4, 2).tolist() == [[True, True, False, False]]
    assert every_known(5, 2).tolist() == [[True, False, True, False, True]]
    with pytest.raises(InputError, match="cannot be given"):
        first_known(4, 5)
    with pytest.raises(InputError, match="at least 1"):
        every_known(4, 0)


def test_random_known_frames_come_first_and_are_sometimes_dropped():
    masks = random_known(4000, 8, 2, torch.Generator().manual_seed(0), unconditional=0.25)
    counts = masks.sum(dim=1)
    assert torch.equal(masks, torch.arange(8) < counts[:, None])
    shares = torch.bincount(counts, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.375, 0.375]), atol=0.04, rtol=0)


def test_known_channels():
    x, known = iid((4, 3, 2, 2), [1, 2]), iid((4, 3, 2, 2), [3, 4])
    known[:, 2:] = float("nan")  # frames that are not given may hold anything
    joined = with_known_channels(x, known, first_known(4, 2))
    assert joined.shape == (2, 4, 7, 2, 2)
    assert torch.equal(joined[:, :, :3], x)
    assert torch.equal(joined[:, :2, 3:6], known[:, :2])
    assert not joined[:, 2:, 3:6].any()
    assert joined[:, :, 6].flatten(2).unique(dim=2).flatten().tolist() == [1, 1, 0, 0] * 2


def test_known_frames_stay_clean_and_have_their_own_time():
    noisy, clean = iid((4, 3, 2, 2), [1, 2]), iid((4, 3, 2, 2), [3, 4])
    kept = keep_known(noisy, clean, first_known(4, 1))
    assert torch.equal(kept[:, 0], clean[:, 0])
    assert torch.equal(kept[:, 1:], noisy[:, 1:])
    assert frame_times(torch.tensor([5.0, 9.0]), first_known(4, 1)).tolist() == [[0, 5, 5, 5], [0, 9, 9, 9]]


def test_augmented_conditions_have_their_level():
    condition, noise = torch.ones(2, 1, 3, 64, 64), iid((1, 3, 64, 64), [1, 2])
    svd = augmented(VarianceExploding(), condition, 0.02, noise)
    assert float((svd - 1).std()) == pytest.approx(0.02, rel=0.02)
    schedule, t = Schedule.named("linear"), torch.tensor([100, 800])
    cascade = augmented(schedule, condition, t, noise)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(cascade.mean(dim=(1, 2, 3, 4)), alpha, atol=0.03, rtol=0)
    torch.testing.assert_close(cascade.std(dim=(1, 2, 3, 4)), sigma, atol=0.03, rtol=0)
