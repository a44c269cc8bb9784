"""The authors' single files: the model that is built from them computes what the folder's model computes."""

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import save_file
from temporal_layouts import modelscope_network, system_network

import kineograph as kg
from kineograph.checkpoints.networks import key_map
from kineograph.errors import WeightsError
from kineograph.systems import systems
from kineograph.temporal.inflate import temporal_state_dict


def written(tmp_path, tensors, name="file.ckpt", wrapped="state_dict"):
    tiny.write_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / name
    if file.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    else:
        torch.save({wrapped: tensors} if wrapped else tensors, file)
    return file


def same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    return all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_modelscope_file_on_a_base(pipelines, tmp_path):
    network = modelscope_network()
    tensors = systems()["modelscope"].key_maps["original"](network.config).to_theirs(network.unet.state_dict())
    assert any("temopral_conv" in key for key in tensors)
    file = written(tmp_path, tensors, "text2video_pytorch_model.pth", None)
    folder, _ = pipelines("image_pipeline")
    model = kg.load(file, base=folder, device="cpu")
    assert same(model.parts.network.unet.state_dict(), network.unet.state_dict())
    assert model.parts.network.plan == network.plan
    assert (model.settings.system, model.settings.num_frames, model.settings.height) == ("modelscope", 16, 256)
    clip = model.generate("a dog", num_inference_steps=1, num_frames=2, height=16, width=16, precision="fp32")
    assert len(clip) == 2


def scales(end, length=400):
    return torch.cat([torch.linspace(1, end, length), torch.full((1000,), end)])  # as long as the authors' is


def videocrafter_file(pipe, network):
    theirs = systems()["videocrafter"].key_maps["original"](network.config).to_theirs(network.unet.state_dict())
    tensors = tiny.under(tiny.UNET, theirs) | tiny.under(tiny.VAE, tiny.ldm_vae(pipe.vae))
    return tensors | tiny.under(tiny.OPEN_TEXT, tiny.open_clip_text(pipe.text_encoder))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_videocrafter_files_are_whole(pipelines, tmp_path, version):
    network = system_network("videocrafter", version)
    tensors = videocrafter_file(pipelines("image_pipeline")[1], network) | {"betas": torch.ones(1000)}
    model = kg.load(written(tmp_path, tensors, "model.ckpt"), device="cpu")
    assert same(model.parts.network.unet.state_dict(), network.unet.state_dict())
    assert model.parts.network.plan == network.plan
    assert model.parts.network.config["class_embed_type"] == network.config["class_embed_type"]
    clip = model.generate("a dog", num_inference_steps=1, num_frames=2, height=16, width=16, precision="fp32")
    assert (len(clip), model.settings.fps) == (2, 28.0)
    assert (model.settings.scheduler["_class_name"], model.settings.eta) == ("DDIMScheduler", 1.0)
    assert model.settings.data_scale == ((0.7, 400) if version == "v2" else None)


@pytest.mark.parametrize(
    ("table", "expected"),
    [(scales(0.3), (0.3, 400)), (scales(0.7).half(), (0.7, 400)), (torch.ones(1000), None)],
)
def test_videocrafters_scale_of_the_data_is_read_and_kept(pipelines, tmp_path, table, expected):
    tensors = videocrafter_file(pipelines("image_pipeline")[1], system_network("videocrafter", "v2"))
    model = kg.load(written(tmp_path, tensors | {"scale_arr": table}, "model.ckpt"), device="cpu")
    assert model.settings.data_scale == expected
    if expected:
        assert model.parts.schedule.data_scale[500].item() == expected[0]
        model.parts.save_pretrained(tmp_path / "saved")
        assert kg.load(tmp_path / "saved").settings.data_scale == expected


def test_an_uneven_scale_is_refused(pipelines, tmp_path):
    tensors = videocrafter_file(pipelines("image_pipeline")[1], system_network("videocrafter", "v2"))
    for table in (scales(0.7) ** 2, torch.zeros(1000)):
        with pytest.raises(WeightsError, match="does not fall evenly"):
            kg.load(written(tmp_path, tensors | {"scale_arr": table}, "model.ckpt"))


def test_lavie_file_on_a_base(pipelines, tmp_path):
    network = system_network("lavie", "published")
    theirs = systems()["lavie"].key_maps["original"](network.config).to_theirs(network.unet.state_dict())
    file = written(tmp_path, theirs, "lavie_base.pt", "ema")
    model = kg.load(file, base=pipelines("image_pipeline")[0], device="cpu")
    assert same(model.parts.network.unet.state_dict(), network.unet.state_dict())
    assert model.parts.network.plan == network.plan
    scheduler = model.settings.scheduler
    assert (scheduler["beta_schedule"], scheduler["beta_start"], scheduler["beta_end"]) == ("linear", 1e-4, 0.02)
    assert scheduler["_class_name"] == "DDPMScheduler"
    clip = model.generate("a dog", num_inference_steps=2, num_frames=2, height=16, width=16, precision="fp32")
    assert len(clip) == 2


def motion_tensors(network, layout="original"):
    return key_map(systems()["animatediff"], network, layout).to_theirs(temporal_state_dict(network.unet))


@pytest.mark.parametrize(
    ("version", "ends"),
    [("v1", (24, False, "clip")), ("v2", (32, True, "frame")), ("v3", (32, False, "frame"))],
)
@pytest.mark.parametrize("wrapped", [None, "state_dict"])
def test_motion_modules_on_a_base(pipelines, tmp_path, version, ends, wrapped):
    frames, middle, norm = ends
    network = system_network("animatediff", version)
    tensors = motion_tensors(network)
    if wrapped:
        tensors = {f"module.{key}": value for key, value in tensors.items()}
    file = written(tmp_path, tensors, "mm.ckpt", wrapped)
    model = kg.load(file, base=pipelines("image_pipeline")[0], device="cpu")
    ours, plan = model.parts.network, model.parts.network.plan
    assert same(temporal_state_dict(ours.unet), temporal_state_dict(network.unet))
    assert plan == network.plan
    assert (plan.placements[0].options["max_frames"], "mid" in plan.placements[0].parts) == (frames, middle)
    assert (plan.spatial_norm, plan.placements[0].options["norm_over"]) == (norm, "frame")
    assert model.settings.scheduler["beta_schedule"] == "linear"
    assert model.settings.licence == ""  # of no published size, so of no known licence


def test_adapter_folder_on_a_base_equals_the_pipeline(pipelines, tmp_path):
    _, pipe = pipelines("animatediff")
    tiny.tiny_adapter().save_pretrained(tmp_path / "adapter")
    model = kg.load(tmp_path / "adapter", base=pipelines("image_pipeline")[0], device="cpu")
    x, context = torch.randn(1, 3, 4, 8, 8), torch.randn(1, 5, 32)
    with torch.no_grad():
        theirs = pipe.unet(x.transpose(1, 2), 400, context.repeat_interleave(3, 0)).sample.transpose(1, 2)
        torch.testing.assert_close(model.parts.network(x, 400, context), theirs, rtol=0, atol=1e-4)
