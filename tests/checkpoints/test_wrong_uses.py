"""Wrong uses of checkpoints: each ends in one paragraph that says what is wrong and what to do, and in status 2."""

import json
import os
import shutil

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from temporal_layouts import linear_unet, system_network

from kineograph.checkpoints.motion import check_shape, file_modules
from kineograph.checkpoints.networks import key_map
from kineograph.checkpoints.single_files import read_single
from kineograph.cli import main
from kineograph.errors import WeightsError
from kineograph.systems import systems
from kineograph.temporal.inflate import temporal_state_dict

STEM = "motion_modules.0.temporal_transformer.proj_in.weight"


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run `kineograph generate` in an empty folder; return its one paragraph."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words):
        capsys.readouterr()
        assert main(["generate", "a dog", *map(str, words)]) == 2
        error = "\n".join(line for line in capsys.readouterr().err.splitlines() if not line.startswith("Licence"))
        assert "Traceback" not in error
        assert len(error.strip().splitlines()) == 1
        assert error.strip().endswith(".")
        assert not list(work.iterdir())
        return error

    return run


@pytest.fixture
def base(pipelines):
    return pipelines("image_pipeline")[0]


@pytest.fixture
def module(tmp_path):
    """Write motion modules of version 2 for the tiny image model."""
    network = system_network("animatediff", "v2")
    tensors = key_map(systems()["animatediff"], network, "original").to_theirs(temporal_state_dict(network.unet))
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "mm.safetensors")
    return tmp_path / "mm.safetensors"


def test_motion_module_of_another_width(refused, base, tmp_path):
    tiny.tiny_adapter(block_out_channels=(32, 32)).save_pretrained(tmp_path / "narrow")
    said = refused("--model", tmp_path / "narrow", "--base", base)
    assert "made for an image network of 2 levels (32, 32 channels)" in said
    assert "(32, 64 channels)" in said


def test_sdxl_module_on_stable_diffusion_1(tmp_path):
    tensors = {f"down_blocks.{level}.{STEM}": torch.zeros(width, width) for level, width in enumerate((320, 640, 1280))}
    with pytest.raises(WeightsError, match=r"made for Stable Diffusion XL, .* is Stable Diffusion 1 or 2, an image"):
        check_shape(file_modules(tmp_path, tensors), {"block_out_channels": (320, 640, 1280, 1280)}, "the base 'sd'")


def test_more_frames_than_the_position_table(refused, base, module):
    said = refused("--model", module, "--base", base, "--num-frames", 40, "--steps", 1, "--height", 16, "--width", 16)
    assert "32 frame positions" in said
    assert "40" in said


def test_motion_module_without_base(refused, module):
    assert "--base PATH" in refused("--model", module)


def test_base_that_is_gone_or_no_image_model(refused, base, module, pipelines):
    assert "no file or folder 'gone'" in refused("--model", module, "--base", "gone")
    assert "is a motion module; it must be an image model" in refused("--model", module, "--base", module)
    assert "leave --base out" in refused("--model", pipelines("modelscope")[0], "--base", base)


def test_image_checkpoint_given_as_motion_module(refused, base, pipelines, tmp_path):
    save_file(tiny.stable_diffusion_file(pipelines("image_pipeline")[1]), tmp_path / "sd.safetensors")
    said = refused("--model", tmp_path / "sd.safetensors", "--base", base)
    assert "holds no motion modules. Give it as --base" in said


def test_lora_given_as_model_and_model_given_as_lora(refused, base, module, tmp_path):
    pair = {"unet.x.lora.down.weight": torch.zeros(1, 2), "unet.x.lora.up.weight": torch.ones(2, 1)}
    save_file(pair, tmp_path / "style.safetensors")
    assert "Give it as --lora PATH" in refused("--model", tmp_path / "style.safetensors")
    assert "that are no LoRA's" in refused("--model", base, "--lora", module)
    assert "there is no file 'gone.safetensors'" in refused("--model", base, "--lora", "gone.safetensors")


def test_lora_with_unknown_keys(refused, base, tmp_path):
    pair = {
        "lora_unet_attic_x.lora_down.weight": torch.zeros(1, 2),
        "lora_unet_attic_x.lora_up.weight": torch.ones(2, 1),
    }
    save_file(pair, tmp_path / "style.safetensors")
    said = refused("--model", base, "--lora", f"{tmp_path / 'style.safetensors'}:0.5")
    assert "changes 1 of 1 weights that this model does not have, such as lora_unet_attic_x" in said


def test_stable_diffusion_2_lora_on_1(refused, base, tmp_path):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    pair = {f"{stem}.lora_down.weight": torch.zeros(2, 1024), f"{stem}.lora_up.weight": torch.ones(32, 2)}
    save_file(pair, tmp_path / "style.safetensors")
    said = refused("--model", base, "--lora", tmp_path / "style.safetensors")
    assert "[32, 1024], which here is [32, 32]" in said
    assert "Stable Diffusion 2" in said


class Bomb:
    """Runs a command when a careless program unpickles it."""

    def __reduce__(self):
        return os.system, ("touch boom",)


