"""The model folder: what is written is what is read, and what is damaged is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from kineograph.errors import KineographError, WeightsError
from kineograph.models.latent_video import Settings, draw_noise, load_latent_video, read_settings, step_noise


@pytest.fixture
def model():
    return tiny_model()


def test_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path, torch.float32)
    again = load_latent_video(tmp_path)
    assert again.settings == model.settings
    x, t = torch.randn(1, 4, 4, 8, 8), torch.tensor([500])
    context = model.text(["a red dog"])
    torch.testing.assert_close(again.network(x, t, again.text(["a red dog"])), model.network(x, t, context))
    torch.testing.assert_close(again.autoencoder.decode(x), model.autoencoder.decode(x))
    assert not list(tmp_path.rglob("*.part"))


def test_stock_diffusers_loads_the_image_part(model_folder):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    UNet2DConditionModel.from_pretrained(model_folder / "unet")
    AutoencoderKL.from_pretrained(model_folder / "vae")
    assert DDIMScheduler.from_pretrained(model_folder / "scheduler").config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "temporal.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_nan_truncated_missing_and_foreign_weights_are_refused(model_folder, tmp_path, file):
    def damaged(change):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model_folder, folder)
        change(folder / file)
        with pytest.raises(KineographError) as caught:
            load_latent_video(folder)
        return str(caught.value)

    def poison(path):
        tensors = load_file(path)
        name = sorted(tensors)[0]
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, path)

    def rename(path):
        tensors = load_file(path)
        tensors["strange.weight"] = tensors.pop(sorted(tensors)[0])
        save_file(tensors, path)

    words = damaged(poison).lower()
    assert "finite" in words or "nan" in words
    assert "strange.weight" in damaged(rename)
    assert "safetensors" in damaged(lambda path: path.write_bytes(path.read_bytes()[:1000]))
    assert damaged(lambda path: path.unlink())


def test_unknown_settings_and_formats_are_refused(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model_index.json").read_text())
    for change, words in (({"num_frame": 3}, "num_frames"), ({"format": 99}, "format")):
        changed = {**index, "kineograph": {**index["kineograph"], **change}}
        (tmp_path / "m" / "model_index.json").write_text(json.dumps(changed))
        with pytest.raises(WeightsError, match=words):
            read_settings(tmp_path / "m")
    (tmp_path / "m" / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        read_settings(tmp_path / "m")


def test_noise_prior_is_the_settings_and_a_seed_is_a_clip():
    mixed = Settings(noise="mixed", noise_alpha=1.0)
    draws = draw_noise(mixed, (4, 4, 32, 32), [1, 2])
    frames = draws[0].flatten(1)
    assert torch.corrcoef(frames)[0, 1].item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(draws[1], draw_noise(mixed, (4, 4, 32, 32), [2])[0])
    fresh = step_noise(mixed, 4, [1])(torch.zeros(1, 4, 4, 32, 32))
    assert torch.corrcoef(fresh[0].flatten(1))[0, 1].item() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(KineographError, match="mixed"):
        draw_noise(Settings(noise="mixd"), (1, 1, 1, 1), [0])
