"""By how much LoRAs count: what peft computes, wherever a file notes alpha and rank, for every network and spelling."""

import copy
import json

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from test_lora import ldm_name
from tiny_svd import tiny_pipeline
from torch import nn

import kineograph as kg
from kineograph.checkpoints.lora import Places, add_lora, flat, weights_of
from kineograph.checkpoints.lora_files import read_changes
from kineograph.errors import WeightsError
from kineograph.systems import systems

ROWS = {
    "alpha is the rank": (4, 4, {}),
    "twice": (4, 8, {}),
    "less": (8, 1, {}),
    "a quarter": (16, 4, {}),
    "root of the rank": (4, 8, {"use_rslora": True}),
    "alpha of some, by suffix": (4, 4, {"alpha_pattern": {"to_q": 2}}),
    "rank and alpha of some": (4, 6, {"rank_pattern": {r"down_blocks.*to_q": 2}, "alpha_pattern": {r"attn2\.to_v": 1}}),
    "root of ranks of some": (4, 8, {"use_rslora": True, "rank_pattern": {r"^mid_block.attentions.0.*attn1.to_q": 9}}),
}
STEM = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def trained(module, rank, alpha, targets, **more):
    """Put peft's adapter with random factors on a network; return its factors, its changes and its configuration."""
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **more)
    inject_adapter_in_model(config, module)
    module.peft_config = {"default": config}
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    deltas = {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}
    return get_peft_model_state_dict(module), deltas, config


def noted(config, component):
    """Return the header that diffusers writes, with and without a name before its fields."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    values = {key: value for key, value in values.items() if key not in ("peft_type", "task_type")}
    return {f"{component}.{key}" if component else key: value for key, value in values.items()}


def save(file, tensors, *headers):
    header = {key: value for part in headers for key, value in part.items()}
    metadata = {"format": "pt", **({"lora_adapter_metadata": json.dumps(header, default=str)} if header else {})}
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata)
    return file


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            getattr(tiny, f"write_{name}")(folder)
            made[name] = kg.load(folder, device="cpu").parts
        return made[name]

    return get


@pytest.fixture
def change(loaded):
    """Add a LoRA; return by how much each weight of a network changed, and take it off again."""

    def run(given, name="image_pipeline", tower=None):
        model = loaded(name)
        module = model.network.unet if tower is None else model.text.towers[tower]
        every = [*model.network.unet.parameters(), *(p for t in model.text.towers for p in t.parameters())]
        before = [parameter.detach().clone() for parameter in every]
        own = {key: weight.detach().clone() for key, weight in weights_of(module).items()}
        try:
            add_lora(model, given)
            now = {key: weight.detach() - own[key] for key, weight in weights_of(module).items()}
        finally:
            with torch.no_grad():
                for parameter, value in zip(every, before, strict=True):
                    parameter.copy_(value)
        return {key.removeprefix("text_model."): value for key, value in now.items() if value.abs().max() > 0}

    return run


def check(found, deltas):
    deltas = {key.removeprefix("text_model."): value for key, value in deltas.items()}
    assert sorted(found) == sorted(deltas)
    for name, value in deltas.items():
        torch.testing.assert_close(found[name].reshape(value.shape), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", list(ROWS))
def test_the_header_of_diffusers(tmp_path, change, row):
    rank, alpha, more = ROWS[row]
    weights, deltas, config = trained(tiny.tiny_image_unet(), rank, alpha, ["to_q", "to_v"], **more)
    named = {f"unet.{key}": value for key, value in weights.items()}
    check(change(save(tmp_path / "b.safetensors", weights, noted(config, ""))), deltas)
    save(tmp_path / "pytorch_lora_weights.safetensors", named, noted(config, "unet"))
    halves = change(f"{tmp_path}:0.5")
    check(halves, {key: 0.5 * value for key, value in deltas.items()})


@pytest.mark.parametrize("row", ["twice", "root of ranks of some", "rank and alpha of some"])
def test_folders_of_peft(tmp_path, change, capsys, row):
    from peft import LoraConfig, get_peft_model

    rank, alpha, more = ROWS[row]
    weights, deltas, _ = trained(tiny.tiny_image_unet(), rank, alpha, ["to_q", "to_v"], **more)
    wrapped = get_peft_model(
        tiny.tiny_image_unet(), LoraConfig(r=rank, lora_alpha=alpha, target_modules=["to_q", "to_v"], **more)
    )
    wrapped.load_state_dict({f"base_model.model.{spelt(key)}": value for key, value in weights.items()}, strict=False)
    wrapped.save_pretrained(tmp_path / "peft")
    check(change(tmp_path / "peft"), deltas)
    check(change(tmp_path / "peft" / "adapter_model.safetensors"), deltas)
    torch.save(load_file(tmp_path / "peft" / "adapter_model.safetensors"), tmp_path / "peft" / "adapter_model.bin")
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    check(change(tmp_path / "peft"), deltas)
    assert "alpha" not in capsys.readouterr().err
    (tmp_path / "peft" / "adapter_config.json").unlink()
    if row == "twice":
        check(change(f"{tmp_path / 'peft' / 'adapter_model.bin'}:{alpha / rank}"), deltas)
        assert "does not say its alpha: it is taken to be the rank" in capsys.readouterr().err


def spelt(key):
    stem, _, end = key.rpartition(".")
    return f"{stem}.default.{end}"


def test_a_folder_for_each_network_and_several_loras_at_once(tmp_path, change, loaded):
    """As peft's own DreamBooth script saves them."""
    every = {}
    networks = {"unet": (tiny.tiny_image_unet(), "to_q"), "text_encoder": (tiny.tiny_clip(190), "q_proj")}
    for name, (network, target) in networks.items():
        weights, every[name], config = trained(network, 4, 8, [target])
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(noted(config, ""), default=str))
        save(tmp_path / name / "adapter_model.safetensors", {f"base_model.model.{k}": v for k, v in weights.items()})
    check(change(tmp_path), every["unet"])
    check(change(tmp_path, tower=0), every["text_encoder"])
    model = loaded("image_pipeline")
    weight = weights_of(model.network.unet)[STEM]
    before = weight.detach().clone()
    for strength in (0.5, 0.25, -0.75):
        add_lora(model, f"{tmp_path}:{strength}")
    torch.testing.assert_close(weight.detach(), before)


