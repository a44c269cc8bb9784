"""Pictures for CLIP: resized, normalised, read and written. Parity with diffusers' resize: tests/parity."""

import pytest
import torch
from tiny_svd import tiny_pipeline

from kineograph.errors import WeightsError
from kineograph.models.image_encoder import ImageEncoder, load_image_encoder, resize_antialiased, save_image_encoder


def encoder():
    return ImageEncoder(tiny_pipeline().image_encoder, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def test_plain_colours_stay_plain_and_are_normalised():
    ours = encoder()
    grey = torch.zeros(2, 3, 50, 70)
    prepared = ours.prepared(grey)
    assert prepared.shape == (2, 3, 32, 32)
    expected = torch.tensor([0.0, 0.1 / 0.3, 0.2 / 0.4]).view(3, 1, 1).expand(3, 32, 32)
    assert torch.allclose(prepared[0], expected, atol=1e-5)
    assert ours(grey).shape == (2, 1, 24)
    assert ours.tokens(grey).shape == (2, 17, 32)


def test_shrinking_averages_and_thin_pictures_are_no_problem():
    stripes = torch.ones(1, 1, 400, 400)
    stripes[..., ::2] = -1
    assert resize_antialiased(stripes, (20, 20)).abs().max() < 0.05
    assert resize_antialiased(torch.ones(1, 3, 2, 5000), (32, 32)).sub(1).abs().max() < 1e-4


def test_saved_encoder_gives_the_same_tokens(tmp_path):
    ours = encoder()
    save_image_encoder(ours, tmp_path / "net", tmp_path / "colours")
    again = load_image_encoder(tmp_path / "net", tmp_path / "colours")
    assert again.mean == (0.5, 0.4, 0.3)
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(again(images), ours(images))
    (tmp_path / "colours" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="how colours are normalised"):
        load_image_encoder(tmp_path / "net", tmp_path / "colours")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_image_encoder(tmp_path / "nowhere")
