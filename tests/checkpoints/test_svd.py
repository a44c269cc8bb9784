"""Stable Video Diffusion: folder and single file give one model; a picture is asked for."""

import json

import pytest
import tiny_pipelines as tiny
import tiny_svd
import torch
from safetensors.torch import load_file, save_file
from temporal_layouts import linear_unet
from tiny_pipelines import perturbed
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import kineograph as kg
from kineograph.checkpoints import shapes
from kineograph.checkpoints.convert import convert
from kineograph.checkpoints.svd import CLIP, PICTURE, svd_tensors
from kineograph.cli import main
from kineograph.errors import InputError, WeightsError
from kineograph.models.image_encoder import ImageEncoder
from kineograph.models.image_to_video import ImageToVideoModel, ImageToVideoSettings
from kineograph.models.temporal_autoencoder import temporal_autoencoder
from kineograph.systems import systems
from kineograph.systems.stable_video_diffusion import SVDConfig


def file_model():
    """Return a tiny model of the sizes that can be read off a file: heads of 64 channels."""
    unet = {
        "in_channels": 8,
        "cross_attention_dim": 24,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 24,
        "sample_size": 96,
    }
    network = perturbed(lambda: systems()["stable_video_diffusion"].build(SVDConfig(), linear_unet(**unet)), 8)
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=32,
        patch_size=8,
        projection_dim=24,
        hidden_act="gelu",
    )
    vae = perturbed(lambda: temporal_autoencoder(tiny_svd.tiny_vae().config), 3)
    encoder = ImageEncoder(perturbed(lambda: CLIPVisionModelWithProjection(vision), 4))
    return ImageToVideoModel(network, vae, encoder, ImageToVideoSettings(wave_channels=8))


@pytest.fixture(scope="module")
def model():
    return file_model()


@pytest.fixture
def file(model, tmp_path):
    left_over = {f"{CLIP}ln_final.bias": torch.zeros(3), f"{CLIP}token_embedding.weight": torch.zeros(5, 3)}
    tensors = {key: value.contiguous() for key, value in (svd_tensors(model) | left_over).items()}
    save_file(tensors, tmp_path / "svd_xt.safetensors")
    return tmp_path / "svd_xt.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("svd")
    tiny_svd.tiny_pipeline().save_pretrained(directory)
    return directory


def parts(model):
    return model.network.unet, model.autoencoder.vae, model.image_encoder.model


def same(one, two):
    for ours, theirs in zip(parts(one), parts(two), strict=True):
        own, other = ours.state_dict(), theirs.state_dict()
        assert sorted(own) == sorted(other)
        assert all(torch.equal(own[key], value) for key, value in other.items())
    return True


def test_single_file_holds_the_whole_model(model, file):
    read = kg.load(file, device="cpu")
    assert same(read.parts, model)
    assert read.parts.network.plan == model.network.plan
    one, two = ({k: v for k, v in m.network.config.items() if k[0] != "_"} for m in (read.parts, model))
    assert one == two
    assert (read.settings.num_frames, read.settings.num_inference_steps) == (25, 30)
    assert read.settings.wave_channels == 8
    clip = read.generate(tiny_svd.photo(), num_frames=3, height=16, width=24, num_inference_steps=1, precision="fp32")
    assert clip.frames.shape == (3, 3, 16, 24)


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        ("svd", "", (14, 25, 1.0, 2.5)),
        ("svd_xt_1_1", "", (25, 30, 1.5, 3.0)),
        ("next_svd", "", (14, 25, 1.0, 2.5)),
        ("next_svd", "xt", (25, 30, 1.5, 3.0)),
        ("svd_xt", "published", (14, 25, 1.0, 2.5)),
    ],
)
def test_frames_and_guidance_are_those_of_the_authors_configurations(file, capsys, name, preset, expected):
    """scripts/sampling/configs/svd.yaml and svd_xt.yaml; where only the name tells which it is, that is said."""
    renamed = file.rename(file.with_name(f"{name}.safetensors"))
    own = kg.load(renamed, preset=preset, device="cpu").settings
    found = (own.num_frames, own.num_inference_steps, own.min_guidance_scale, own.max_guidance_scale)
    assert found == expected
    assert (own.fps, own.motion_bucket_id, own.noise_aug_strength, own.decode_chunk_size) == (7, 127, 0.02, 14)
    assert (own.height, own.width, own.licence) == (576, 1024, "")
    said = capsys.readouterr().err
    assert ("--preset published or --preset xt" in said) == (preset == "")


def test_a_file_written_here_says_which_it_is(file, tmp_path, capsys):
    convert(file, tmp_path / "clips.safetensors", "original", preset="xt")
    capsys.readouterr()
    assert kg.load(tmp_path / "clips.safetensors", device="cpu").settings.num_frames == 25
    assert "--preset" not in capsys.readouterr().err


def test_a_preset_that_is_none_is_refused(file):
    with pytest.raises(WeightsError, match=r"Known: published, xt"):
        kg.load(file, preset="interpolation", device="cpu")


def test_file_there_and_back_by_way_of_diffusers(file, tmp_path):
    from diffusers import StableVideoDiffusionPipeline

    convert(file, tmp_path / "theirs", "diffusers")
    StableVideoDiffusionPipeline.from_pretrained(tmp_path / "theirs", local_files_only=True)
    convert(tmp_path / "theirs", tmp_path / "svd_xt_back.safetensors", "original")
    back, first = load_file(tmp_path / "svd_xt_back.safetensors"), load_file(file)
    assert sorted(back) == sorted(first)
    assert all(torch.equal(back[key], value) for key, value in first.items())
    one, two = (kg.load(place, device="cpu").settings for place in (file, tmp_path / "theirs"))
    assert {**vars(one), "name": ""} == {**vars(two), "name": ""}


