"""The loss of Stable Video Diffusion, and that it trains."""

import torch
from tiny_svd import perturbed

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.process import VarianceExploding
from kineograph.models.image_to_video import ConditionedNetwork, ImageCondition
from kineograph.systems import systems
from kineograph.systems.stable_video_diffusion import STAGES
from kineograph.temporal.tags import train_only
from kineograph.training.image_to_video import edm_v_loss, stage_sigmas


def told(batch=2, frames=3):
    return ImageCondition(torch.randn(batch, 1, 32), torch.randn(batch, frames, 4, 8, 8), torch.rand(batch, 3))


def test_loss_is_the_weighted_error_of_the_data_estimate():
    latents, noise = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, 4, 8, 8)
    sigma = torch.tensor([0.3, 5.0])
    network = lambda x, level, condition: x * 0.2 + level.view(-1, 1, 1, 1, 1)
    denoised = NetworkDenoiser(network, VarianceExploding(), "svd")(
        latents + sigma.view(-1, 1, 1, 1, 1) * noise, sigma, None
    )
    weight = (sigma**2 + 1) / sigma**2
    expected = weight * (denoised - latents).square().mean((1, 2, 3, 4))
    assert torch.allclose(edm_v_loss(network, latents, told(), noise, sigma), expected, rtol=1e-4)


def test_dropped_clips_are_trained_without_their_picture():
    seen = []
    latents = torch.zeros(2, 3, 4, 8, 8)
    network = lambda x, level, condition: seen.append(condition) or x
    edm_v_loss(network, latents, told(), latents, torch.ones(2), torch.tensor([False, True]))
    assert seen[0].latents[1].any().item() is False
    assert seen[0].latents[0].any()


def test_stages_put_their_noise_where_they_say():
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for stage in STAGES.values():
        sigma = stage_sigmas(stage, u).log()
        assert abs(sigma.mean() - stage.sigma_mean) < 0.03
        assert abs(sigma.std() - stage.sigma_std) < 0.03


def test_a_few_steps_lower_the_loss_of_the_temporal_layers():
    model = perturbed(systems()["stable_video_diffusion"].build("tiny"))
    network = ConditionedNetwork(model, 8)
    optimizer = torch.optim.AdamW(train_only(model, ["temporal"]), lr=2e-3)
    latents, noise, condition = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, 4, 8, 8), told()
    losses = []
    for _ in range(6):
        loss = edm_v_loss(network, latents, condition, noise, torch.tensor([0.5, 3.0])).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
