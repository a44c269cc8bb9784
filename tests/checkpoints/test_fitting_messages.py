"""What does not fit is said in the names of the file, with the file, and what is missing from where."""

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from temporal_layouts import modelscope_network, system_network
from test_original import motion_tensors, videocrafter_file, written

from kineograph.checkpoints.load import load_checkpoint
from kineograph.checkpoints.networks import key_map
from kineograph.errors import WeightsError
from kineograph.systems import systems


def said(path, base=None):
    with pytest.raises(WeightsError) as error:
        load_checkpoint(path, base)
    return str(error.value)


def original(name, network):
    return key_map(systems()[name], network, "original").to_theirs(network.unet.state_dict())


@pytest.fixture(scope="module")
def network():
    return system_network("videocrafter", "v2")


@pytest.fixture(scope="module")
def whole(pipelines, network):
    return videocrafter_file(pipelines("image_pipeline")[1], network)


def test_a_network_without_its_autoencoder_is_not_called_temporal_layers(network, tmp_path):
    for tensors, title in (
        (original("modelscope", modelscope_network()), "ModelScopeT2V's network"),
        (original("videocrafter", network), "VideoCrafter"),
        (original("lavie", system_network("lavie", "published")), "LaVie's base network"),
    ):
        file = written(tmp_path, tensors, "net.ckpt")
        message = said(file)
        assert f"'{file}' holds {title} without autoencoder (no weight begins with 'first_stage_model.')" in message
        assert "32 channels of text: --base PATH" in message
        assert "temporal layers" not in message
    file = written(tmp_path, motion_tensors(system_network("animatediff", "v3")), "mm.ckpt")
    assert "holds motion modules without an image network" in said(file)


TEXT = "cond_stage_model.model."


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("model.diffusion_model.input_blocks.1.2.proj_in.weight", None, "1 key is missing ({})"),
        ("model.diffusion_model.input_blocks.0.0.weight", None, "there is no weight '{}'"),
        ("model.diffusion_model.out.2.bias", 7, "1 key is of another shape ({} is [7] and must be [4])"),
        ("first_stage_model.decoder.mid.attn_1.k.bias", None, "1 key is missing ({})"),
        ("first_stage_model.decoder.conv_in.weight", None, "there is no weight '{}'"),
        (f"{TEXT}transformer.resblocks.0.ln_1.bias", None, "1 key is missing ({})"),
        (f"{TEXT}transformer.resblocks.1.attn.in_proj_bias", None, "1 key is missing ({})"),
        (f"{TEXT}strange.weight", 3, "1 weights that are unknown in the OpenCLIP text encoder layout ({})"),
        ("model.diffusion_model.strange.weight", 3, "unknown in the VideoCrafter layout ({})"),
    ],
)
def test_whole_files(whole, tmp_path, name, change, words):
    tensors = dict(whole)
    tensors.pop(name, None)
    if change:
        tensors[name] = torch.zeros(change)
    file = written(tmp_path, tensors, "vc.safetensors", None)
    message = said(file)
    assert words.format(name) in message
    assert f"'{file}'" in message


def test_motion_modules(pipelines, tmp_path):
    base = pipelines("image_pipeline")[0]
    stem = "down_blocks.0.motion_modules.0.temporal_transformer."
    tensors = motion_tensors(system_network("animatediff", "v3"))
    lacking = {key: value for key, value in tensors.items() if key != f"{stem}norm.bias"}
    file = written(tmp_path, lacking, "mm.safetensors")
    assert said(file, base) == f"The weights in '{file}' do not fit: 1 key is missing ({stem}norm.bias)."
    extra = tensors | {f"{stem}odd.bias": torch.zeros(2)}
    assert f"1 key is unknown ({stem}odd.bias)" in said(written(tmp_path, extra, "mm.safetensors"), base)


def test_folders_of_image_models_and_of_ours(pipelines, model_folder, tmp_path):
    import shutil

    for number, folder in enumerate((pipelines("image_pipeline")[0], model_folder)):
        shutil.copytree(folder, tmp_path / str(number))
        file = tmp_path / str(number) / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors.pop("conv_in.bias")
        save_file(tensors, file)
        message = said(tmp_path / str(number))
        assert f"image weights in '{file.parent}'" in message
        assert "1 key is missing (conv_in.bias)" in message


@pytest.mark.parametrize("kind", ["modelscope", "animatediff", "svd"])
def test_folders_of_diffusers(pipelines, tmp_path, kind):
    import shutil

    import tiny_svd

    if kind == "svd":
        tiny_svd.tiny_pipeline().save_pretrained(tmp_path / "m")
    else:
        shutil.copytree(pipelines(kind)[0], tmp_path / "m")
    file = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(key for key in sorted(tensors) if "motion" in key or "temp" in key)
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    message = said(tmp_path / "m")
    assert f"1 key is missing ({name})" in message
    assert f"'{file.parent}'" in message


def test_stable_diffusions_files(pipelines, tmp_path):
    tensors = tiny.stable_diffusion_file(pipelines("image_pipeline")[1])
    name = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.bias"
    tensors.pop(name)
    assert f"1 key is missing ({name})" in said(written(tmp_path, tensors, "sd.safetensors"))