VIDEO = {
    "modelscope": ("to_q", "temp_convs", "proj_in", "ff.net.0.proj"),
    "svd": ("to_v", "conv1", "proj_in", "time_pos_embed.linear_1"),
}


@pytest.mark.parametrize("name", list(VIDEO))
def test_video_networks_in_the_names_of_diffusers(tmp_path, name):
    """Time included, as peft's scripts train them."""
    if name == "svd":
        pipe = tiny_pipeline()
        pipe.save_pretrained(tmp_path / name)
    else:
        pipe = tiny.write_modelscope(tmp_path / name)
    model = kg.load(tmp_path / name, device="cpu").parts
    targets = [
        n for n, m in pipe.unet.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and n.endswith(VIDEO[name])
    ]
    assert any("temp" in target for target in targets)
    weights, deltas, config = trained(pipe.unet, 4, 2, targets)
    keys = systems()["modelscope" if name == "modelscope" else "stable_video_diffusion"].key_maps["diffusers"]
    ours = keys(model.network.config).to_ours({f"{key}.weight": value for key, value in deltas.items()})
    before = {key: weight.detach().clone() for key, weight in weights_of(model.network.unet).items()}
    file = save(
        tmp_path / "x.safetensors", {f"unet.{key}": value for key, value in weights.items()}, noted(config, "unet")
    )
    assert add_lora(model, file) == len(deltas)
    now = {key: weight.detach() - before[key] for key, weight in weights_of(model.network.unet).items()}
    check(
        {key: v for key, v in now.items() if v.abs().max() > 0}, {k.removesuffix(".weight"): v for k, v in ours.items()}
    )


def test_what_is_told_of_sizes_in_stable_diffusion_xl(tmp_path, change, loaded):
    weight = weights_of(loaded("image_xl").network.unet)["add_embedding.linear_1"]
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    stem = "lora_unet_label_emb_0_0"
    file = save(tmp_path / "x.safetensors", {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up})
    check(change(file, "image_xl"), {"add_embedding.linear_1": up @ down})


TEXT = ["q_proj", "out_proj", "fc1"]


