"""The autoencoder stage on random frames."""

import pytest
import torch

from kineograph.errors import InputError, WeightsError
from kineograph.models.autoencoder import build_autoencoder, load_autoencoder, save_autoencoder
from kineograph.training.autoencoder import AutoencoderTask, gradient_l1, kl_to_standard_normal


def tiny(**options):
    return build_autoencoder(**{"patch": 2, "channels": (32, 32), "latent_channels": 4, **options})


def test_stage_validates_draws_and_exports_what_loads(tmp_path, store):
    task = AutoencoderTask(tiny(), store, "test")
    losses = task.loss(task.network, task.load([0, 1], [1, 2]), [1, 2])
    assert losses.shape == (2,)
    assert losses.mean().backward() is None
    with torch.no_grad():
        assert set(task.validate()) == {"l1", "psnr"}
        task.preview(tmp_path)
        task.export(tmp_path)
    again = load_autoencoder(tmp_path / "vae")
    video = torch.rand(1, 2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(again.encode(video), task.network.eval().encode(video))
    torch.testing.assert_close(again.decode(again.encode(video)), task.network.decode(task.network.encode(video)))
    latents = again.encode((torch.from_numpy(store.frames[:36]).float() / 127.5 - 1).permute(0, 3, 1, 2)[None])
    assert latents.mean().abs() < 0.2
    assert 0.7 < latents.std() < 1.3


def test_decoder_alone_learns_and_latents_stay_valid(tmp_path, store):
    network = tiny()
    network.calibrate(0.25, 2.0)
    before = {name: tensor.clone() for name, tensor in network.vae.state_dict().items()}
    task = AutoencoderTask(network, store, "test", decoder_only=True)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1)
    task.loss(network, task.load([0, 1], [1, 2]), [1, 2]).mean().backward()
    optimizer.step()
    changed = {
        name.split(".")[0] for name, tensor in network.vae.state_dict().items() if (tensor != before[name]).any()
    }
    assert changed == {"decoder", "post_quant_conv"}
    task.export(tmp_path)
    again = load_autoencoder(tmp_path / "vae")
    assert (again.shift, again.scale) == (0.25, 0.5)


def test_decoder_alone_is_moved_more_by_a_large_error(store):
    """Five times the square and half of what edges differ: a flat error has no edges, half a picture of it has one."""
    flat = AutoencoderTask(tiny(), store, "test", flip=False, decoder_only=True)
    images = torch.zeros(2, 3, 16, 16)
    error = torch.full_like(images, 0.5)
    error[1, :, :, 8:] = 0
    network = lambda batch, noise: (batch + error, None, None)
    loss = flat.loss(network, {"images": images}, [1, 2])
    torch.testing.assert_close(loss, torch.tensor([5 * 0.25, 5 * 0.125 + 0.5 * 0.5 / 15]))


def test_shortcut_carries_colour_from_the_first_step():
    video = torch.tensor([0.9, -0.2, 0.4])[None, None, :, None, None].expand(1, 1, 3, 16, 16)
    network = tiny(shortcut=True).eval()
    for parameter in network.vae.decoder.conv_out.parameters():
        parameter.data.zero_()
    torch.nn.init.zeros_(network.vae.quant_conv.weight)
    torch.nn.init.zeros_(network.vae.quant_conv.bias)
    torch.testing.assert_close(network.decode(network.encode(video)), video, atol=1e-5, rtol=0)


def test_without_options_it_is_the_diffusers_autoencoder():
    network = tiny(patch=1, shortcut=False).eval()
    images = torch.randn(2, 3, 16, 16)
    mean, _ = network.posterior(images)
    torch.testing.assert_close(mean, network.vae.encode(images).latent_dist.mean)
    torch.testing.assert_close(network.reconstruct(mean), network.vae.decode(mean).sample)


def test_frames_at_once_does_not_change_the_clip():
    network = tiny().eval()
    latents = torch.randn(1, 5, 4, 4, 4)
    torch.testing.assert_close(network.decode(latents, frames_at_once=2), network.decode(latents, frames_at_once=5))


def test_losses_in_closed_form():
    a = torch.zeros(1, 3, 4, 4)
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    assert gradient_l1(ramp, a).item() == pytest.approx(1.0)
    mean, variance = torch.full((1, 2, 1, 1), 0.5), torch.full((1, 2, 1, 1), 2.0)
    from torch.distributions import Normal, kl_divergence

    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_to_standard_normal(mean, variance.log())[0], expected)


def test_wrong_sizes_and_files_are_refused(tmp_path):
    network = tiny()
    with pytest.raises(InputError, match="multiple of 4"):
        network.encode(torch.zeros(1, 1, 3, 18, 16))
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_autoencoder(tmp_path)
    save_autoencoder(network, tmp_path)
    (tmp_path / "kineograph.json").write_text('{"pach": 2}')
    with pytest.raises(WeightsError, match="patch"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize("options", [{"channels": (16, 32)}, {"channels": ()}, {"patch": 0}, {"latent_channels": 1}])
def test_sizes_that_cannot_be_built_are_refused_by_flag(options):
    with pytest.raises(InputError, match=r"--channels must be|--patch must be"):
        tiny(**options)
