"""The whole of Stable Video Diffusion against diffusers, from one folder: decoder, image condition, latents."""

import json

import pytest
import torch
from tiny import relative, unequal_clip
from tiny_svd import perturbed, photo, tiny_pipeline, tiny_vae
from transformers import CLIPImageProcessor

from kineograph.models.image_encoder import ImageEncoder, resize_antialiased
from kineograph.models.temporal_autoencoder import temporal_autoencoder
from kineograph.sampling.image_to_video import ImageToVideo, sample_from
from kineograph.systems.svd_folder import load_network, load_stable_video_diffusion, save_stable_video_diffusion
from kineograph.systems.svd_keys import decoder_keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("svd")
    tiny_pipeline().save_pretrained(directory)
    return directory


def decoders():
    reference = tiny_vae()
    ours = temporal_autoencoder(reference.config).eval()
    keys = decoder_keys()
    ours.vae.load_state_dict(keys.to_ours(reference.state_dict()), strict=True)
    return reference, ours, keys


@pytest.mark.parametrize("checkpointing", [False, True])
def test_decoder_equals_autoencoder_kl_temporal_decoder(checkpointing):
    reference, ours, keys = decoders()
    latents = unequal_clip(3, 2, 4, 8)
    theirs_in, ours_in = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    if checkpointing:
        ours.vae.enable_gradient_checkpointing()
    theirs = reference.decode(theirs_in.flatten(0, 1), num_frames=3).sample.unflatten(0, (2, 3))
    found = ours.train().reconstruct_clips(ours_in)
    assert relative(found.detach(), theirs.detach()) < 1e-5
    theirs.square().mean().backward()
    found.square().mean().backward()
    assert relative(ours_in.grad, theirs_in.grad) < 1e-5
    gradients = keys.to_ours({key: p.grad for key, p in reference.named_parameters() if p.grad is not None})
    largest = max(gradient.abs().max() for gradient in gradients.values())
    decoder = {key: p.grad for key, p in ours.vae.named_parameters() if key.startswith("decoder.")}
    assert set(decoder) == set(gradients)
    for key, gradient in decoder.items():
        assert (gradient - gradients[key]).abs().max() < 1e-5 * largest, key


@torch.no_grad()
def test_encoder_gives_the_same_mode_and_keys_go_both_ways():
    reference, ours, keys = decoders()
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    assert relative(ours.encode_mode(images), reference.encode(images).latent_dist.mode()) < 1e-5
    back = keys.to_theirs(ours.vae.state_dict())
    assert sorted(back) == sorted(reference.state_dict())
    assert all(torch.equal(back[key], value) for key, value in reference.state_dict().items())


@torch.no_grad()
def test_chunks_equal_diffusers_chunks():
    reference, ours, _ = decoders()
    raw = unequal_clip(5, 1, 4, 8) * 0.1
    chunks = [reference.decode(part, num_frames=len(part)).sample for part in raw[0].split(2)]
    whole = ours.decode(raw * ours.scale, frames_at_once=2)[0]
    assert relative(whole, torch.cat(chunks).clamp(-1, 1)) < 1e-5
    assert relative(ours.decode(raw * ours.scale, frames_at_once=5)[0], whole) > 1e-4


@pytest.mark.parametrize("size", [(16, 24), (300, 500), (224, 224)])
def test_antialiased_resize_equals_the_pipelines(size):
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    images = torch.randn(1, 3, *size)
    assert relative(resize_antialiased(images, (224, 224)), _resize_with_antialiasing(images, (224, 224))) < 1e-5


@torch.no_grad()
def test_image_encoder_prepares_and_encodes_as_the_pipeline():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    # the pipeline always resizes to 224
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=32,
        projection_dim=8,
    )
    pipeline = tiny_pipeline()
    pipeline.image_encoder = perturbed(CLIPVisionModelWithProjection(config)).eval()
    pipeline.feature_extractor = CLIPImageProcessor()
    picture = photo(300, 200)
    expected = pipeline._encode_image(picture, "cpu", 1, False)
    pixels = pixels_of(picture)
    assert relative(ImageEncoder(pipeline.image_encoder)(pixels), expected) < 1e-5


@torch.no_grad()
def sampled_by_diffusers(folder, noise, augmentation, **options):
    """Run diffusers' pipeline with given noise in both places."""
    from unittest import mock

    from diffusers import StableVideoDiffusionPipeline
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module

    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    encoder = ImageEncoder(pipeline.image_encoder)

    def encode(image, device, number, guided):  # the tiny encoder sees 32 pixels, the pipeline insists on 224
        tokens = encoder(pixels_of(image))
        return torch.cat([torch.zeros_like(tokens), tokens]) if guided else tokens

    with (
        mock.patch.object(module, "randn_tensor", return_value=augmentation),
        mock.patch.object(pipeline, "_encode_image", encode),
    ):
        return pipeline(photo(), latents=noise, output_type="latent", **options).frames


def pixels_of(picture):
    import numpy as np

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, under numpy 2
@pytest.mark.parametrize(("scales", "steps"), [((1.0, 3.0), 10), ((1.0, 1.0), 3)])
@torch.no_grad()
def test_pipeline_gives_the_same_latents(folder, scales, steps):
    noise, augmentation = torch.randn(1, 4, 4, 8, 12), torch.randn(1, 3, 16, 24)
    options = {"num_inference_steps": steps, "fps": 9, "motion_bucket_id": 60, "noise_aug_strength": 0.1}
    low, high = scales
    guidance = {"min_guidance_scale": low, "max_guidance_scale": high}
    expected = sampled_by_diffusers(
        folder, noise, augmentation, height=16, width=24, num_frames=4, **options, **guidance
    )
    model = load_stable_video_diffusion(folder, norms="diffusers")
    first = pixels_of(photo())
    condition = model.condition(
        first, 4, noise=augmentation, fps=[9], motion_bucket_id=[60], noise_aug_strength=[0.1], pictures=first
    )
    found = sample_from(model, condition, noise, {"num_inference_steps": steps, **guidance})
    assert relative(found, expected) < 1e-4


@torch.no_grad()
def test_the_epsilons_of_the_norms_are_a_choice(folder):
    x = torch.randn(1, 3, 8, 8, 8)
    call = {"timestep": 0.3, "context": torch.randn(1, 1, 24), "class_labels": torch.randn(1, 24)}
    ours, theirs = (load_network(folder / "unet", norms)(x, **call) for norms in ("original", "diffusers"))
    assert 1e-7 < relative(ours, theirs) < 1e-2


@torch.no_grad()
def test_folder_survives_loading_and_saving_exactly(folder, tmp_path):
    from diffusers import StableVideoDiffusionPipeline
    from safetensors.torch import load_file

    save_stable_video_diffusion(load_stable_video_diffusion(folder), tmp_path)
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        before, after = load_file(folder / name), load_file(tmp_path / name)
        assert sorted(before) == sorted(after)
        assert all(torch.equal(after[key], value) for key, value in before.items())
        configs = [json.loads((root / part / "config.json").read_text()) for root in (folder, tmp_path)]
        assert all(configs[0].get(name) == value for name, value in configs[1].items())
    StableVideoDiffusionPipeline.from_pretrained(tmp_path)
    again = ImageToVideo(load_stable_video_diffusion(tmp_path))
    clip = again.generate(photo(), num_inference_steps=2, height=16, width=24, seed=3, precision="fp32")
    first = ImageToVideo(load_stable_video_diffusion(folder)).generate(
        photo(), num_inference_steps=2, height=16, width=24, seed=3, precision="fp32"
    )
    assert torch.equal(clip.frames, first.frames)
