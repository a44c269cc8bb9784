"""Folders of Stable Video Diffusion that cannot be honoured say so. Parity and round trips: tests/parity."""

import json

import pytest
from tiny_svd import tiny_pipeline

from kineograph.errors import InputError, WeightsError
from kineograph.systems.svd_folder import load_stable_video_diffusion, network_config


@pytest.fixture
def folder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    return tmp_path


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_published_configuration_is_the_published_preset():
    from kineograph.systems.stable_video_diffusion import PRESETS

    config = network_config({"sample_size": 96, "num_frames": 14})
    assert config.image == PRESETS["published"].image | {
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    }
    assert (config.head_dim, config.num_frames) == (64, 14)
    assert network_config({}).num_frames == PRESETS["xt"].num_frames == 25


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"transformer_layers_per_block": 2}, "transformer_layers_per_block=2"),
        ({"num_attention_heads": (5, 5, 20, 20)}, r"heads of \[64, 128\] channels"),
    ],
)
def test_other_networks_are_refused(fields, words):
    with pytest.raises(WeightsError, match=words):
        network_config(fields)


def test_damaged_folders_name_the_file(folder):
    with pytest.raises(InputError, match="norms"):
        load_stable_video_diffusion(folder, norms="mine")
    (folder / "kineograph.json").write_text('{"hight": 3}')
    with pytest.raises(WeightsError, match="did you mean 'height'"):
        load_stable_video_diffusion(folder)
    change(folder / "unet" / "config.json", cross_attention_dim=16)
    with pytest.raises(WeightsError, match="of another shape"):
        load_stable_video_diffusion(folder)
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_stable_video_diffusion(folder)
