"""LoRAs in every spelling: what the network computes with them is what peft computes."""

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import save_file

import kineograph as kg
from kineograph.checkpoints.lora import add_lora, flat, weights_of
from kineograph.checkpoints.lora_files import read_changes
from kineograph.checkpoints.lora_path import split_scale
from kineograph.errors import InputError, WeightsError

RANK, ALPHA = 4, 2.0


@pytest.fixture
def model(pipelines):
    return kg.load(pipelines("image_pipeline")[0], device="cpu").parts


@pytest.fixture(scope="module")
def reference():
    """Return an image network with peft's adapter, and the adapter's weights."""
    from peft import LoraConfig, get_peft_model_state_dict

    torch.manual_seed(0)
    unet = tiny.tiny_image_unet()
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_v", "to_out.0", "conv1", "proj_in"])
    unet.add_adapter(config)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    return unet.eval(), get_peft_model_state_dict(unet)


def inputs():
    torch.manual_seed(1)
    return torch.randn(1, 2, 4, 8, 8), torch.tensor([300]), torch.randn(1, 5, 32)


def expected(unet):
    x, t, context = inputs()
    with torch.no_grad():
        return unet(x[0], t, context.expand(2, -1, -1)).sample[None]


def spelt(weights, layout):
    """Write peft's weights the way a file of some origin does."""
    if layout == "peft":
        return {f"unet.{key}": value for key, value in weights.items()}
    stems = sorted({key.partition(".lora_")[0] for key in weights})
    pairs = {stem: (weights[f"{stem}.lora_A.weight"], weights[f"{stem}.lora_B.weight"]) for stem in stems}
    written = {}
    for stem, (down, up) in pairs.items():
        if layout == "diffusers":
            name = f"unet.{stem}.lora"
        elif layout == "processors":
            parent, _, part = stem.removesuffix(".0").rpartition(".")
            name = f"unet.{parent}.processor.{part}_lora"
        else:
            ldm = layout == "kohya-ldm"
            name = f"lora_unet_{flat(ldm_name(stem) if ldm else stem)}"
        ends = (".down", ".up") if layout in ("diffusers", "processors") else (".lora_down", ".lora_up")
        written |= {f"{name}{ends[0]}.weight": down, f"{name}{ends[1]}.weight": up}
        if layout != "processors":
            written[f"unet.{stem}.alpha" if layout == "diffusers" else f"{name}.alpha"] = torch.tensor(ALPHA)
    return written


def kohya(stem, down, up):
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}


def ldm_name(stem):
    from kineograph.checkpoints.ldm import unet_keys

    return next(iter(unet_keys(tiny.tiny_image_unet().config).to_theirs({f"{stem}.x": torch.zeros(1)}))).removesuffix(
        ".x"
    )


@pytest.mark.parametrize("layout", ["peft", "diffusers", "kohya", "kohya-ldm"])
def test_the_network_computes_what_peft_computes(model, reference, tmp_path, layout):
    unet, weights = reference
    file = tmp_path / "style.safetensors"
    save_file(spelt(dict(weights), layout), file)
    # peft's own files leave alpha to a configuration beside them; without it alpha is the rank
    given = f"{file}:{ALPHA / RANK}" if layout == "peft" else file
    before = model.network(*inputs())
    assert add_lora(model, given) == len(weights) // 2
    made = model.network(*inputs())
    torch.testing.assert_close(made, expected(unet), rtol=0, atol=1e-4)
    assert (made - before).abs().max() > 1e-2


def test_names_with_processors_are_the_same_weights(reference, tmp_path):
    attention = {key: value for key, value in reference[1].items() if "attn" in key}
    save_file(spelt(attention, "processors"), tmp_path / "old.safetensors")
    save_file(
        {k: v for k, v in spelt(attention, "diffusers").items() if "alpha" not in k}, tmp_path / "new.safetensors"
    )
    old, new = (
        {c.name.removeprefix("unet."): c for c in read_changes(tmp_path / f"{n}.safetensors")} for n in ("old", "new")
    )
    assert sorted(old) == sorted(new)
    assert all(torch.equal(old[name].up, change.up) for name, change in new.items())


