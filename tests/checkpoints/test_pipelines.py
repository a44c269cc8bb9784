"""Folders of diffusers' pipelines: the same latents as the pipeline itself, from the same files and the same noise."""

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    TextToVideoSDPipeline,
)
from latents import difference, options, ours, theirs

import kineograph as kg
from kineograph.checkpoints.pipelines import settings_for
from kineograph.errors import InputError

SCHEDULERS = {
    "pndm": PNDMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}


@pytest.mark.parametrize("name", ["modelscope", "animatediff"])
def test_the_whole_pipeline_gives_the_same_latents(pipelines, name):
    folder, pipe = pipelines(name)
    model = kg.load(folder, device="cpu")
    wishes = options()
    made, expected = ours(model, wishes), theirs(pipe, model, wishes)
    assert made.shape == (1, 5, 4, 8, 12)
    found = difference(made, expected)
    print(f"{name}: {found:.1e}")
    assert found < 1e-4
    short = options(steps=1)
    assert difference(ours(model, short, "a blue cat"), ours(model, short)) > 1e-3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' schedulers
@pytest.mark.parametrize(
    "name", ["euler", pytest.param("pndm", marks=pytest.mark.slow), pytest.param("dpm++", marks=pytest.mark.slow)]
)
def test_the_folders_own_scheduler_is_honoured(pipelines, tmp_path, name):
    import shutil

    folder, pipe = pipelines("modelscope")
    shutil.copytree(folder, tmp_path / "m")
    changed = SCHEDULERS[name].from_config(pipe.scheduler.config, skip_prk_steps=True)
    changed.save_pretrained(tmp_path / "m" / "scheduler")
    model = kg.load(tmp_path / "m", device="cpu")
    other = TextToVideoSDPipeline(**{**pipe.components, "scheduler": changed})
    wishes = options(steps=4)
    assert difference(ours(model, wishes), theirs(other, model, wishes)) < 1e-4
    finite = ours(model, options(steps=1, sampler="ddim"))
    assert torch.isfinite(finite).all()


def test_settings_are_the_authors_and_a_licence_is_shown_for_published_sizes_only(pipelines, capsys):
    model = kg.load(pipelines("modelscope")[0], device="cpu")
    own = model.settings
    assert (own.system, own.num_frames, own.guidance_scale, own.sampler) == ("modelscope", 16, 9.0, "scheduler")
    assert (own.height, own.width, own.max_tokens) == (16, 16, 12)
    assert own.licence == ""
    assert "CC-BY-NC" not in capsys.readouterr().err
    wide = settings_for("modelscope", "m", own.scheduler, {"block_out_channels": (320, 640, 1280, 1280)}, 8)
    assert wide.licence == "CC-BY-NC-4.0"


def test_frames_come_out_of_the_pipelines_decoder(pipelines):
    folder, pipe = pipelines("modelscope")
    model = kg.load(folder, device="cpu")
    wishes = options(steps=2)
    latents = ours(model, wishes)
    expected = pipe.decode_latents(latents.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(model.parts.autoencoder.decode(latents), expected.clamp(-1, 1), rtol=0, atol=1e-4)


def test_half_precision_sharded_and_pytorch_weights_are_found(pipelines, tmp_path):
    import shutil

    from safetensors.torch import load_file

    folder, pipe = pipelines("modelscope")
    model = kg.load(folder, device="cpu")
    weights = {key: value.clone() for key, value in model.parts.network.unet.state_dict().items()}
    for name in ("sharded", "pytorch", "fp16"):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        file = copy / "unet" / "diffusion_pytorch_model.safetensors"
        if name == "sharded":
            shutil.rmtree(copy / "unet")
            pipe.unet.save_pretrained(copy / "unet", max_shard_size="300KB")
            assert len(list((copy / "unet").glob("*.safetensors"))) > 1
        elif name == "pytorch":
            torch.save(load_file(file), file.with_suffix(".bin"))
            file.unlink()
        else:
            file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
        again = kg.load(copy, device="cpu").parts.network.unet.state_dict()
        assert all(torch.equal(again[key], value) for key, value in weights.items())


def test_an_image_pipeline_makes_pictures(pipelines):
    model = kg.load(pipelines("image_pipeline")[0], device="cpu")
    assert (model.settings.system, model.settings.num_frames) == ("image", 1)
    assert len(model.generate("a dog", num_inference_steps=2, precision="fp32")) == 1


def test_an_image_pipeline_takes_the_training_free_time(pipelines):
    model = kg.load(pipelines("image_pipeline")[0], system="text2video_zero", device="cpu")
    assert (model.settings.num_frames, model.settings.fps) == (8, 4.0)
    with pytest.raises(InputError, match="needs trained temporal layers"):
        kg.load(pipelines("image_pipeline")[0], system="lavie", device="cpu")
