"""Versions of AnimateDiff: told from the file, asked for where it cannot say it, never guessed."""

import pytest
import tiny_pipelines as tiny
from temporal_layouts import system_network
from test_original import motion_tensors, written

import kineograph as kg
from kineograph.cli import main
from kineograph.errors import WeightsError
from kineograph.systems import systems


def bare(version, tmp_path, network=None):
    """Write motion modules without their position tables, as AnimateDiff's code of today does."""
    tensors = motion_tensors(network or system_network("animatediff", version))
    return written(tmp_path, {key: value for key, value in tensors.items() if not key.endswith(".pe")}, "mm.ckpt", None)


def norms(model):
    plan = model.parts.network.plan
    return plan.spatial_norm, plan.placements[0].options["norm_over"], plan.placements[0].options["max_frames"]


def test_a_file_without_tables_is_asked_for_its_version(pipelines, tmp_path, capsys):
    file, base = bare("v1", tmp_path), pipelines("image_pipeline")[0]
    with pytest.raises(WeightsError, match=r"does not say which version.*--preset v1 or --preset v3"):
        kg.load(file, base=base, device="cpu")
    assert norms(kg.load(file, base=base, preset="v1", device="cpu")) == ("clip", "frame", 24)
    assert norms(kg.load(file, base=base, preset="v3", device="cpu")) == ("frame", "frame", 32)
    words = ("generate", "a dog", "--model", str(file), "--base", str(base), "-o", str(tmp_path / "c.mp4"))
    assert main([*words]) == 2
    assert "--preset v1" in capsys.readouterr().err
    small = ("--num-frames", "2", "--height", "16", "--width", "16", "--steps", "1", "--guidance-scale", "1")
    assert main([*words, *small, "--preset", "v1"]) == 0


def test_what_says_its_version_needs_no_preset(pipelines, tmp_path):
    base = pipelines("image_pipeline")[0]
    assert norms(kg.load(bare("v2", tmp_path), base=base, device="cpu")) == ("frame", "frame", 32)
    network = systems()["animatediff"].build("sdxl", tiny.tiny_xl_unet())
    file = bare("sdxl", tmp_path, network)
    assert norms(kg.load(file, base=pipelines("image_xl")[0], device="cpu")) == ("frame", "frame", 32)


@pytest.mark.parametrize(
    ("version", "preset", "said"),
    [
        ("v1", "v3", "not AnimateDiff's version v3, which tells 32 frames apart"),
        ("v2", "v3", "it has a module in the middle block"),
        ("v3", "v2", "it has no module in the middle block"),
        ("v3", "v4", "Known: sdxl, v1, v2, v3"),
        ("v3", "sdxl", "not of Stable Diffusion XL's kind"),
    ],
)
def test_a_preset_that_cannot_be_is_refused(pipelines, tmp_path, version, preset, said):
    file = written(tmp_path, motion_tensors(system_network("animatediff", version)), "mm.ckpt", None)
    with pytest.raises(WeightsError, match=said):
        kg.load(file, base=pipelines("image_pipeline")[0], preset=preset, device="cpu")


def test_an_adapter_folder_of_version_1_is_asked_whose_norms(pipelines, tmp_path):
    folder, base = tmp_path / "adapter", pipelines("image_pipeline")[0]
    tiny.tiny_adapter(motion_max_seq_length=24, use_motion_mid_block=False).save_pretrained(folder)
    with pytest.raises(WeightsError, match=r"--preset v1 .*or --preset diffusers"):
        kg.load(folder, base=base, device="cpu")
    assert norms(kg.load(folder, base=base, preset="v1", device="cpu")) == ("clip", "frame", 24)
    assert norms(kg.load(folder, base=base, preset="diffusers", device="cpu")) == ("frame", "clip", 24)
    with pytest.raises(WeightsError, match="version v3, which tells 32"):
        kg.load(folder, base=base, preset="v3", device="cpu")


def test_a_preset_beside_what_says_itself_is_refused(pipelines):
    for name in ("image_pipeline", "modelscope"):
        with pytest.raises(WeightsError, match="leave --preset v1 out"):
            kg.load(pipelines(name)[0], preset="v1", device="cpu")
