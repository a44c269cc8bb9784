"""The temporal decoder is the image decoder at first, and refuses what it cannot be. Parity: tests/parity."""

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_svd import perturbed, tiny_vae

from kineograph.errors import InputError, WeightsError
from kineograph.models.temporal_autoencoder import TemporalAutoencoder, temporal_autoencoder
from kineograph.temporal.inflate import temporal_state_dict


def image_vae(**changes):
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (32, 32),
        "layers_per_block": 2,
        "latent_channels": 4,
        "use_post_quant_conv": False,
    }
    return perturbed(AutoencoderKL(**config | changes)).eval()


@torch.no_grad()
def test_fresh_decoder_is_the_image_decoder_on_every_frame():
    vae = image_vae()
    raw = torch.randn(2, 3, 4, 8, 8) * torch.tensor([0.3, 1, 3]).view(3, 1, 1, 1)
    expected = vae.decode(raw.flatten(0, 1)).sample.unflatten(0, (2, 3))
    ours = TemporalAutoencoder(vae)
    assert torch.allclose(ours.reconstruct_clips(raw), expected, atol=1e-5)
    assert len(temporal_state_dict(vae.encoder)) == 0
    assert len(temporal_state_dict(vae.decoder)) == (2 + 2 * 3) * 9 + 2


@torch.no_grad()
def test_frames_see_each_other_within_their_own_clip_only():
    ours = TemporalAutoencoder(image_vae()).eval()
    perturbed(ours)
    raw = torch.randn(2, 3, 4, 8, 8)
    before = ours.reconstruct_clips(raw)
    raw[0, 0] += 1
    moved = (ours.reconstruct_clips(raw) - before).abs().amax((2, 3, 4))
    assert (moved[0] > 0).all()
    assert (moved[1] == 0).all()


def test_what_cannot_be_honoured_is_refused():
    with pytest.raises(InputError, match="use_post_quant_conv=False"):
        TemporalAutoencoder(image_vae(use_post_quant_conv=True))
    config = dict(tiny_vae().config)
    with pytest.raises(WeightsError, match="layers_per_block=1"):
        temporal_autoencoder(config | {"layers_per_block": 1})
    with pytest.raises(WeightsError, match="DownEncoderBlock2D only"):
        temporal_autoencoder(config | {"down_block_types": ("AttnDownEncoderBlock2D",) * 2})
    with pytest.raises(InputError, match="at least 1, not 0"):
        TemporalAutoencoder(image_vae()).decode(torch.zeros(1, 2, 4, 8, 8), frames_at_once=0)


def test_published_size_on_the_meta_device():
    with torch.device("meta"):
        ours = temporal_autoencoder(
            {
                "down_block_types": ("DownEncoderBlock2D",) * 4,
                "block_out_channels": (128, 256, 512, 512),
                "layers_per_block": 2,
            }
        )
    # diffusers' AutoencoderKLTemporalDecoder of the same configuration
    assert sum(p.numel() for p in ours.vae.parameters()) == 97_742_847