def test_the_encoder_of_the_first_stage_is_the_pictures(model):
    """The two encoders of the file differ by a layer that is multiplied into the last convolution of one."""
    tensors, vae = svd_tensors(model), model.autoencoder.vae
    hidden = torch.randn(1, vae.encoder.conv_out.in_channels, 8, 8)
    expected = vae.quant_conv(vae.encoder.conv_out(hidden))
    stem = "first_stage_model.encoder.conv_out"
    found = torch.nn.functional.conv2d(hidden, tensors[f"{stem}.weight"], tensors[f"{stem}.bias"], padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_file_without_the_pictures_encoder_uses_the_first_stages(model, tmp_path):
    tensors = {key: v.contiguous() for key, v in svd_tensors(model).items() if "embedders.3" not in key}
    save_file(tensors, tmp_path / "svd.safetensors")
    read = kg.load(tmp_path / "svd.safetensors", device="cpu")
    images = torch.rand(1, 3, 16, 24) * 2 - 1
    torch.testing.assert_close(
        read.parts.autoencoder.encode_mode(images), model.autoencoder.encode_mode(images), rtol=1e-3, atol=1e-4
    )
    assert read.settings.num_frames == 14


def test_unknown_and_missing_parts_are_named(model, tmp_path):
    tensors = {key: value.contiguous() for key, value in svd_tensors(model).items()}
    for change, words in (
        ({"strange.weight": torch.zeros(1)}, r"strange\.weight"),
        ({f"{CLIP}attic.weight": torch.zeros(1)}, r"unknown weights of CLIP, such as attic\.weight"),
    ):
        save_file(tensors | change, tmp_path / "svd.safetensors")
        with pytest.raises(WeightsError, match=words):
            kg.load(tmp_path / "svd.safetensors")
    save_file({key: v for key, v in tensors.items() if "visual" not in key}, tmp_path / "svd.safetensors")
    with pytest.raises(WeightsError, match="no image encoder"):
        kg.load(tmp_path / "svd.safetensors")


def test_a_file_with_the_decoder_of_an_image_autoencoder(model, file, tmp_path):
    """Published as svd_image_decoder.safetensors; there and back, and through diffusers' own pipeline class."""
    from diffusers import StableVideoDiffusionPipeline

    vae = tiny.tiny_vae()
    kept = {key: v for key, v in load_file(file).items() if not key.startswith(("first_stage", "conditioner.emb"))}
    tower = {key: v for key, v in load_file(file).items() if key.startswith(CLIP)}
    theirs = tiny.ldm_vae(vae)
    picture = {key: v for key, v in theirs.items() if key.startswith(("encoder.", "quant_conv."))}
    tensors = kept | tower | tiny.under(tiny.VAE, theirs) | tiny.under(PICTURE, picture)
    save_file(tensors, tmp_path / "svd_image_decoder.safetensors")
    image = kg.load(tmp_path / "svd_image_decoder.safetensors", device="cpu")
    assert all(torch.equal(image.parts.autoencoder.vae.state_dict()[key], v) for key, v in vae.state_dict().items())
    sizes = {"num_frames": 2, "height": 16, "width": 24, "num_inference_steps": 1, "precision": "fp32"}
    assert len(image.generate(tiny_svd.photo(), **sizes)) == 2
    convert(tmp_path / "svd_image_decoder.safetensors", tmp_path / "folder", "diffusers")
    convert(tmp_path / "folder", tmp_path / "back.safetensors", "original")
    back = load_file(tmp_path / "back.safetensors")
    assert sorted(back) == sorted(tensors)
    assert all(torch.equal(back[key], value) for key, value in tensors.items())
    pipe = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert type(pipe.vae).__name__ == "AutoencoderKL"


def test_published_heads_of_the_image_encoder():
    """open_clip's ViT-H has 16 heads of 80 channels, ViT-L 16 of 64, ViT-B 12 of 64."""
    for width, heads in ((1280, 16), (1024, 16), (768, 12)):
        tensors = {
            "vision_model.embeddings.patch_embedding.weight": torch.empty(width, 3, 14, 14, device="meta"),
            "vision_model.embeddings.position_embedding.weight": torch.empty(257, width, device="meta"),
            "visual_projection.weight": torch.empty(1024, width, device="meta"),
            "vision_model.encoder.layers.0.mlp.fc1.weight": torch.empty(4 * width, width, device="meta"),
        }
        config = shapes.clip_image(tensors, "file")
        assert (config["num_attention_heads"], config["image_size"]) == (heads, 224)


def test_command_makes_a_clip_from_a_picture(folder, tmp_path, capsys):
    photo, clip = tmp_path / "photo.png", tmp_path / "clip.mp4"
    tiny_svd.photo().save(photo)
    sizes = ("--height", "16", "--width", "24", "--num-frames", "3", "--steps", "1")
    words = ("generate", "--model", str(folder), "-o", str(clip), *sizes)
    assert main([*words, "--image", str(photo), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"][0]["frames"] == 3
    clip.unlink()
    for more, said in (
        (("a dog",), "makes clips from a picture, not from words: give it one, --image photo.png"),
        (("a dog", "--image", str(photo)), "has no place beside --image"),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err


def test_a_picture_for_a_model_of_prompts_is_refused(pipelines, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    tiny_svd.photo().save(photo)
    assert main(["generate", "--model", str(pipelines("modelscope")[0]), "--image", str(photo)]) == 2
    assert "makes clips from prompts; leave --image out" in capsys.readouterr().err


def test_generate_in_one_call_says_that_a_picture_is_needed(folder):
    with pytest.raises(InputError, match="from a picture"):
        kg.generate("a dog", model=folder)
