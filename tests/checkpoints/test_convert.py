"""Conversions: there and back is the same, and what is written loads where it is meant to."""

import json

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from temporal_layouts import modelscope_network, system_network
from tiny_models import tiny_model

import kineograph as kg
from kineograph.checkpoints.convert import convert
from kineograph.checkpoints.networks import key_map
from kineograph.cli import main
from kineograph.errors import InputError, WeightsError
from kineograph.systems import systems
from kineograph.temporal.inflate import temporal_state_dict


def same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    return all(torch.equal(ours[key], value) for key, value in theirs.items())


def weights(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def original(name, network):
    return key_map(systems()[name], network, "original").to_theirs(network.unet.state_dict())


@pytest.fixture
def base(pipelines):
    return pipelines("image_pipeline")[0]


@pytest.fixture
def file(tmp_path):
    def written(tensors):
        tiny.write_tokenizer(tmp_path / "tokenizer")
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "in.safetensors")
        return tmp_path / "in.safetensors"

    return written


def test_modelscope_folder_there_and_back(pipelines, tmp_path):
    from diffusers import TextToVideoSDPipeline

    folder, pipe = pipelines("modelscope")
    convert(folder, tmp_path / "ours", "kineograph")
    convert(tmp_path / "ours", tmp_path / "theirs", "diffusers")
    back = TextToVideoSDPipeline.from_pretrained(tmp_path / "theirs", local_files_only=True)
    for part in ("unet", "vae", "text_encoder"):
        assert same(getattr(back, part).state_dict(), getattr(pipe, part).state_dict())
    assert {k: v for k, v in back.unet.config.items() if k[0] != "_"} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in pipe.unet.config.items() if k[0] != "_"
    }
    one, two = (kg.load(place, device="cpu") for place in (folder, tmp_path / "theirs"))
    assert two.parts.network.plan == one.parts.network.plan
    assert {**vars(two.settings), "name": ""} == {**vars(one.settings), "name": ""}


@pytest.mark.parametrize("name", ["modelscope", "lavie"])
def test_network_files_there_and_back(base, file, tmp_path, name):
    network = modelscope_network() if name == "modelscope" else system_network("lavie", "published")
    tensors = original(name, network)
    convert(file(tensors), tmp_path / "ours", "kineograph", base)
    written = convert(tmp_path / "ours", tmp_path / "back.safetensors", "original")
    assert same(load_file(tmp_path / "back.safetensors"), tensors)
    assert "autoencoder" in written.notes[0]
    assert kg.load(tmp_path / "ours", device="cpu").parts.network.plan == network.plan


def test_videocrafter_file_there_and_back(pipelines, file, tmp_path):
    _, pipe = pipelines("image_pipeline")
    network = system_network("videocrafter", "v2")
    tensors = tiny.under(tiny.UNET, original("videocrafter", network)) | tiny.under(tiny.VAE, tiny.ldm_vae(pipe.vae))
    tensors["scale_arr"] = torch.cat(
        [torch.linspace(1, 0.7, 400, dtype=torch.float64).float(), torch.full((1000,), 0.7)]
    )
    text = tiny.open_clip_text(pipe.text_encoder)
    convert(file(tensors | tiny.under(tiny.OPEN_TEXT, text)), tmp_path / "ours", "kineograph")
    convert(tmp_path / "ours", tmp_path / "back.safetensors", "original")
    back = load_file(tmp_path / "back.safetensors")
    run = {key: value for key, value in text.items() if key not in ("text_projection", "logit_scale")}
    assert same(
        {k: v for k, v in back.items() if k.partition(tiny.OPEN_TEXT)[2] not in ("text_projection", "logit_scale")},
        tensors | tiny.under(tiny.OPEN_TEXT, run),
    )