def test_scale_and_text_encoder(model, tmp_path):
    name = "text_model.encoder.layers.1.self_attn.q_proj"
    down, up = torch.randn(RANK, 32), torch.randn(32, RANK)
    file = tmp_path / "te.safetensors"
    stem = f"lora_te_{flat(name)}"
    save_file(
        {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}, file
    )
    place = weights_of(model.text.model)[name.removeprefix("text_model.")]
    before = place.detach().clone()
    assert add_lora(model, f"{file}:0.5") == 1
    torch.testing.assert_close(place.detach(), before + 0.5 / RANK * up @ down)
    add_lora(model, f"{file}:-0.5")
    torch.testing.assert_close(place.detach(), before)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_motion_loras_change_motion_modules(pipelines, tmp_path, layout):
    model = kg.load(pipelines("animatediff")[0], device="cpu").parts
    stem = "down_blocks.0.motion_modules.0."
    if layout == "original":
        stem += "temporal_transformer.transformer_blocks.0.attention_blocks.1.processor.to_q_lora."
    else:
        stem = f"unet.{stem}transformer_blocks.0.attn2.to_q.lora."
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    file = tmp_path / "pan.safetensors"
    save_file({f"{stem}down.weight": down, f"{stem}up.weight": up}, file)
    place = model.network.unet.down_blocks[0].attentions[0].temporal.blocks[0].attend2.query.weight
    before = place.detach().clone()
    assert add_lora(model, file) == 1
    torch.testing.assert_close(place.detach(), before + up @ down)


def test_what_a_file_and_a_scale_are(tmp_path):
    file = tmp_path / "a:b.safetensors"
    file.write_bytes(b"")
    assert split_scale(file) == (file, 1.0)
    assert split_scale(f"{file}:0.25") == (file, 0.25)
    with pytest.raises(WeightsError, match=r"no file .*gone.*PATH:strength"):
        split_scale(tmp_path / "gone.safetensors")
    with pytest.raises(InputError, match="strength"):
        split_scale(f"{file}:inf")
    with pytest.raises(InputError, match="'0,8' is no number"):
        split_scale(f"{file}:0,8")
    assert split_scale(f"{tmp_path}:0.5") == (tmp_path, 0.5)


def test_unknown_keys_other_widths_and_half_pairs_are_refused(model, tmp_path):
    file = tmp_path / "bad.safetensors"

    def refused(tensors):
        save_file(tensors, file)
        with pytest.raises(WeightsError) as caught:
            add_lora(model, file)
        return str(caught.value)

    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora"
    flat_stem = f"lora_{flat(stem.removesuffix('.lora'))}"
    down, up = torch.randn(RANK, 32), torch.randn(32, RANK)
    assert "down_blocks.7.x" in refused(
        {"unet.down_blocks.7.x.lora.down.weight": down, "unet.down_blocks.7.x.lora.up.weight": up}
    )
    words = refused({f"{stem}.down.weight": torch.randn(RANK, 1024), f"{stem}.up.weight": up})
    assert "[32, 1024], which here is [32, 32]" in words
    assert "do not fit each other: [[32, 4], [3, 32]]" in refused(
        {f"{stem}.down.weight": down[:3].clone(), f"{stem}.up.weight": up}
    )
    assert "Stable Diffusion 2" in words
    assert "one factor only" in refused({f"{stem}.down.weight": down})
    again = {f"{flat_stem}.lora_down.weight": down.clone(), f"{flat_stem}.lora_up.weight": up.clone()}
    both = {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    assert "changes one weight twice, as '" in refused({**both, **again})
    again = {f"{stem}_A.weight": down.clone(), f"{stem}_B.weight": up.clone()}
    assert "in two spellings" in refused({**both, **again})


def test_nothing_changes_when_a_lora_is_refused(model, reference, tmp_path):
    file = tmp_path / "bad.safetensors"
    weights = spelt(dict(reference[1]), "kohya")
    weights |= {
        "lora_unet_nowhere.lora_down.weight": torch.zeros(1, 3),
        "lora_unet_nowhere.lora_up.weight": torch.zeros(3, 1),
    }
    save_file(weights, file)
    before = {key: value.clone() for key, value in model.network.unet.state_dict().items()}
    with pytest.raises(WeightsError, match="nowhere"):
        add_lora(model, file)
    assert all(torch.equal(before[key], value) for key, value in model.network.unet.state_dict().items())
