"""Stable Diffusion XL: single files against diffusers' own converter, AnimateDiff on it against diffusers' pipeline."""

import json
import shutil

import pytest
import tiny_pipelines as tiny
import torch
from latents import difference, options, ours, theirs
from safetensors.torch import load_file, save_file

import kineograph as kg
from kineograph.checkpoints.convert import convert
from kineograph.diffusion.adapter import scheduler_from_config
from kineograph.errors import InputError, WeightsError
from kineograph.systems import systems


@pytest.fixture(scope="module")
def file(pipelines, tmp_path_factory):
    """Write Stable Diffusion XL's single file beside its words; return the file."""
    folder = tmp_path_factory.mktemp("xl")
    tiny.write_tokenizer(folder / "tokenizer")
    tensors = tiny.stable_diffusion_xl_file(pipelines("image_xl")[1])
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "sd_xl.safetensors")
    return folder / "sd_xl.safetensors"


@pytest.fixture(scope="module")
def adapter(pipelines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    pipelines("animatediff_xl")[1].motion_adapter.save_pretrained(folder)
    return folder


def same(ours, theirs):
    return sorted(ours) == sorted(theirs) and all(torch.equal(ours[key], value) for key, value in theirs.items())


def parts_of(model):
    first, second = model.parts.text.towers
    return {
        "unet": model.parts.network.unet,
        "vae": model.parts.autoencoder.vae,
        "text_encoder": first,
        "text_encoder_2": second,
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' schedulers
@pytest.mark.parametrize("base", [None, "file", pytest.param("image_xl", marks=pytest.mark.slow)])
def test_animatediff_on_xl_gives_the_latents_of_diffusers_pipeline(pipelines, file, adapter, base):
    folder, pipe = pipelines("animatediff_xl")
    bases = {"image_xl": pipelines("image_xl")[0], "file": file}
    model = kg.load(adapter, base=bases[base], device="cpu") if base else kg.load(folder, device="cpu")
    own = scheduler_from_config(model.settings.scheduler)
    assert (own.config["beta_schedule"], own.config["beta_end"]) == (
        ("scaled_linear", 0.02) if base else ("linear", 0.012)
    )
    assert type(own).__name__ == ("EulerDiscreteScheduler" if base else "DDIMScheduler")
    wishes, other = options(), type(pipe)(**pipe.components | {"scheduler": own})
    found = difference(ours(model, wishes), theirs(other, model, wishes))
    print(f"{base}: {found:.1e}")
    assert found < 1e-4
    assert (model.settings.system, model.settings.num_frames) == ("animatediff", 16)


def test_without_a_negative_prompt_guidance_starts_from_zeros(pipelines):
    folder, pipe = pipelines("animatediff_xl")
    model, wishes = kg.load(folder, device="cpu"), options(steps=2)
    encoded = theirs(pipe, model, wishes | {"negative_prompt": ""})
    zeros = theirs(pipe, model, wishes | {"negative_prompt": None})
    found = ours(model, wishes | {"negative_prompt": ""})
    assert difference(found, zeros) < 1e-4 < difference(encoded, zeros)


def test_a_single_file_holds_what_its_folder_holds(pipelines, file):
    whole, single = parts_of(kg.load(pipelines("image_xl")[0])), parts_of(kg.load(file))
    for name, part in whole.items():
        assert same(single[name].state_dict(), part.state_dict()), name
    config = single["unet"].config
    assert (config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]) == (8, 68)
    assert tuple(config["transformer_layers_per_block"]) == (1, 2)
    assert single["vae"].config["scaling_factor"] == 0.13025


def test_names_are_those_that_diffusers_own_converter_reads(pipelines, file):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint

    tensors, pipe = load_file(file), pipelines("image_xl")[1]
    unet = {key: value for key, value in tensors.items() if key.startswith(tiny.UNET)}
    assert same(convert_ldm_unet_checkpoint(unet, dict(pipe.unet.config)), pipe.unet.state_dict())
    second = convert_open_clip_checkpoint(pipe.text_encoder_2, dict(tensors), "conditioner.embedders.1.model.")
    own = parts_of(kg.load(file))["text_encoder_2"].state_dict()
    for key, value in second.items():
        assert torch.equal(own[key], value), key


def test_process_and_sampler_are_those_of_the_motion_modules_authors(file, adapter):
    image, animated = kg.load(file, device="cpu").settings, kg.load(adapter, base=file, device="cpu").settings
    assert (image.scheduler["_class_name"], image.scheduler["beta_schedule"]) == (
        "EulerDiscreteScheduler",
        "scaled_linear",
    )
    assert animated.scheduler == systems()["animatediff"].scheduler("sdxl")
    assert (animated.num_inference_steps, animated.guidance_scale) == (100, 8.5)
    assert (image.height, animated.height) == (256, 256)  # 128 latents of an autoencoder of two levels
    assert animated.licence == ""  # of no published size


@pytest.mark.parametrize(
    ("name", "to"),
    [
        *(("image_xl", to) for to in ("kineograph", "diffusers", "original")),
        *(("animatediff_xl", to) for to in ("kineograph", "diffusers")),
    ],
)
def test_there_and_back_is_exact(pipelines, tmp_path, name, to):
    folder = pipelines(name)[0]
    tiny.write_tokenizer(tmp_path / "tokenizer")
    out = tmp_path / ("xl.safetensors" if to == "original" else "out")
    convert(folder, out, to)
    first, again = parts_of(kg.load(folder)), parts_of(kg.load(out))
    for part, module in first.items():
        assert same(again[part].state_dict(), module.state_dict()), part
    if to == "original":
        theirs = tiny.stable_diffusion_xl_file(pipelines(name)[1])
        assert set(theirs) - set(load_file(out)) == {f"{tiny.XL_CLIP}embeddings.position_ids", "denoiser.sigmas"}


def test_a_converted_folder_loads_in_diffusers_and_gives_the_same(pipelines, tmp_path):
    from diffusers import AnimateDiffSDXLPipeline

    folder = pipelines("animatediff_xl")[0]
    convert(folder, tmp_path / "out", "diffusers")
    pipe = AnimateDiffSDXLPipeline.from_pretrained(tmp_path / "out")
    model, wishes = kg.load(tmp_path / "out", device="cpu"), options(steps=2)
    assert difference(ours(model, wishes), theirs(pipe, model, wishes)) < 1e-4


def test_clips_come_out_of_the_command_line(file, adapter, tmp_path, capsys):
    from kineograph.cli import main

    flags = ["--num-frames", "3", "--height", "16", "--width", "24", "--steps", "2", "-o", str(tmp_path / "clip.mp4")]
    assert main(["generate", "a dog", "--model", str(adapter), "--base", str(file), *flags]) == 0
    assert kg.Video.read(tmp_path / "clip.mp4").frames.shape == (3, 3, 16, 24)
    capsys.readouterr()


# --- LoRAs ------------------------------------------------------------------------------------------------------------

PLACES = {
    "unet": ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "lora_unet", "unet"),
    "text_encoder": ("text_model.encoder.layers.0.self_attn.q_proj", "lora_te1", "text_encoder"),
    "text_encoder_2": ("text_model.encoder.layers.1.mlp.fc1", "lora_te2", "text_encoder_2"),
}


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_loras_change_the_network_and_both_text_encoders(file, tmp_path, layout):
    before = parts_of(kg.load(file, device="cpu"))
    tensors, expected = {}, {}
    for part, (name, kohya, dotted) in PLACES.items():
        own = next(k for k in before[part].state_dict() if k.endswith(name.removeprefix("text_model.") + ".weight"))
        weight = before[part].state_dict()[own]
        down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
        if layout == "kohya":
            stem = f"{kohya}_{name.replace('.', '_')}"
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
        else:
            tensors |= {f"{dotted}.{name}.lora_A.weight": down, f"{dotted}.{name}.lora_B.weight": up}
        expected[part] = own, weight + 0.5 * (0.5 if layout == "kohya" else 1.0) * up @ down
    save_file(tensors, tmp_path / "style.safetensors")
    after = parts_of(kg.load(file, lora=[f"{tmp_path / 'style.safetensors'}:0.5"], device="cpu"))
    for part, (own, weight) in expected.items():
        changed = after[part].state_dict()
        torch.testing.assert_close(changed[own], weight)
        assert all(torch.equal(changed[key], value) for key, value in before[part].state_dict().items() if key != own)


