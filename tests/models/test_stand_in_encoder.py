"""The stand-in for CLIP: pictures are told apart, on the scale that is asked for."""

import torch

from kineograph.models.image_encoder import load_image_encoder, save_image_encoder
from kineograph.models.stand_in_encoder import build_stand_in, whitening


def shapes(count):
    """Return pictures of one bright square each, at random places and of random colours."""
    generator = torch.Generator().manual_seed(3)
    images = -torch.ones(count, 3, 32, 32)
    for image in images:
        y, x = torch.randint(0, 24, (2,), generator=generator).tolist()
        image[:, y : y + 8, x : x + 8] = torch.rand(3, 1, 1, generator=generator) * 2
    return images


def test_pictures_are_told_apart_on_the_scale_of_the_text(tmp_path):
    images = shapes(60)
    encoder = build_stand_in(images, 24, deviation=0.3)
    tokens = encoder(images)
    assert tokens.shape == (60, 1, 24)
    assert 0.1 < tokens.std() < 0.45
    directions = torch.nn.functional.normalize(tokens[:, 0] - tokens[:, 0].mean(0), dim=1)
    likeness = (directions @ directions.T).fill_diagonal_(0).abs()
    assert likeness.mean() < 0.3
    assert torch.equal(build_stand_in(images, 24, deviation=0.3)(images), tokens)
    save_image_encoder(encoder, tmp_path / "image_encoder", tmp_path / "feature_extractor")
    again = load_image_encoder(tmp_path / "image_encoder", tmp_path / "feature_extractor")
    torch.testing.assert_close(again(images), tokens)


def test_whitened_features_are_uncorrelated():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[3.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0.5, 0.2], [0, 0, 0, 1]]
    )
    white = (features - features.mean(0)) @ whitening(features)
    torch.testing.assert_close(white.T @ white / 499, torch.eye(4), atol=1e-3, rtol=1e-3)
