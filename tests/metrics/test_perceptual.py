"""The perceptual distance: the published network, folded, at its own resolutions."""

import pytest
import torch

from kineograph.metrics.features.perceptual import PerceptualDistance
from kineograph.metrics.features.standins import load_efficientnet

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance()


def picture(seed=0):
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, (64, 64), mode="bilinear")


def test_folded_network_says_what_the_published_one_says(distance):
    x = (picture() + 1) / 2
    pixels = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    bytes_of_it = (pixels * 255).round() / 255
    network = distance.network
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        pooled = network.extract_features((bytes_of_it - mean) / deviation).mean((2, 3))
    wanted = load_efficientnet()(bytes_of_it[None] * 2 - 1)["pool"][0]
    torch.testing.assert_close(pooled, wanted, atol=1e-4, rtol=1e-4)


def test_layers_have_unit_length_and_each_its_resolution(distance):
    maps = distance.features(picture())
    assert [m.shape[-1] for m in maps] == [112, 56, 28, 14, 7]
    for m in maps:
        length = m.norm(dim=1)
        assert ((length - 1).abs() < 1e-4).logical_or(length == 0).all()


def test_distance_is_zero_for_the_same_and_grows_with_what_differs(distance):
    real = picture()
    assert distance(real, real).item() == pytest.approx(0, abs=1e-6)
    near, far = distance(real + 0.05 * picture(1), real), distance(picture(1), real)
    assert 0 < near < far


def test_each_pair_counts_alone_and_only_the_made_picture_gets_a_gradient(distance):
    made, real = torch.cat([picture(1), picture(2)]).requires_grad_(), torch.cat([picture(0)] * 2).requires_grad_()
    both = distance(made, real)
    torch.testing.assert_close(both[1:], distance(made[1:], real[1:]), atol=1e-5, rtol=1e-4)
    both.sum().backward()
    assert made.grad.abs().sum() > 0
    assert real.grad is None
    assert all(p.grad is None for p in distance.network.parameters())
