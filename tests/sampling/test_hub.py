"""Models on the Hugging Face Hub whose weights are there in half precision only."""

import json
import shutil

from kineograph.sampling.generate import find_base


def test_half_precision_is_fetched_where_there_is_nothing_else(tmp_path, monkeypatch):
    hub, here = tmp_path / "hub", tmp_path / "here"
    for part in ("unet", "text_encoder", "safety_checker"):
        (hub / part).mkdir(parents=True)
        (hub / part / "config.json").write_text("{}")
    (hub / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (hub / "unet" / "diffusion_pytorch_model.safetensors").write_text("")
    (hub / "text_encoder" / "model.fp16.safetensors").write_text("")
    asked = []

    def snapshot(name, allow_patterns, ignore_patterns):
        asked.append(ignore_patterns)
        half = shutil.ignore_patterns(*ignore_patterns)
        shutil.copytree(hub, here, ignore=half, dirs_exist_ok=True)
        return str(here)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_base("owner/half") == here
    assert (here / "text_encoder" / "model.fp16.safetensors").is_file()
    assert [("*.fp16.*" in patterns) for patterns in asked] == [True, False]
    (hub / "text_encoder" / "model.safetensors").write_text("")
    shutil.rmtree(here)
    asked.clear()
    find_base("owner/whole")
    assert len(asked) == 1
