"""SparseCtrl in one file: the network of the folder; and what kg.load says of things that steer a model."""

import json

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import ControlNetModel, SparseControlNetModel
from safetensors.torch import save_file

import kineograph as kg
from kineograph.checkpoints.sparsectrl import load_sparsectrl_file, load_sparsectrl_path
from kineograph.errors import WeightsError
from kineograph.models.sparse_control import place_frames
from kineograph.systems.sparsectrl import original_keys
from kineograph.temporal.inflate import spatial_state_dict, temporal_state_dict

COMMON = {
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
    "motion_num_attention_heads": 8,
}
KINDS = {
    "rgb": {"conditioning_channels": 4, "use_simplified_condition_embedding": True},
    "scribble": {
        "conditioning_channels": 3,
        "use_simplified_condition_embedding": False,
        "conditioning_embedding_out_channels": (8, 16, 24),
    },
}


def folder_and_file(kind, folder):
    """Write diffusers' folder and the authors' file of one network."""
    tiny.perturbed(lambda: SparseControlNetModel(**COMMON, **KINDS[kind])).save_pretrained(folder / "folder")
    network = load_sparsectrl_path(folder / "folder").control
    tensors = original_keys(network.config).to_theirs(temporal_state_dict(network)) | spatial_state_dict(network)
    tensors = {f"module.{key}": value.contiguous() for key, value in tensors.items()}
    torch.save({"controlnet": {}, "state_dict": tensors}, folder / "sparse.ckpt")
    return folder / "folder", folder / "sparse.ckpt"


@pytest.mark.parametrize("kind", KINDS)
def test_the_authors_file_is_the_network_of_the_folder(kind, tmp_path):
    folder, file = folder_and_file(kind, tmp_path)
    first, second = load_sparsectrl_path(folder), load_sparsectrl_path(file)
    edge, channels = 8 * second.factor, KINDS[kind]["conditioning_channels"]
    condition, mask = place_frames(torch.randn(1, 2, channels, edge, edge), [0, -1], 4)
    x, text = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 6, 24)
    with torch.no_grad():
        theirs, ours = first(x, 500, text, condition, mask), second(x, 500, text, condition, mask)
    assert len(ours[0]) == 6
    assert all(torch.equal(a, b) for a, b in zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True))


def test_control_networks_are_no_models(tmp_path):
    folder, file = folder_and_file("rgb", tmp_path)
    for path in (folder, file):
        with pytest.raises(WeightsError, match=r"is SparseCtrl, which steers a model.*control-and-adapters"):
            kg.load(path)
    control = ControlNetModel(
        block_out_channels=(32, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=24
    )
    control.save_pretrained(tmp_path / "control")
    save_file({key: value.contiguous() for key, value in control.state_dict().items()}, tmp_path / "c.safetensors")
    for path in (tmp_path / "control", tmp_path / "c.safetensors"):
        with pytest.raises(WeightsError, match="is a ControlNet, which steers a model"):
            kg.load(path)
    with pytest.raises(WeightsError, match="is a ControlNet, not SparseCtrl"):
        load_sparsectrl_file(tmp_path / "c.safetensors")


def test_missing_weights_of_a_control_network_are_named(tmp_path):
    _, file = folder_and_file("rgb", tmp_path)
    content = torch.load(file)["state_dict"]
    for name in ("controlnet_cond_embedding.weight", "down_blocks.0.resnets.0.conv2.weight", "conv_in.bias"):
        torch.save({key: value for key, value in content.items() if key != f"module.{name}"}, tmp_path / "bad.ckpt")
        with pytest.raises(WeightsError, match=r"no weight|missing"):
            load_sparsectrl_file(tmp_path / "bad.ckpt")


def test_show_1s_pixel_stages_are_explained(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "TextToVideoIFPipeline"}))
    with pytest.raises(WeightsError, match=r"stage of Show-1 that works on pixels.*show-1-sr2"):
        kg.load(tmp_path)
