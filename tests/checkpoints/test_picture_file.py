"""VideoCrafter's image-to-video file: prompt and picture, from the authors' names to a clip."""

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from temporal_layouts import system_network
from test_original import scales, videocrafter_file, written
from tiny_svd import photo

import kineograph as kg
from kineograph.checkpoints.convert import convert
from kineograph.checkpoints.open_clip import image_to_theirs
from kineograph.cli import main
from kineograph.errors import InputError, WeightsError
from kineograph.models.picture import build_resampler
from kineograph.sampling.picture_and_text import PictureAndText

SMALL = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 2, "precision": "fp32"}


def tiny_vision():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=24, hidden_act="gelu")
    return tiny.perturbed(lambda: CLIPVisionModelWithProjection(config), 9)


def tiny_resampler():
    sizes = {"in_channels": 64, "out_channels": 32, "width": 48, "depth": 2, "num_heads": 2, "tokens": 16}
    return tiny.perturbed(lambda: build_resampler(**sizes), 10)


def resampler_in_the_authors_names(weights):
    """Keys and values in one weight; `lvdm/modules/encoders/ip_resampler.py`."""
    theirs = {}
    for name, value in weights.items():
        for ours, other in (
            (".ln0.", ".0.norm1."),
            (".ln1.", ".0.norm2."),
            (".attn.to_out.0.", ".0.to_out."),
            (".attn.to_", ".0.to_"),
            (".ff.0.", ".1.0."),
            (".ff.1.net.0.proj.", ".1.1."),
            (".ff.1.net.2.", ".1.3."),
        ):
            name = name.replace(ours, other)
        theirs[name] = value
    for layer in range(2):
        pair = [theirs.pop(f"layers.{layer}.0.to_{part}.weight") for part in "kv"]
        theirs[f"layers.{layer}.0.to_kv.weight"] = torch.cat(pair)
    return theirs


@pytest.fixture(scope="module")
def source(pipelines, tmp_path_factory):
    """Write the file; return it with the modules that it holds."""
    network, vision, resampler = system_network("videocrafter", "i2v"), tiny_vision(), tiny_resampler()
    tensors = videocrafter_file(pipelines("image_pipeline")[1], network) | {"scale_arr": scales(0.7)}
    tensors |= tiny.under("image_proj_model.", resampler_in_the_authors_names(resampler.state_dict()))
    tensors |= tiny.under("embedder.model.visual.", image_to_theirs(vision.state_dict()))
    tensors |= {"embedder.model.ln_final.weight": torch.ones(2), "embedder.model.logit_scale": torch.ones(())}
    return written(tmp_path_factory.mktemp("i2v"), tensors, "i2v.safetensors"), network, vision, resampler


def same(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return sorted(ours) == sorted(theirs) and all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_the_file_is_recognised_and_its_parts_are_the_authors(source):
    file, network, vision, resampler = source
    model = kg.load(file, device="cpu")
    assert isinstance(model, PictureAndText)
    assert same(model.parts.network, network)
    assert model.parts.network.plan == network.plan
    assert same(model.pictures.encoder.model, vision)
    assert same(model.pictures.resampler, resampler)
    own = model.settings
    assert (own.fps, own.data_scale, own.eta, own.guidance_scale) == (8.0, (0.7, 400), 1.0, 12.0)
    picture = torch.rand(1, 3, 20, 30) * 2 - 1
    expected = resampler(vision.vision_model(model.pictures.encoder.prepared(picture)).last_hidden_state)
    torch.testing.assert_close(model.context("a dog", picture)[:, -16:], expected)


def test_a_clip_from_prompt_and_picture_in_the_authors_steps(source):
    model = kg.load(source[0], device="cpu")
    clip = model.generate("a dog", photo(), **SMALL)
    assert clip.frames.shape == (3, 3, 16, 24)
    assert not torch.equal(clip.frames, model.generate("a cat", photo(), **SMALL).frames)
    assert not torch.equal(clip.frames, model.generate("a dog", photo().transpose(1), **SMALL).frames)
    levels = model._levels(50)
    assert (levels.t[0], levels.t[49], levels.sigma[-1] > 0) == (981.0, 1.0, True)  # ends at timestep 0, as theirs


@pytest.mark.parametrize("to", ["kineograph", "original"])
def test_there_and_back_is_exact(source, tmp_path, to):
    file = source[0]
    tiny.write_tokenizer(tmp_path / "tokenizer")
    out = tmp_path / ("i2v.safetensors" if to == "original" else "out")
    convert(file, out, to)
    first, again = kg.load(file, device="cpu"), kg.load(out, device="cpu")
    assert again.settings == (first.settings if to == "original" else again.settings)
    assert (again.settings.fps, again.settings.data_scale) == (8.0, (0.7, 400))
    for part in (
        lambda m: m.parts.network,
        lambda m: m.pictures,
        lambda m: m.parts.text,
        lambda m: m.parts.autoencoder,
    ):
        assert same(part(again), part(first))
    if to == "original":
        theirs, back = load_file(file), load_file(out)
        assert sorted(theirs) == sorted(back)
        assert all(torch.equal(back[key], value) for key, value in theirs.items())
    assert torch.equal(
        first.generate("a dog", photo(), **SMALL).frames, again.generate("a dog", photo(), **SMALL).frames
    )


def test_the_command_line_takes_both(source, tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "p.png")
    size = ["--num-frames", "3", "--height", "16", "--width", "24", "--steps", "1"]
    words = ["--model", str(source[0]), "--image", str(tmp_path / "p.png"), "-o", str(tmp_path / "c.mp4"), *size]
    assert main(["generate", "a dog", *words]) == 0
    assert len(kg.Video.read(tmp_path / "c.mp4")) == 3
    (tmp_path / "c.mp4").unlink()
    for extra, said in ((["a", "b"], "one prompt, not 2"), ([], "There is no prompt")):
        capsys.readouterr()
        assert main(["generate", *extra, *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["generate", "a dog", "--model", str(source[0])]) == 2
    assert "makes clips from a picture" in capsys.readouterr().err


def test_missing_and_unknown_parts_are_named(source, tmp_path):
    tensors = load_file(source[0])
    tiny.write_tokenizer(tmp_path / "tokenizer")
    for prefix, said in (("embedder.", "no image encoder"), ("image_proj_model.proj_in", r"proj_in\.weight")):
        kept = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
        save_file(kept, tmp_path / "bad.safetensors")
        with pytest.raises(WeightsError, match=said):
            kg.load(tmp_path / "bad.safetensors")
    save_file(tensors | {"image_proj_model.strange": torch.zeros(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match="strange"):
        kg.load(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="leave --system out"):
        kg.load(source[0], system="text2video_zero")
    with pytest.raises(WeightsError, match="diffusers has no network for videocrafter"):
        convert(source[0], tmp_path / "out", "diffusers")