def test_pickle_with_code_in_it(refused, tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(1)}, "callback": Bomb()}, tmp_path / "evil.ckpt")
    said = refused("--model", tmp_path / "evil.ckpt")
    assert "holds Python code beside its weights (posix.system)" in said
    assert "never does" in said


def test_bookkeeping_of_training_scripts_is_harmless(refused, tmp_path, monkeypatch):
    """Stable Diffusion's first files name a class of pytorch_lightning; it is read as nothing."""
    import sys
    from types import ModuleType

    names = "pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = callback
    torch.save({"state_dict": {"x": torch.zeros(1)}, "callbacks": {callback: {"best": 1}}}, tmp_path / "sd.ckpt")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    assert "none of: " in refused("--model", tmp_path / "sd.ckpt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404 not found", "an HTML page that begins with '<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"PK\x03\x04" + bytes(300), "a zip archive that is cut or damaged (304 bytes are there)"),
        (b"", "it is empty"),
        (b"\xff" * 300, "not a readable safetensors file"),
    ],
)
def test_files_that_are_no_safetensors(refused, tmp_path, content, words):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert words in refused("--model", tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["mm.ckpt", "mm.pt", "mm.bin", "mm", "mm.safetensors"])
def test_the_ending_of_a_name_says_nothing(base, module, tmp_path, name):
    """Weights in either layout load under any name."""
    tensors = load_file(module)
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    shutil.copy(module, tmp_path / "new" / name)
    torch.save({"global_step": np.int64(5), "state_dict": tensors}, tmp_path / "old" / name)
    for given in (tmp_path / "new" / name, tmp_path / "old" / name):
        file = read_single(given)
        assert file.kind.name == "motion_module"
        assert all(torch.equal(file.tensors[key], value) for key, value in tensors.items())
    assert file.step == 5


def test_truncated_and_empty_pytorch_files(refused, tmp_path):
    torch.save({"x": torch.zeros(1000)}, tmp_path / "whole.ckpt")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:2000])
    assert "truncated download" in refused("--model", tmp_path / "half.ckpt")
    torch.save([torch.zeros(1)], tmp_path / "list.ckpt")
    assert "holds one list, not weights by name" in refused("--model", tmp_path / "list.ckpt")
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    assert "holds no weights by name; its entries are 'epoch'" in refused("--model", tmp_path / "empty.ckpt")


def test_folder_without_an_index(refused, tmp_path):
    (tmp_path / "folder" / "unet").mkdir(parents=True)
    said = refused("--model", tmp_path / "folder")
    assert "neither model_index.json" in said
    assert "but unet" in said


def test_one_part_of_a_pipeline(refused, pipelines, tmp_path):
    folder = pipelines("modelscope")[0]
    said = refused("--model", folder / "unet")
    assert "holds one part of a model (UNet3DConditionModel)" in said
    assert f"Give the folder that it lies in: {folder}" in said
    assert "(CLIPTextModel)" in refused("--model", folder / "text_encoder")
    shutil.copytree(pipelines("image_pipeline")[0] / "unet", tmp_path / "alone" / "unet")
    said = refused("--model", tmp_path / "alone" / "unet")
    assert "(UNet2DConditionModel)" in said
    assert "the whole model's folder, with model_index.json" in said


def test_weights_that_are_not_numbers(refused, base, module, tmp_path):
    tensors = load_file(module)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    said = refused("--model", tmp_path / "nan.safetensors", "--base", base)
    assert "NaN" in said
    assert name in said


def test_missing_and_unknown_keys_are_listed(refused, base, module, tmp_path):
    tensors = load_file(module)
    name = "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"
    gone = tensors.pop(name)
    tensors["down_blocks.0.motion_modules.0.strange.weight"] = gone
    save_file(tensors, tmp_path / "odd.safetensors")
    said = refused("--model", tmp_path / "odd.safetensors", "--base", base)
    assert f"1 key is missing ({name})" in said
    assert "1 key is unknown (down_blocks.0.motion_modules.0.strange.weight)" in said


def test_text_of_another_width(refused, base, tmp_path):
    unet = linear_unet(cross_attention_dim=48)
    network = tiny.perturbed(lambda: systems()["modelscope"].build(image_unet=unet), 8)
    tensors = key_map(systems()["modelscope"], network, "original").to_theirs(network.unet.state_dict())
    torch.save(tensors, tmp_path / "t2v.pth")
    assert "attends to 48 channels of text" in refused("--model", tmp_path / "t2v.pth", "--base", base)


def test_position_table_that_is_no_sinusoid(refused, base, module, tmp_path):
    tensors = load_file(module)
    name = next(key for key in tensors if key.endswith("pos_encoder.pe"))
    tensors[name] = torch.randn_like(tensors[name])
    save_file(tensors, tmp_path / "own.safetensors")
    assert "position table" in refused("--model", tmp_path / "own.safetensors", "--base", base)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "UNetMotionModle"}, "did you mean 'UNetMotionModel'"),
        ({"motion_num_attention_heads": [4, 8]}, "'motion_num_attention_heads' differs between the levels"),
    ],
)
def test_configurations_that_cannot_be_honoured(refused, pipelines, tmp_path, change, words):
    shutil.copytree(pipelines("animatediff")[0], tmp_path / "m")
    file = tmp_path / "m" / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert words in refused("--model", tmp_path / "m")
