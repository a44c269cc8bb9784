"""The video network: shapes, conditions per clip and per frame, files."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from kineograph.errors import InputError, KineographError, WeightsError
from kineograph.models.video_unet import VideoUNet
from kineograph.systems import systems


@pytest.fixture
def model():
    """Return a tiny ModelScopeT2V with every weight perturbed."""
    model = systems()["modelscope"].build("tiny").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def call(frames=3, batch=2):
    return {
        "x": torch.randn(batch, frames, 4, 8, 8),
        "timestep": torch.tensor([7, 900][:batch]),
        "context": torch.randn(batch, 5, 32),
    }


@torch.no_grad()
def test_clips_of_a_batch_do_not_mix(model):
    inputs = call()
    both = model(**inputs)
    for n in range(2):
        alone = model(**{key: value[n : n + 1] for key, value in inputs.items()})
        assert torch.allclose(alone, both[n : n + 1], atol=1e-5)


@torch.no_grad()
def test_conditions_may_be_given_per_frame(model):
    inputs = call()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    expected = model(**inputs, context_mask=mask)
    frames = {
        "timestep": inputs["timestep"][:, None].expand(2, 3),
        "context": inputs["context"][:, None].expand(2, 3, 5, 32),
        "context_mask": mask[:, None].expand(2, 3, 5),
    }
    assert torch.equal(model(inputs["x"], **frames), expected)
    assert torch.allclose(model(inputs["x"], 7, inputs["context"])[:1], model(**inputs)[:1], atol=1e-6)


@torch.no_grad()
def test_masked_tokens_do_not_count(model):
    inputs = call()
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2, dtype=torch.bool)
    expected = model(**inputs, context_mask=mask)
    inputs["context"][:, 3:] += 10
    assert torch.allclose(model(**inputs, context_mask=mask), expected, atol=1e-5)
    assert not torch.allclose(model(**inputs), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 8, 8)}, r"got \(2, 4, 8, 8\)"),
        ({"x": torch.zeros(2, 3, 5, 8, 8)}, "4 channels"),
        ({"timestep": torch.zeros(3)}, "timestep"),
        ({"context": torch.zeros(3, 5, 32)}, "context has 3 entries"),
        ({"context": torch.zeros(2, 4, 5, 32)}, "given for 4 frames"),
    ],
)
def test_axes_that_do_not_fit_are_named(model, change, message):
    with pytest.raises(InputError, match=message):
        model(**(call() | change))


@torch.no_grad()
def test_saved_network_comes_back_and_its_image_part_loads_in_diffusers(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "temporal.json",
        "temporal.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    inputs = call()
    assert torch.equal(VideoUNet.from_pretrained(tmp_path)(**inputs), model(**inputs))
    image = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    with model.temporal_off():
        assert torch.allclose(VideoUNet(image)(**inputs), model(**inputs), atol=1e-6)
    assert VideoUNet.from_pretrained(tmp_path, torch.bfloat16).dtype is torch.bfloat16
    (tmp_path / "temporal.json").unlink()
    assert VideoUNet.from_pretrained(tmp_path).plan is None


def edit(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def drop_first(weights):
    del weights[min(weights)]


def add_stranger(weights):
    weights["stranger"] = torch.zeros(1)


def poison(weights):
    weights[min(weights)][0] = torch.nan


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "temporal.safetensors"])
@pytest.mark.parametrize(("change", "message"), [(drop_first, "missing"), (add_stranger, "stranger"), (poison, "NaN")])
def test_weights_that_do_not_fit_are_refused(model, tmp_path, file, change, message):
    model.save_pretrained(tmp_path)
    edit(tmp_path / file, change)
    with pytest.raises(WeightsError, match=message):
        VideoUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/config.json", "{"),
        ("unet/config.json", json.dumps({"_class_name": "AutoencoderKL"})),
        ("temporal.json", json.dumps({"format": "kineograph.temporal/9"})),
        ("temporal.json", json.dumps({"format": "kineograph.temporal/1", "plan": {"placements": [{}]}})),
        ("temporal.safetensors", "not safetensors"),
    ],
)
def test_malformed_files_are_user_errors(model, tmp_path, file, content):
    model.save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(KineographError):
        VideoUNet.from_pretrained(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
