"""Every prior on samples: marginal variance, covariance between frames, and what its paper promises."""

import math

import pytest
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    create_motion_field_and_warp_latents,
)
from diffusers.pipelines.free_init_utils import FreeInitMixin

from kineograph.diffusion.decomposed import TwoNetworks, base_frame, combine, decomposed, frame_shares
from kineograph.diffusion.noise import (
    ClipGenerators,
    correlated,
    iid,
    low_pass,
    mix_frequencies,
    mix_seed,
    mixed,
    mixed_covariance,
    motion_warp,
    noise_up,
    progressive,
    progressive_covariance,
    shared_parts,
    shuffled,
)
from kineograph.diffusion.parameterization import add_noise
from kineograph.diffusion.schedule import Schedule
from kineograph.errors import InputError

SHAPE = (6, 4, 64, 64)
SEEDS = (3, 4, 5)
VALUES = len(SEEDS) * math.prod(SHAPE[1:])
TOLERANCE = 5 / math.sqrt(VALUES)  # five standard errors of a correlation


def covariance(noise):
    """Covariance between frames, over everything else."""
    flat = noise.double().transpose(0, 1).flatten(1)
    return flat @ flat.T / flat.shape[1]


def decomposed_covariance(num_frames, share=0.5):
    root = frame_shares(num_frames, share).double().sqrt()
    return (root[:, None] * root[None]).fill_diagonal_(1.0)


PRIORS = {
    "iid": (iid, torch.eye(6, dtype=torch.float64)),
    "mixed": (mixed, mixed_covariance(6)),
    "mixed 3": (lambda shape, seeds: mixed(shape, seeds, alpha=3.0), mixed_covariance(6, 3.0)),
    "progressive": (progressive, progressive_covariance(6)),
    "progressive 0.5": (lambda shape, seeds: progressive(shape, seeds, alpha=0.5), progressive_covariance(6, 0.5)),
    "decomposed": (lambda shape, seeds: decomposed(shape, seeds)[0], decomposed_covariance(6)),
    "decomposed 0.8": (lambda shape, seeds: decomposed(shape, seeds, 0.8)[0], decomposed_covariance(6, 0.8)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_marginals_are_normal_and_frames_covary_as_stated(name):
    prior, expected = PRIORS[name]
    noise = prior(SHAPE, SEEDS)
    assert noise.shape == (3, *SHAPE)
    assert abs(float(noise.mean())) < TOLERANCE
    torch.testing.assert_close(covariance(noise), expected, atol=2 * TOLERANCE, rtol=0)
    kurtosis = noise.double().pow(4).mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(kurtosis, torch.full((6,), 3.0, dtype=torch.float64), atol=0.25, rtol=0)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean()
    assert abs(float(neighbours)) < TOLERANCE


@pytest.mark.parametrize("name", PRIORS)
def test_a_seed_is_a_clip(name):
    prior, _ = PRIORS[name]
    small = (6, 2, 4, 4)
    assert torch.equal(prior(small, [7, 8, 9])[1], prior(small, [8])[0])
    assert not torch.equal(prior(small, [7]), prior(small, [8]))


def test_limits_of_pyoco():
    """Without sharing the frames are independent, with nothing else they are one."""
    still = mixed((4, 2, 3, 3), [1], alpha=math.inf)
    assert torch.equal(still, still[:, :1].expand_as(still))
    still = progressive((4, 2, 3, 3), [1], alpha=math.inf)
    assert torch.equal(still, still[:, :1].expand_as(still))
    assert torch.equal(mixed_covariance(3, 0.0), torch.eye(3, dtype=torch.float64))
    assert torch.equal(progressive((4, 2, 3, 3), [1], alpha=0.0), iid((4, 2, 3, 3), [1]))
    assert shared_parts(1.0) == (pytest.approx(0.5**0.5), pytest.approx(0.5**0.5))
    with pytest.raises(InputError, match="at least 0"):
        mixed((1, 1, 1, 1), [1], alpha=-1.0)


@pytest.mark.parametrize("covariance_of", [mixed_covariance, progressive_covariance])
def test_fresh_noise_can_follow_the_prior(covariance_of):
    source = correlated(ClipGenerators(SEEDS), covariance_of(6))
    like = torch.empty(3, *SHAPE)
    first, second = source(like), source(like)
    for draw in (first, second):
        torch.testing.assert_close(covariance(draw), covariance_of(6), atol=2 * TOLERANCE, rtol=0)
    assert abs(float((first * second).mean())) < TOLERANCE
    alone = correlated(ClipGenerators(SEEDS[1:2]), covariance_of(6))(like[:1])
    torch.testing.assert_close(alone[0], first[1])


def test_first_noise_is_that_of_a_plain_generator_and_steps_draw_another_stream():
    expected = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(11))
    assert torch.equal(iid((2, 3, 4, 4), [11])[0], expected)
    fresh = ClipGenerators([11])
    first, second = fresh(expected[None]), fresh(expected[None])
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], expected)
    assert len({mix_seed(seed, stream) for seed in range(200) for stream in range(5)}) > 995


