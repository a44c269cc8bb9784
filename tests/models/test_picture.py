"""Pictures as tokens after those of the text."""

import torch
from tiny_svd import perturbed, tiny_pipeline

from kineograph.models.image_encoder import ImageEncoder
from kineograph.models.picture import PictureTokens, build_resampler
from kineograph.systems.resampler_keys import resampler_keys, split_keys_values


def tokens():
    resampler = build_resampler(in_channels=32, out_channels=24, width=16, depth=2, num_heads=2, head_dim=8, tokens=5)
    return PictureTokens(ImageEncoder(tiny_pipeline().image_encoder), perturbed(resampler)).eval()


def test_context_is_text_then_picture():
    pictures, text = tokens(), torch.randn(2, 7, 24)
    images = torch.rand(2, 3, 20, 30) * 2 - 1
    context = pictures.beside(text, images)
    assert context.shape == (2, 12, 24)
    assert torch.equal(context[:, :7], text)
    assert torch.equal(context[:, 7:], pictures(images))
    assert (pictures(images)[0] - pictures(-images)[0]).abs().max() > 1e-4


def test_only_the_resampler_trains():
    pictures = tokens()
    pictures(torch.rand(1, 3, 20, 30)).square().mean().backward()
    assert all(p.grad is None for p in pictures.encoder.parameters())
    assert all(p.grad is not None for p in pictures.resampler.parameters())


def test_published_size_and_the_authors_names():
    with torch.device("meta"):
        resampler = build_resampler()
    assert sum(p.numel() for p in resampler.parameters()) == 48_541_696  # the authors' class, commit 11bcd76f
    keys = resampler_keys()
    theirs = keys.to_theirs(resampler.state_dict())
    assert {"layers.0.0.to_k.weight", "layers.3.1.3.weight", "layers.1.0.norm2.bias", "proj_in.bias"} <= set(theirs)
    fused = {name: value for name, value in theirs.items() if not name.endswith((".to_k.weight", ".to_v.weight"))} | {
        f"layers.{n}.0.to_kv.weight": torch.zeros(1536, 1024) for n in range(4)
    }
    assert set(keys.to_ours(split_keys_values(fused))) == set(resampler.state_dict())