# --- Wrong uses -------------------------------------------------------------------------------------------------------


def test_the_refiner_is_refused(file, pipelines, tmp_path):
    tensors = {key: value for key, value in load_file(file).items() if not key.startswith("conditioner.embedders.0.")}
    tiny.write_tokenizer(tmp_path / "tokenizer")
    save_file(tensors, tmp_path / "refiner.safetensors")
    with pytest.raises(WeightsError, match="lacks one of the two text encoders"):
        kg.load(tmp_path / "refiner.safetensors")
    shutil.copytree(pipelines("image_xl")[0], tmp_path / "refiner")
    index = tmp_path / "refiner" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder": [None, None]}))
    with pytest.raises(WeightsError, match="without the first, as its refiner"):
        kg.load(tmp_path / "refiner")


def test_unknown_weights_are_listed(file, tmp_path):
    tiny.write_tokenizer(tmp_path / "tokenizer")
    for name in ("strange.weight", "conditioner.embedders.0.strange.weight", "conditioner.embedders.2.weight"):
        save_file(load_file(file) | {name: torch.zeros(2)}, tmp_path / "xl.safetensors")
        with pytest.raises(WeightsError, match=r"strange\.weight|embedders\.2\.weight"):
            kg.load(tmp_path / "xl.safetensors")


def test_pooled_text_and_sizes_must_share_what_the_network_takes(file, tmp_path):
    tensors, name = load_file(file), "conditioner.embedders.1.model.text_projection"
    tensors[name] = torch.zeros(64, 21)
    tiny.write_tokenizer(tmp_path / "tokenizer")
    save_file(tensors, tmp_path / "xl.safetensors")
    with pytest.raises(WeightsError, match="68 channels, of which 21 are text"):
        kg.load(tmp_path / "xl.safetensors")


def test_the_network_alone_wants_its_conditions(file):
    network = kg.load(file, device="cpu").parts.network
    with pytest.raises(InputError, match="told a pooled text and sizes"):
        network(torch.zeros(1, 1, 4, 8, 8), 5, torch.zeros(1, 12, 96))