@pytest.mark.parametrize("inner", ["", "text_model."])
@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya", "comfyui"])
def test_text_encoders_in_names_of_both_versions_of_transformers(tmp_path, change, inner, layout):
    weights, deltas, config = trained(tiny.tiny_clip(190), 4, 2, TEXT)
    pairs = {key.partition(".lora_")[0]: None for key in weights}
    tensors, header = {}, noted(config, "text_encoder")
    for stem in pairs:
        down, up = weights[f"{stem}.lora_A.weight"], weights[f"{stem}.lora_B.weight"]
        name = f"{inner}{stem}"
        if layout == "diffusers":
            tensors |= {f"text_encoder.{name}.lora_linear_layer.{e}.weight": v for e, v in (("down", down), ("up", up))}
        elif layout == "peft":
            tensors |= {f"base_model.model.{name}.lora_{e}.weight": v for e, v in (("A", down), ("B", up))}
        else:
            first = f"text_encoders.clip_l.transformer.{name}" if layout == "comfyui" else f"lora_te_{flat(name)}"
            tensors |= {f"{first}.lora_down.weight": down, f"{first}.lora_up.weight": up}
            tensors[f"{first}.alpha"], header = torch.tensor(2.0), {}
    header = noted(config, "") if layout == "peft" else header
    check(change(save(tmp_path / "te.safetensors", tensors, header), tower=0), deltas)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_both_text_encoders_of_stable_diffusion_xl(tmp_path, change, loaded, layout):
    towers = loaded("image_xl").text.towers
    every, tensors, headers = [], {}, []
    for number, (tower, alpha, more) in enumerate(
        zip(towers, (2, 16), ({}, {"use_rslora": layout == "diffusers"}), strict=True)
    ):
        weights, deltas, config = trained(copy.deepcopy(tower), 4, alpha, ["q_proj", "fc2"], **more)
        component = ("text_encoder", "text_encoder_2")[number]
        headers.append(noted(config, component) if layout == "diffusers" else {})
        every.append(deltas)
        for key, value in weights.items():
            stem, _, end = key.partition(".lora_")
            stem = f"text_model.{stem.removeprefix('text_model.')}"
            if layout == "diffusers":
                tensors[f"{component}.{stem}.lora_{end}"] = value
            else:
                first = f"lora_te{number + 1}_{flat(stem)}"
                tensors[f"{first}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = value
                tensors[f"{first}.alpha"] = torch.tensor(float(alpha))
    file = save(tmp_path / "xl.safetensors", tensors, *headers)
    for number, deltas in enumerate(every):
        check(change(file, "image_xl", number), deltas)


PREFIXES = {
    "diffusion_model.": "ldm",
    "model.diffusion_model.": "ldm",
    "transformer.": "dotted",
    "unet.": "dotted",
    "base_model.model.": "dotted",
    "unet.base_model.model.": "dotted",
    "lycoris_": "flat",
    "lora_unet_": "flat",
    "": "dotted",
}


@pytest.fixture(scope="module")
def places(loaded):
    return Places.of(loaded("image_pipeline"))


@pytest.mark.parametrize("prefix", list(PREFIXES))
@pytest.mark.parametrize("ends", ["lora_down lora_up", "lora_A lora_B", "lora_A.style lora_B.style"])
def test_what_stands_before_names(tmp_path, places, prefix, ends):
    name = {"ldm": ldm_name(STEM), "flat": flat(STEM), "dotted": STEM}[PREFIXES[prefix]]
    factors = torch.randn(4, 32), torch.randn(32, 4)
    tensors = {f"{prefix}{name}.{end}.weight": value for end, value in zip(ends.split(), factors, strict=True)}
    file = save(tmp_path / "x.safetensors", {**tensors, f"{prefix}{name}.alpha": torch.tensor(1.0)})
    (change,) = read_changes(file)
    assert places.find(change).name == STEM
    assert change.alpha == 1
    torch.testing.assert_close(change.delta(), factors[1] @ factors[0])


def test_three_factors_and_an_alpha_of_zero(tmp_path, change):
    """Tucker's form of LyCORIS is a convolution between two of one place; alpha 0 is the rank, as kohya writes it."""
    name, down, up = "down_blocks.0.resnets.0.conv1", torch.randn(4, 32, 1, 1), torch.randn(32, 4, 1, 1)
    mid = torch.randn(4, 4, 3, 3)
    factors = {"lora_down": down, "lora_mid": mid, "lora_up": up}
    tensors = {f"lora_unet_{flat(name)}.{key}.weight": value for key, value in factors.items()}
    tensors[f"lora_unet_{flat(name)}.alpha"] = torch.tensor(2.0)
    picture = torch.randn(1, 32, 8, 8)
    conv = torch.nn.functional.conv2d
    expected = conv(conv(conv(picture, down), mid, padding=1), up) / 2
    found = change(save(tmp_path / "locon.safetensors", tensors))[name]
    torch.testing.assert_close(conv(picture, found, padding=1), expected, rtol=1e-3, atol=1e-3)
    tensors[f"lora_unet_{flat(name)}.alpha"] = torch.tensor(0.0)
    again = change(save(tmp_path / "zero.safetensors", tensors))[name]
    torch.testing.assert_close(again, 2 * found, rtol=1e-4, atol=1e-4)


# --- What contradicts itself or is no number --------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path, loaded):
    """Try to add a LoRA of one weight; return what is said, in which the file must be named."""

    def run(header=None, alpha=None, rank=4, **config):
        tensors = {
            f"unet.{STEM}.lora_A.weight": torch.ones(rank, 32),
            f"unet.{STEM}.lora_B.weight": torch.ones(32, rank),
        }
        tensors |= {} if alpha is None else {f"unet.{STEM}.alpha": alpha}
        file = save(tmp_path / "style.safetensors", tensors, header or {})
        if config:
            (tmp_path / "adapter_config.json").write_text(json.dumps(config))
            file = save(tmp_path / "adapter_model.safetensors", tensors)
        with pytest.raises(WeightsError) as caught:
            add_lora(loaded("image_pipeline"), file)
        assert "style.safetensors" in str(caught.value) or "adapter_" in str(caught.value)
        return str(caught.value)

    return run


def test_contradictions_and_numbers_that_are_none(refused):
    said = refused({"unet.r": 8, "unet.lora_alpha": 8})
    assert f"says rank 8 for '{STEM}', whose tensors have rank 4" in said
    said = refused({"unet.r": 4, "unet.lora_alpha": 8}, alpha=torch.tensor(1.0))
    assert f"contradicts itself: the alpha of 'unet.{STEM}' makes its scale 0.25" in said
    assert "says 2" in said
    for broken in (float("nan"), float("inf"), "16", None, True, [1], 1e300):
        assert "lora_alpha=" in refused({"unet.r": 4, "unet.lora_alpha": broken})
    for broken in (0, -4, 2.5, "4", float("nan")):
        assert "a whole number from 1 on" in refused({"unet.r": broken})
        assert "a whole number from 1 on" in refused({"unet.r": 4, "unet.rank_pattern": {"to_q": broken}})
    assert "alpha_pattern=" in refused({"unet.r": 4, "unet.alpha_pattern": {"to_q": "x"}})
    assert "an object of patterns" in refused({"unet.r": 4, "unet.alpha_pattern": [1]})
    assert "broken pattern" in refused({"unet.r": 4, "unet.alpha_pattern": {"to_(q": 1}})
    assert "not finite" in refused(alpha=torch.tensor(float("nan")))
    assert "of shape (3,); alpha is one number" in refused(alpha=torch.ones(3))
    assert "without values" in refused(rank=0)


def test_patterns_cannot_run_for_ever(refused):
    for pattern in ("(a+)+$", "(.*)*x", ".*.*.*.*.*x", "a" * 1000):
        assert "could be tried for ever" in refused({"unet.r": 4, "unet.alpha_pattern": {pattern: 1}})


def test_headers_that_are_no_json(tmp_path, loaded):
    pair = {f"unet.{STEM}.lora_A.weight": torch.ones(4, 32), f"unet.{STEM}.lora_B.weight": torch.ones(32, 4)}
    for text in ("{", "[1]", "7", "[" * 5000):
        save_file(pair, tmp_path / "x.safetensors", {"lora_adapter_metadata": text})
        with pytest.raises(WeightsError, match="lora_adapter_metadata"):
            add_lora(loaded("image_pipeline"), tmp_path / "x.safetensors")


def test_other_kinds_in_a_configuration_are_named(refused):
    assert "is DoRA, which is not read" in refused({"unet.r": 4, "unet.use_dora": True})
    assert "init_lora_weights='pissa_niter_4'" in refused({"unet.r": 4, "unet.init_lora_weights": "pissa_niter_4"})
    assert "an adapter of kind LOHA, which is not read" in refused(peft_type="LOHA", r=4)
    assert "is replicated layers, which is not read" in refused(r=4, layer_replication=[[0, 4]])
