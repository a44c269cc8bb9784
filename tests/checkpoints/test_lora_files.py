"""LoRA files and folders: other kinds are refused by name, and folders are read as diffusers and peft save them."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from kineograph.checkpoints.lora_files import read_changes, read_parts
from kineograph.errors import WeightsError

STEM = "lora_unet_mid_block_attentions_0_proj_in"
PAIR = {f"{STEM}.lora_down.weight": torch.ones(2, 32), f"{STEM}.lora_up.weight": torch.ones(32, 2)}
KINDS = {
    "LoHa": {f"{STEM}.hada_w1_a": 1, f"{STEM}.hada_w1_b": 1, f"{STEM}.hada_w2_a": 1, f"{STEM}.hada_w2_b": 1},
    "LoKr": {f"{STEM}.lokr_w1": 1, f"{STEM}.lokr_w2_a": 1},
    "DoRA": {f"{STEM}.dora_scale": 1},
    "DoRA of peft": {"unet.x.lora_magnitude_vector": 1},
    "OFT": {f"{STEM}.oft_blocks": 1},
    "GLoRA": {f"{STEM}.a1.weight": 1, f"{STEM}.b2.weight": 1},
    "learned norms": {f"{STEM}.w_norm": 1, f"{STEM}.b_norm": 1},
    "whole differences of weights": {f"{STEM}.diff": 1, f"{STEM}.diff_b": 1},
    "IA3": {f"{STEM}.weight": 1, f"{STEM}.on_input": 1},
    "AdaLoRA": {"base_model.model.x.lora_E": 1},
    "LoRAs of embeddings": {"base_model.model.x.lora_embedding_A": 1},
    "LoRAs with biases": {"unet.x.lora_B.bias": 1},
    "IP-Adapter": {"ip_adapter.1.to_k_ip.weight": 1, "image_proj.proj.weight": 1},
    "textual inversion": {"<cat>": 1},
    "textual inversion of XL": {"clip_l": 1, "clip_g": 1},
    "textual inversion in a LoRA": {"bundle_emb.cat.string_to_param.*": 1},
    "Control-LoRA": {"lora_controlnet": 1},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_other_kinds_are_refused_by_name(tmp_path, kind):
    others = {name: torch.ones(2, 2) for name in KINDS[kind]}
    for tensors in (others, {**PAIR, **others}):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(WeightsError) as caught:
            read_changes(tmp_path / "x.safetensors")
        said = str(caught.value)
        assert f"x.safetensors' holds {kind.split(' of peft')[0].split(' of XL')[0].split(' in a')[0]}" in said
        assert "Nothing of it was used" in said


def test_kinds_in_nested_files(tmp_path):
    torch.save({"params": {"new_concept_embedding": {"<a>": torch.ones(2)}, "unet": {}}}, tmp_path / "ed.pth")
    with pytest.raises(WeightsError, match="holds ED-LoRA"):
        read_changes(tmp_path / "ed.pth")
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 8)}}, tmp_path / "cat.pt")
    with pytest.raises(WeightsError, match="holds textual inversion"):
        read_changes(tmp_path / "cat.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="no weights by name"):
        read_changes(tmp_path / "none.pt")


def test_a_table_for_each_network(tmp_path):
    """None of them is left out."""
    pair = {"a.q_proj.lora_A.weight": torch.ones(2, 3), "a.q_proj.lora_B.weight": torch.ones(3, 2)}
    named = {f"text_encoder.{key}": value for key, value in pair.items()}
    torch.save({"unet": pair, "text_encoder": named, "epoch": 3}, tmp_path / "x.pt")
    assert [change.name for change in read_changes(tmp_path / "x.pt")] == ["unet.a.q_proj", "text_encoder.a.q_proj"]
    torch.save({"state_dict": pair, "global_step": 3}, tmp_path / "x.pt")
    assert [change.name for change in read_changes(tmp_path / "x.pt")] == ["a.q_proj"]


def test_what_was_trained_whole_beside_a_lora_is_named(tmp_path):
    save_file({**PAIR, "base_model.model.conv_in.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"trained whole beside its LoRA, such as base_model\.model\.conv_in"):
        read_changes(tmp_path / "x.safetensors")
    two = {f"unet.x.lora_{e}.{name}.weight": torch.ones(2, 2) for e in "AB" for name in ("first", "second")}
    save_file(two, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"holds several LoRAs \(first, second\)"):
        read_changes(tmp_path / "x.safetensors")


def test_names_of_three_generations(tmp_path):
    pair = {
        "unet.a.attn1.processor.to_out_lora.down.weight": "unet.a.attn1.to_out.0",
        "unet.a.attn1.to_q.lora.down.weight": "unet.a.attn1.to_q",
        "text_encoder.a.q_proj.lora_linear_layer.down.weight": "text_encoder.a.q_proj",
        "base_model.model.a.lora_A.weight": "base_model.model.a",
        "base_model.model.a.lora_A.default.weight": "base_model.model.a",
    }
    for key, name in pair.items():
        up = key.replace(".down.", ".up.").replace("lora_A", "lora_B")
        save_file({key: torch.ones(2, 3), up: torch.ones(3, 2)}, tmp_path / "x.safetensors")
        (change,) = read_changes(tmp_path / "x.safetensors")
        assert (change.name, change.rank, change.shape) == (name, 2, (3, 3))
    alphas = ("unet.a.processor.to_q_lora", "unet.a.to_q.lora", "unet.a.to_q")
    for stem in alphas:
        first = stem if stem != "unet.a.to_q" else "unet.a.to_q.lora"
        pair = {f"{first}.down.weight": torch.ones(2, 3), f"{first}.up.weight": torch.ones(3, 2)}
        save_file({**pair, f"{stem}.alpha": torch.tensor(0.5)}, tmp_path / "x.safetensors")
        assert [change.alpha for change in read_changes(tmp_path / "x.safetensors")] == [0.5]


def test_folders(tmp_path):
    def refused(words):
        with pytest.raises(WeightsError, match=words):
            read_parts(tmp_path)

    refused("holds no LoRA: neither pytorch_lora_weights.safetensors")
    (tmp_path / "checkpoint-5").mkdir()
    save_file(PAIR, tmp_path / "checkpoint-5" / "pytorch_lora_weights.safetensors")
    assert [part.path.parent.name for part in read_parts(tmp_path)] == ["checkpoint-5"]
    (tmp_path / "checkpoint-9").mkdir()
    save_file(PAIR, tmp_path / "checkpoint-9" / "pytorch_lora_weights.safetensors")
    refused("holds several LoRAs; give one of them: checkpoint-5, checkpoint-9")
    shutil.rmtree(tmp_path / "checkpoint-5")
    shutil.rmtree(tmp_path / "checkpoint-9")
    save_file(PAIR, tmp_path / "style.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    assert [part.path.name for part in read_parts(tmp_path)] == ["style.safetensors"]
    save_file(PAIR, tmp_path / "other.safetensors")
    refused("holds several LoRAs; give one of them: other.safetensors, style.safetensors")
    torch.save(PAIR, tmp_path / "pytorch_lora_weights.bin")
    assert [part.path.name for part in read_parts(tmp_path)] == ["pytorch_lora_weights.bin"]
    (tmp_path / "pytorch_lora_weights.bin").unlink()
    for name in ("text_encoder", "unet"):
        (tmp_path / name).mkdir()
        save_file(PAIR, tmp_path / name / "pytorch_lora_weights.safetensors")
    assert [part.component for part in read_parts(tmp_path)] == ["unet", "text_encoder"]
    (tmp_path / "model_index.json").write_text("{}")
    assert len(read_parts(tmp_path)) == 2
    for name in ("text_encoder", "unet"):
        (tmp_path / name / "pytorch_lora_weights.safetensors").unlink()
    refused("is the folder of a model, not of a LoRA")
