"""Weights out of what training programs put around them."""

import pytest
import tiny_pipelines as tiny
import torch
from temporal_layouts import system_network
from test_original import motion_tensors, videocrafter_file, written

from kineograph.checkpoints.load import load_checkpoint
from kineograph.checkpoints.single_files import read_single
from kineograph.checkpoints.unwrap import own_names, unwrapped
from kineograph.errors import WeightsError
from kineograph.temporal.inflate import temporal_state_dict

NAME = "down_blocks.0.conv.weight"
WEIGHT = torch.ones(2)


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "_orig_mod.", "module.module.", "module._orig_mod.", "_orig_mod.module.", "_forward_module."),
        *("unet.", "module.unet.", "_forward_module.unet.", "model.", "model.unet.", "net.", "unet._orig_mod."),
        *("model.diffusion_model.", "diffusion_model.", "_fsdp_wrapped_module."),
    ],
)
@pytest.mark.parametrize("table", [None, "state_dict", "model_state_dict", "unet", "net", "model", "module", "ema"])
def test_every_wrapper_with_every_word(prefix, table):
    content = {prefix + NAME: WEIGHT, f"{prefix}mid.bias": WEIGHT}
    content = content if table is None else {table: content, "epoch": 3, "optimizer": {"state": {0: {"x": WEIGHT}}}}
    assert sorted(own_names(unwrapped(content))) == [NAME, "mid.bias"]


def test_tables_in_tables_and_unknown_tables():
    assert unwrapped({"state_dict": {"module": {f"module.{NAME}": WEIGHT}}}).keys() == {NAME}
    assert unwrapped({"controlnet": {NAME: WEIGHT}, "animatediff_config": {"a": 1}}).keys() == {NAME}
    assert unwrapped({"ema": {"decay": 0.9}, "model": {NAME: WEIGHT}}).keys() == {NAME}
    assert unwrapped({"n_averaged": torch.tensor(3), f"module.{NAME}": WEIGHT}).keys() == {NAME}


def test_which_of_several_sets_is_taken_is_said(capsys):
    one, two = torch.zeros(1), torch.ones(1)
    assert unwrapped({"model": {NAME: one}, "ema": {NAME: two}}, "x.pt")[NAME] is two
    assert "'x.pt' holds several sets of weights; taken is 'ema', the averaged weights, not 'model'." in (
        capsys.readouterr().err
    )
    kept = own_names({f"unet.{NAME}": one, "vae.x": two, "text_encoder.y": two}, "x.pt")
    assert kept.keys() == {NAME}
    assert "the network ('unet.') is taken, not what stands beside it, such as 'vae.x'" in capsys.readouterr().err


def test_names_that_become_one_are_refused():
    with pytest.raises(WeightsError, match=f"'x.pt' holds '{NAME}' twice, once as 'module.{NAME}'"):
        unwrapped({NAME: WEIGHT, f"module.{NAME}": WEIGHT}, "x.pt")


def test_the_latent_diffusion_layout_and_loras_keep_their_words(tmp_path):
    long = {f"model.diffusion_model.input_blocks.{n}.0.in_layers.0.weight": WEIGHT for n in range(2)}
    assert own_names(long).keys() == long.keys()
    assert own_names({key.removeprefix("model."): WEIGHT for key in long}).keys() == long.keys()
    pair = {f"unet.down_blocks.0.to_q.lora.{part}.weight": WEIGHT for part in ("up", "down")}
    assert read_single(written(tmp_path, pair, "lora.pt", None)).tensors.keys() == pair.keys()


def under(prefix, tensors):
    return {prefix + key: value for key, value in tensors.items()}


@pytest.fixture(scope="module")
def modules():
    return system_network("animatediff", "v2")


@pytest.mark.parametrize("prefix", ["module.", "unet._orig_mod."])
def test_checkpoints_of_animatediffs_training_script(pipelines, modules, tmp_path, capsys, prefix):
    """Its train.py saves the whole network, of which the motion modules are taken, as its authors do."""
    image = {key: value + 1 for key, value in tiny.tiny_image_unet().state_dict().items()}
    file = written(tmp_path, under(prefix, image | motion_tensors(modules)), "checkpoint.ckpt")
    model = load_checkpoint(file, pipelines("image_pipeline")[0])
    found, wanted = temporal_state_dict(model.network.unet), temporal_state_dict(modules.unet)
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    base = tiny.tiny_image_unet().state_dict()
    assert torch.equal(model.network.unet.state_dict()["conv_in.weight"], base["conv_in.weight"])
    assert "holds a whole network: its motion modules are taken, 196 of 404 weights" in capsys.readouterr().err


def test_a_network_that_sees_a_picture_is_no_motion_module(pipelines, modules, tmp_path):
    image = tiny.tiny_image_unet(in_channels=9).state_dict()
    file = written(tmp_path, image | motion_tensors(modules), "pia.ckpt")
    with pytest.raises(WeightsError, match=r"first convolution of its own, with 9 channels in \(PIA\)"):
        load_checkpoint(file, pipelines("image_pipeline")[0])


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_the_network_of_an_image_model_alone(pipelines, tmp_path, layout):
    """AnimateDiff's train.py with image_finetune leaves one; it goes into the model that it was trained from."""
    base = pipelines("image_pipeline")[0]
    unet = tiny.perturbed(tiny.tiny_image_unet, 11)
    tensors = unet.state_dict() if layout == "diffusers" else under(tiny.UNET, tiny.ldm_unet(unet))
    file = written(tmp_path, under("module.", tensors), "image.ckpt")
    model = load_checkpoint(file, base)
    assert all(torch.equal(model.network.unet.state_dict()[key], value) for key, value in unet.state_dict().items())
    for given in ((file,), (base / "gone", file)):
        with pytest.raises(WeightsError, match=r"network of an image model alone.*kineograph convert .*image\.ckpt"):
            load_checkpoint(*given) if len(given) == 1 else load_checkpoint(
                written(tmp_path, motion_tensors(system_network("animatediff", "v3")), "mm.ckpt"), file
            )


def test_deepspeeds_checkpoint_of_videocrafter(pipelines, tmp_path):
    network = system_network("videocrafter", "v2")
    tensors = videocrafter_file(pipelines("image_pipeline")[1], network)
    model = load_checkpoint(written(tmp_path, under("_forward_module.", tensors), "model.ckpt", "module"))
    assert all(torch.equal(model.network.unet.state_dict()[k], v) for k, v in network.unet.state_dict().items())