def test_image_file_there_and_back(pipelines, file, tmp_path):
    from diffusers import StableDiffusionPipeline

    tensors = tiny.stable_diffusion_file(pipelines("image_pipeline")[1])
    convert(file(tensors), tmp_path / "theirs", "diffusers")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "theirs", local_files_only=True)
    assert same(tiny.ldm_unet(pipe.unet), {k[len(tiny.UNET) :]: v for k, v in tensors.items() if tiny.UNET in k})
    convert(tmp_path / "theirs", tmp_path / "back.safetensors", "original")
    assert same(load_file(tmp_path / "back.safetensors"), tensors)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_motion_modules_there_and_back(base, file, tmp_path, version):
    from diffusers import MotionAdapter

    network = system_network("animatediff", version)
    tensors = key_map(systems()["animatediff"], network, "original").to_theirs(temporal_state_dict(network.unet))
    done = convert(file(tensors), tmp_path / "adapter", "diffusers", base)
    assert "entry norm" in done.notes[0]
    adapter = MotionAdapter.from_pretrained(tmp_path / "adapter", local_files_only=True)
    assert same(adapter.state_dict(), weights(tmp_path / "adapter"))
    assert adapter.config["motion_max_seq_length"] == (24 if version == "v1" else 32)
    convert(tmp_path / "adapter", tmp_path / "ours", "kineograph")
    convert(tmp_path / "ours", tmp_path / "back.safetensors", "original")
    assert same(load_file(tmp_path / "back.safetensors"), tensors)
    model = kg.load(tmp_path / "ours", base=base, device="cpu")
    assert model.parts.network.plan == network.plan
    assert same(temporal_state_dict(model.parts.network.unet), temporal_state_dict(network.unet))


def test_motion_files_have_the_names_that_other_programs_look_for(base, tmp_path):
    """ComfyUI's AnimateDiff nodes tell versions by the middle block and lengths by the position table."""
    tiny.tiny_adapter().save_pretrained(tmp_path / "adapter")
    convert(tmp_path / "adapter", tmp_path / "mm.safetensors", "original", base)
    names = load_file(tmp_path / "mm.safetensors")
    stem = "mid_block.motion_modules.0.temporal_transformer."
    block = f"{stem}transformer_blocks.0."
    for name in ("norm.weight", "proj_in.weight", "proj_out.bias"):
        assert stem + name in names
    for name in (
        "attention_blocks.0.to_q.weight",
        "attention_blocks.1.to_out.0.bias",
        "norms.0.weight",
        "norms.1.bias",
        "ff.net.0.proj.weight",
        "ff.net.2.bias",
        "ff_norm.weight",
    ):
        assert block + name in names
    assert names[f"{block}attention_blocks.0.pos_encoder.pe"].shape == (1, 32, 64)
    assert all("motion_modules." in name for name in names)


def test_animatediff_pipeline_there_and_back(pipelines, tmp_path):
    from diffusers import AnimateDiffPipeline

    folder, pipe = pipelines("animatediff")
    convert(folder, tmp_path / "ours", "kineograph")
    convert(tmp_path / "ours", tmp_path / "theirs", "diffusers")
    back = AnimateDiffPipeline.from_pretrained(tmp_path / "theirs", local_files_only=True)
    assert same(back.unet.state_dict(), pipe.unet.state_dict())
    assert back.scheduler.config["beta_schedule"] == "linear"
    one, two = (kg.load(place, device="cpu") for place in (folder, tmp_path / "theirs"))
    assert two.parts.network.plan == one.parts.network.plan
    assert {**vars(two.settings), "name": ""} == {**vars(one.settings), "name": ""}
    convert(tmp_path / "ours", tmp_path / "mm.safetensors", "original")
    assert same(
        load_file(tmp_path / "mm.safetensors"),
        key_map(systems()["animatediff"], one.parts.network, "original").to_theirs(
            temporal_state_dict(one.parts.network.unet)
        ),
    )


def test_half_precision_is_written_when_wanted(pipelines, tmp_path):
    convert(pipelines("modelscope")[0], tmp_path / "half", "diffusers", dtype=torch.float16)
    assert {value.dtype for value in weights(tmp_path / "half" / "unet").values()} == {torch.float16}
    assert kg.load(tmp_path / "half", device="cpu").parts.network.dtype == torch.float32