def test_generators_must_match_the_batch():
    with pytest.raises(AssertionError, match="3 clips but 2"):
        ClipGenerators([1, 2])(torch.zeros(3, 1))


def test_decomposed_parts_add_up_and_the_base_frame_is_base():
    noise, base, residual = decomposed((5, 2, 4, 4), [1, 2])
    assert torch.equal(noise[:, base_frame(5)], base)
    torch.testing.assert_close(combine(base, residual, frame_shares(5)), noise)
    with pytest.raises(InputError, match="from 0 to 1"):
        frame_shares(4, 1.5)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_two_oracle_networks_recover_the_noise(share):
    """VideoFusion's split: with perfect networks the noise, and so the clip, comes out exactly."""
    schedule = Schedule.named("linear")
    noise, base, residual = decomposed((5, 2, 4, 4), [1, 2], share, dtype=torch.float64)
    x0 = iid((5, 2, 4, 4), [3, 4], dtype=torch.float64)
    t = torch.tensor([100, 600])
    x = add_noise(x0, noise, *schedule.alpha_sigma(t))
    cleared = {}

    def residual_network(x, t, condition):
        cleared["x"] = x
        return residual

    networks = TwoNetworks(lambda x, t, c: base[:, None], residual_network, schedule, share)
    torch.testing.assert_close(networks(x, t), noise)
    alpha, sigma = (level.double()[:, None, None, None, None] for level in schedule.alpha_sigma(t))
    left = (1 - frame_shares(5, share)).double().sqrt()[None, :, None, None, None]
    torch.testing.assert_close(cleared["x"], alpha * x0 + sigma * left * residual, atol=1e-6, rtol=1e-6)


def test_residual_loss_leaves_the_base_network_alone():
    base = torch.nn.Parameter(torch.ones(()))
    residual = torch.nn.Parameter(torch.ones(()))
    schedule = Schedule.named("linear")
    networks = TwoNetworks(lambda x, t, c: base * x, lambda x, t, c: residual * x, schedule)
    output = networks(iid((5, 1, 2, 2), [0]), 500.0)
    middle = base_frame(5)
    others = torch.cat([output[:, :middle], output[:, middle + 1 :]], dim=1).square().sum()
    assert torch.autograd.grad(others, base, retain_graph=True)[0] == 0
    assert torch.autograd.grad(others, residual, retain_graph=True)[0] != 0
    assert torch.autograd.grad(output[:, middle].square().sum(), base)[0] != 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("delta", [(12, 12), (-5, 3), (0, 0), (20, -33)])
def test_motion_warp_is_that_of_diffusers(delta):
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = create_motion_field_and_warp_latents(
        motion_field_strength_x=delta[0],
        motion_field_strength_y=delta[1],
        frame_ids=list(range(1, 5)),
        latents=x.repeat(4, 1, 1, 1),
    )
    ours = motion_warp(x, 5, (delta[0] / 8, delta[1] / 8))
    assert torch.equal(ours[:, 0], x)
    assert torch.equal(ours[0, 1:], theirs)


def test_motion_warp_by_whole_cells_is_a_shift_and_keeps_the_variance():
    x = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    moved = motion_warp(x, 4, (2.0, 1.0))
    for k in range(4):
        assert torch.equal(moved[:, k, :, : 16 - k, : 20 - 2 * k], x[:, :, k:, 2 * k :])
    noise = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(1))
    moved = motion_warp(noise, 6, (1.5, 1.5))
    torch.testing.assert_close(moved.var(dim=(0, 2, 3, 4)), torch.ones(6), atol=0.05, rtol=0)
    for neighbours in ((moved[..., 1:] * moved[..., :-1]), moved[..., 1:, :] * moved[..., :-1, :]):
        torch.testing.assert_close(neighbours.mean(dim=(0, 2, 3, 4)), torch.zeros(6), atol=0.03, rtol=0)


