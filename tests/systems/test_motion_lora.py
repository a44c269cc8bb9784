"""Adapters trained here run in diffusers, carry the authors' names, and come back."""

import pytest
import torch
from motion_pair import motion_pair
from tiny import relative, unequal_clip

from kineograph.checkpoints.lora_files import read_changes
from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.systems.animatediff import AnimateDiffConfig
from kineograph.systems.motion_lora import adapter_tensors, save_adapter
from kineograph.temporal.adapters import add_adapter, fold_adapter

CONFIG = AnimateDiffConfig(middle=True, motion_norm="clip", num_heads=4, norm_groups=8)


def trained(part):
    reference, ours, _ = motion_pair(CONFIG)
    reference.eval(), ours.eval()
    parameters = add_adapter(ours.unet, part, rank=3, alpha=1.5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return reference, ours


@pytest.mark.parametrize("part", ["motion", "domain"])
@torch.no_grad()
def test_an_adapter_trained_here_gives_the_same_in_diffusers(part):
    reference, ours = trained(part)
    x, t, context = unequal_clip(4), torch.tensor([7, 900]), torch.randn(2, 6, 24)
    reference.load_lora_adapter(adapter_tensors(ours.unet, part), prefix="unet")
    theirs = reference(x.transpose(1, 2), t, context.repeat_interleave(4, 0)).sample.transpose(1, 2)
    found = ours(x, t, context)
    assert relative(found, theirs) < 1e-5
    fold_adapter(ours.unet, part)
    assert relative(ours(x, t, context), theirs) < 1e-5


def test_a_network_with_an_adapter_attached_is_not_saved_until_it_is_folded(tmp_path):
    _, ours = trained("motion")
    with pytest.raises(InputError, match=r"adapter attached \(motion\).*fold_adapter"):
        ours.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    fold_adapter(ours.unet, "motion")
    ours.save_pretrained(tmp_path / "m")
    again, weights = VideoUNet.from_pretrained(tmp_path / "m").unet.state_dict(), ours.unet.state_dict()
    assert sorted(again) == sorted(weights)
    assert all(torch.equal(again[key], value) for key, value in weights.items())


def test_files_have_the_authors_names_and_are_read_back(tmp_path):
    _, ours = trained("motion")
    for layout in ("diffusers", "original"):
        save_adapter(ours.unet, "motion", tmp_path / f"{layout}.safetensors", layout)
    names = set(adapter_tensors(ours.unet, "motion", "original"))
    stem = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor."
    assert {f"{stem}to_q_lora.down.weight", f"{stem}to_out_lora.up.weight"} <= names
    changes = [read_changes(tmp_path / f"{layout}.safetensors") for layout in ("diffusers", "original")]
    assert len(changes[0]) == len(changes[1]) == len(names) // 2
    deltas = [sorted(change.delta().norm().item() for change in read) for read in changes]
    assert deltas[0] == pytest.approx(deltas[1])


def test_the_domain_adapter_has_the_names_of_the_released_one():
    _, ours = trained("domain")
    names = adapter_tensors(ours.unet, "domain", "original")
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight" in names
    with pytest.raises(InputError, match="did you mean 'original'"):
        adapter_tensors(ours.unet, "domain", "orignal")