def test_what_a_layout_cannot_hold_is_refused(base, file, model_folder, tmp_path):
    convert(file(original("lavie", system_network("lavie", "published"))), tmp_path / "lavie", "kineograph", base)
    with pytest.raises(WeightsError, match="no network for lavie, only for modelscope"):
        convert(tmp_path / "lavie", tmp_path / "out", "diffusers")
    with pytest.raises(WeightsError, match="pixel folding"):
        convert(model_folder, tmp_path / "out", "diffusers")
    with pytest.raises(WeightsError, match=r"keys are not known in the ModelScope layout.*add_embedding"):
        convert(model_folder, tmp_path / "out.safetensors", "original")
    model = tiny_model()
    model.autoencoder.patch, model.autoencoder.shortcut = 1, False
    from kineograph.checkpoints.convert import _check_plain

    with pytest.raises(WeightsError, match="CLIP"):
        _check_plain(model)


def test_outputs_that_exist_or_have_the_wrong_form_are_refused(base, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for output, to, words in (
        ("full", "kineograph", "already exists"),
        ("x.safetensors", "diffusers", "writes a folder"),
        ("x.ckpt", "original", r"\.safetensors"),
        ("x", "comfy", "original"),
    ):
        with pytest.raises(InputError, match=words):
            convert(base, tmp_path / output, to)


@pytest.mark.parametrize("to", ["kineograph", "diffusers", "original"])
def test_a_conversion_that_fails_can_be_tried_again(pipelines, tmp_path, monkeypatch, to):
    """What it had written does not stand in the way."""
    from kineograph.checkpoints import convert as module
    from kineograph.models import latent_video, weights

    def full(*_, **__):
        raise OSError("disk full")

    source, place = pipelines("modelscope")[0], tmp_path / ("m.safetensors" if to == "original" else "m")
    broken = {"kineograph": (latent_video, "write_json"), "diffusers": (module, "save_diffusers")}
    with monkeypatch.context() as patch:
        patch.setattr(*broken.get(to, (weights, "_partial")), full)
        with pytest.raises(OSError, match="disk full"):
            convert(source, place, to)
    assert list(tmp_path.iterdir()) == []
    assert convert(source, place, to).path == place


def test_what_cannot_be_held_leaves_no_folder(file, base, tmp_path):
    network = system_network("animatediff", "v2")
    tensors = key_map(systems()["animatediff"], network, "original").to_theirs(temporal_state_dict(network.unet))
    model = kg.load(file(tensors), base=base, device="cpu").parts
    model.network.plan.placements[0].options["norm_groups"] = 16  # diffusers takes the image network's
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(WeightsError, match="groups of norms"):
        convert(tmp_path / "model", tmp_path / "out", "diffusers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "model", "tokenizer"]


def test_command(base, tmp_path, capsys):
    tiny.tiny_adapter().save_pretrained(tmp_path / "adapter")
    words = ["convert", str(tmp_path / "adapter"), "-o", str(tmp_path / "mm.safetensors"), "--to", "original"]
    assert main(words) == 2
    assert "Give the image model as --base" in capsys.readouterr().err
    assert main([*words, "--base", str(base), "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["path"] == str(tmp_path / "mm.safetensors")
    assert "Note: norms over the clip" in out.err
    assert main(words) == 2
    assert "already exists" in capsys.readouterr().err


def test_motion_modules_on_a_model_of_ours(model_folder, tmp_path):
    """They keep its text settings, its process and its sampler; its own temporal layers are left out."""
    from kineograph.checkpoints.image import load_image_folder
    from kineograph.systems.animatediff import PRESETS

    whole, base = kg.load(model_folder, device="cpu"), load_image_folder(model_folder)
    assert not any(".temporal." in name for name in base.unet.state_dict())
    network = systems()["animatediff"].build(PRESETS["v2"], base.unet)
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if ".temporal." in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    tensors = key_map(systems()["animatediff"], network, "original").to_theirs(temporal_state_dict(network.unet))
    save_file(tensors, tmp_path / "mm.safetensors")
    model = kg.load(tmp_path / "mm.safetensors", base=model_folder, device="cpu")
    kept = {**vars(whole.settings), "name": "mm", "system": "animatediff"}
    assert vars(model.settings) == kept
    clip = torch.randn(1, 3, network.config["in_channels"], 8, 8)
    context = torch.randn(1, 4, network.config["cross_attention_dim"])
    with torch.no_grad():
        torch.testing.assert_close(model.parts.network(clip, 500, context), network(clip, 500, context))
    assert len(model.generate("a cat", num_frames=3, num_inference_steps=2)) == 3