def test_noise_up_is_the_forward_process_between_two_levels():
    schedule = Schedule.named("scaled_linear")
    low, high = schedule.alpha_sigma(100), schedule.alpha_sigma(700)
    ratio = torch.prod(1 - schedule.betas[101:701])
    x0, first, second = (iid((2, 2, 64, 64), [seed], dtype=torch.float64) for seed in (1, 2, 3))
    raised = noise_up(add_noise(x0, first, *low), low, high, second)
    expected = ratio.sqrt() * add_noise(x0, first, *low) + (1 - ratio).sqrt() * second
    torch.testing.assert_close(raised, expected, rtol=1e-9, atol=1e-9)
    assert float((raised - high[0] * x0).std()) == pytest.approx(high[1], rel=0.03)
    with pytest.raises(InputError, match="not noisier"):
        noise_up(x0, high, low, second)


def test_shuffled_noise_repeats_with_permuted_groups():
    noise = shuffled((40, 2, 8, 8), [1, 2], window=16, stride=4)
    assert torch.equal(noise[:, :16], iid((16, 2, 8, 8), [1, 2]))
    for clip in noise:
        frames = [frame.flatten().tolist() for frame in clip]
        order = [frames[:16].index(frame) for frame in frames]
        for start in range(16, 40, 4):
            assert sorted(order[start : start + 4]) == sorted(order[start - 16 : start - 12])
        for start in range(0, 25, 4):
            assert len(set(order[start : start + 16])) == 16
    assert torch.equal(noise[1:], shuffled((40, 2, 8, 8), [2], window=16, stride=4))
    covariances = covariance(shuffled((32, 4, 64, 64), [3]))
    torch.testing.assert_close(covariances.diagonal(), torch.ones(32, dtype=torch.float64), atol=0.05, rtol=0)
    assert set((covariances > 0.5).sum(dim=1).tolist()) == {2}


def test_short_clips_need_no_shuffle():
    assert torch.equal(shuffled((5, 1, 2, 2), [3]), iid((5, 1, 2, 2), [3]))
    with pytest.raises(InputError, match="stride"):
        shuffled((5, 1, 2, 2), [3], window=4, stride=8)


@pytest.mark.parametrize("kind", ["butterworth", "gaussian", "ideal"])
@pytest.mark.parametrize("stops", [(0.25, 0.25), (0.2, 0.4)])
def test_low_pass_is_that_of_diffusers(kind, stops):
    theirs = FreeInitMixin()._get_free_init_freq_filter(
        shape=(1, 1, 8, 16, 12), device="cpu", filter_type=kind, order=4, spatial_stop_frequency=stops[0],
        temporal_stop_frequency=stops[1],
    )  # fmt: skip
    torch.testing.assert_close(low_pass(8, 16, 12, kind, *stops), theirs[0, 0], rtol=1e-5, atol=1e-6)


def test_mixed_frequencies_are_those_of_diffusers():
    one, other = iid((8, 4, 16, 16), [1]), iid((8, 4, 16, 16), [2])
    response = low_pass(8, 16, 16)
    theirs = FreeInitMixin()._apply_freq_filter(one.transpose(1, 2), other.transpose(1, 2), response)
    torch.testing.assert_close(mix_frequencies(one, other, response), theirs.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ideal", "box", "butterworth", "gaussian"])
def test_mixed_frequencies_keep_the_variance_up_to_the_filters_flank(kind):
    """Variance of low L^2 + high (1 - L)^2, averaged over frequencies: 1 for sharp filters, less on a flank."""
    shape, seeds = (8, 4, 32, 32), (1, 2, 3, 4)
    response = low_pass(8, 32, 32, kind)
    result = mix_frequencies(iid(shape, seeds), iid(shape, [seed + 10 for seed in seeds]), response)
    expected = float((response**2 + (1 - response) ** 2).mean())
    assert float(result.var()) == pytest.approx(expected, rel=0.02)
    same = iid(shape, seeds)
    torch.testing.assert_close(mix_frequencies(same, same, response), same, rtol=1e-4, atol=1e-5)
    assert abs(float((covariance(result) - torch.diag(covariance(result).diagonal())).abs().max())) < 0.05


def test_unknown_filter():
    with pytest.raises(InputError, match="did you mean 'gaussian'"):
        low_pass(2, 2, 2, "gausian")
