"""Folders of diffusers in every form in which people get them: half precision, shards, PyTorch files, old names."""

import json
import shutil

import pytest
import tiny_pipelines as tiny
import tiny_svd
import torch
from safetensors.torch import load_file, save_file

import kineograph as kg
from kineograph.checkpoints.load import load_checkpoint

FORMS = ("fp16", "shards", "fp16 shards", "bin", "fp16 bin")


@pytest.fixture(scope="session")
def svd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svd")
    tiny_svd.tiny_pipeline().save_pretrained(folder)
    return folder


def in_form(folder, target, form):
    """Copy a pipeline's folder with the weights of every part in another form, as diffusers writes it."""
    shutil.copytree(folder, target)
    for file in list(target.rglob("*.safetensors")):
        tensors, stem, variant = load_file(file), file.stem, ".fp16" if "fp16" in form else ""
        if variant:
            tensors = {key: v.half() if v.is_floating_point() else v for key, v in tensors.items()}
        file.unlink()
        names = sorted(tensors)
        if "bin" in form:
            stem = "pytorch_model" if stem == "model" else stem
            torch.save(tensors, file.with_name(f"{stem}{variant}.bin"))
        elif "shards" not in form:
            save_file(tensors, file.with_name(f"{stem}{variant}.safetensors"))
        else:
            halves = {f"{stem}{variant}-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
            for name, keys in halves.items():
                save_file({key: tensors[key] for key in keys}, file.with_name(name))
            index = {"weight_map": {key: name for name, keys in halves.items() for key in keys}}
            file.with_name(f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))
    return target


def values(model):
    """Return all weights of a model of any kind."""
    parts = {name: getattr(model, name, None) for name in ("network", "autoencoder", "text", "image_encoder")}
    return {f"{name}.{key}": v for name, part in parts.items() if part for key, v in part.state_dict().items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_part_loads_in_every_form(pipelines, svd, tmp_path, form):
    kinds = ("modelscope", "animatediff", "image_pipeline", "image_xl") if form == "fp16" else ()
    for kind, folder in {"svd": svd, **{name: pipelines(name)[0] for name in kinds}}.items():
        exact = values(load_checkpoint(folder))
        found = values(load_checkpoint(in_form(folder, tmp_path / kind, form)))
        assert sorted(found) == sorted(exact)
        for key, value in exact.items():
            expected = value.half().float() if "fp16" in form and value.is_floating_point() else value
            assert torch.equal(found[key], expected), key


def test_adapters_and_control_networks_alone(pipelines, tmp_path):
    tiny.tiny_adapter().save_pretrained(tmp_path / "adapter", variant="fp16")
    model = kg.load(tmp_path / "adapter", base=pipelines("image_pipeline")[0], device="cpu")
    assert model.settings.system == "animatediff"


def test_which_of_several_files_was_taken_is_said(svd, tmp_path, capsys):
    shutil.copytree(svd, tmp_path / "m")
    file = tmp_path / "m" / "image_encoder" / "model.safetensors"
    save_file({key: v.half() for key, v in load_file(file).items()}, file.with_name("model.fp16.safetensors"))
    assert torch.equal(
        values(load_checkpoint(tmp_path / "m"))["image_encoder.model.visual_projection.weight"],
        load_file(file)["visual_projection.weight"],
    )
    assert "taken is model.safetensors (full precision), not model.fp16.safetensors" in capsys.readouterr().err


def test_the_old_names_of_an_autoencoder(pipelines, tmp_path):
    folder = pipelines("image_pipeline")[0]
    shutil.copytree(folder, tmp_path / "m")
    file = tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {key.replace(new, name) if "attentions" in key else key: v for key, v in tensors.items()}
    assert any("proj_attn" in key for key in tensors)
    save_file(tensors, file)
    exact, found = values(load_checkpoint(folder)), values(load_checkpoint(tmp_path / "m"))
    assert all(torch.equal(found[key], value) for key, value in exact.items())
