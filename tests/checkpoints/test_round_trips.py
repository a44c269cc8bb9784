"""There and back is exact for every format pair: names, data types and bits, and what is not used here as well."""

import pytest
import tiny_pipelines as tiny
import tiny_svd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from temporal_layouts import modelscope_network, system_network
from test_original import motion_tensors, scales, videocrafter_file

from kineograph.checkpoints.convert import convert
from kineograph.checkpoints.kept import NAME
from kineograph.checkpoints.load import load_checkpoint
from kineograph.checkpoints.networks import key_map
from kineograph.errors import WeightsError
from kineograph.systems import systems


def other(tensors, *endings):
    """Change some weights in their last bits or wholly, as files of others have them."""
    return {k: v * 1.0001 + 1e-6 if k.endswith(endings) else v for k, v in tensors.items()}


def network_file(name, network):
    return key_map(systems()[name], network, "original").to_theirs(network.unet.state_dict())


def picture_file(pipe):
    from test_picture_file import resampler_in_the_authors_names, tiny_resampler, tiny_vision

    from kineograph.checkpoints.open_clip import image_to_theirs

    return {
        **videocrafter_file(pipe, system_network("videocrafter", "i2v")),
        **tiny.under("image_proj_model.", resampler_in_the_authors_names(tiny_resampler().state_dict())),
        **tiny.under("embedder.model.visual.", image_to_theirs(tiny_vision().state_dict())),
        **{f"embedder.model.{name}": torch.rand(3) for name in ("ln_final.weight", "text_projection")},
        "scale_arr": scales(0.7),
    }


def svd_file():
    """As published: two encoders, the picture's whole autoencoder, and what is left of CLIP's text tower."""

    from test_svd import file_model

    from kineograph.checkpoints.svd import CLIP, PICTURE, svd_tensors

    tensors = svd_tensors(file_model())
    mixed = {k: v * 1.5 if k.startswith("first_stage_model.encoder.") else v for k, v in tensors.items()}
    unused = {f"{PICTURE}post_quant_conv.{k}": torch.rand(4) for k in ("weight", "bias")}
    return mixed | unused | {f"{CLIP}ln_final.bias": torch.rand(3), f"{CLIP}token_embedding.weight": torch.rand(5, 3)}


EMA = {"model_ema.decay": torch.tensor(0.9999), "model_ema.diffusion_modeloutbias": torch.rand(4)}
FILES = {
    "modelscope": (lambda pipe, xl: network_file("modelscope", modelscope_network()), ("kineograph",)),
    "lavie": (
        lambda pipe, xl: network_file("lavie", system_network("lavie", "published")),
        ("kineograph",),
    ),
    "videocrafter": (
        lambda pipe, xl: videocrafter_file(pipe, system_network("videocrafter", "v2")) | {"scale_arr": scales(0.7)},
        ("kineograph",),
    ),
    "videocrafter i2v": (lambda pipe, xl: picture_file(pipe), ("kineograph",)),
    "sd1": (lambda pipe, xl: tiny.stable_diffusion_file(pipe) | EMA, ("kineograph", "diffusers")),
    "xl": (lambda pipe, xl: tiny.stable_diffusion_xl_file(xl), ("diffusers",)),
    "v1": (lambda pipe, xl: motion_tensors(system_network("animatediff", "v1")), ("diffusers",)),
    "v2": (
        lambda pipe, xl: other(motion_tensors(system_network("animatediff", "v2")), "pos_encoder.pe"),
        ("kineograph", "diffusers"),
    ),
}
ON_A_BASE = ("modelscope", "lavie", "v1", "v2")


def in_mixed_types(tensors):
    """Halve the precision of most weights."""
    whole = {
        key for key, v in tensors.items() if not v.is_floating_point() or key.endswith("freqs")
    }  # one set of rates
    halved = {k: v.half() if n % 5 and k not in whole else v for n, (k, v) in enumerate(tensors.items())}
    return {key: value.contiguous() for key, value in halved.items()}


def exact(found, wanted):
    assert sorted(found) == sorted(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


LONG = {("modelscope", "kineograph"), ("sd1", "diffusers"), ("v1", "diffusers"), ("v2", "kineograph")}
"""Ways that others cover in part."""
WAYS = [
    pytest.param(name, to, marks=[pytest.mark.slow] if (name, to) in LONG else [])
    for name, (_, ways) in FILES.items()
    for to in ways
]


@pytest.mark.parametrize(("name", "to"), WAYS)
def test_files_of_the_authors_there_and_back(pipelines, tmp_path, name, to):
    pipe, xl = pipelines("image_pipeline")[1], pipelines("image_xl")[1]
    theirs = in_mixed_types(FILES[name][0](pipe, xl))
    tiny.write_tokenizer(tmp_path / "tokenizer")
    torch.save({"state_dict": theirs, "global_step": 7}, tmp_path / "in.ckpt")
    base = pipelines("image_pipeline")[0] if name in ON_A_BASE else None
    there = convert(tmp_path / "in.ckpt", tmp_path / "there", to, base)
    assert any("float16 and float32; all are written as float32" in note for note in there.notes)
    if (tmp_path / "there" / NAME).is_file() and load_file(tmp_path / "there" / NAME):
        assert any(f"are kept in {NAME}, from which --to original writes them back" in note for note in there.notes)
    place = tmp_path / "there"
    if name == "lavie":  # by way of a third place
        place = convert(place, tmp_path / "again", to).path
        assert place == tmp_path / "again"
    convert(place, tmp_path / "back.safetensors", "original", base if name in ("v1", "v2") else None)
    exact(load_file(tmp_path / "back.safetensors"), theirs)


def test_stable_video_diffusion_there_and_back(tmp_path):
    theirs = in_mixed_types(svd_file())
    save_file(theirs, tmp_path / "svd.safetensors")
    done = convert(tmp_path / "svd.safetensors", tmp_path / "there", "diffusers")
    assert any("first_stage_model.encoder." in note for note in done.notes)
    convert(tmp_path / "there", tmp_path / "back.safetensors", "original")
    exact(load_file(tmp_path / "back.safetensors"), theirs)


def test_without_what_was_kept_the_rest_is_made(pipelines, tmp_path):
    theirs = tiny.stable_diffusion_file(pipelines("image_pipeline")[1]) | EMA
    tiny.write_tokenizer(tmp_path / "tokenizer")
    save_file(theirs, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "there", "kineograph")
    (tmp_path / "there" / NAME).write_bytes(b"no")
    with pytest.raises(WeightsError, match=NAME):
        convert(tmp_path / "there", tmp_path / "back.safetensors", "original")
    (tmp_path / "there" / NAME).unlink()
    convert(tmp_path / "there", tmp_path / "back.safetensors", "original")
    back = load_file(tmp_path / "back.safetensors")
    assert not set(EMA) & set(back)
    assert all(torch.equal(theirs[key], value) for key, value in back.items())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("image_pipeline", torch.bfloat16),
        *((kind, torch.float16) for kind in ("modelscope", "animatediff_xl", "svd")),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in (("animatediff", torch.float32), ("svd", torch.float32), ("image_xl", torch.float16))
        ),
    ],
)
def test_folders_of_diffusers_there_and_back(pipelines, tmp_path, kind, dtype):
    source = tmp_path / "in"
    if kind == "svd":
        tiny_svd.tiny_pipeline().save_pretrained(source)
    else:
        import shutil

        shutil.copytree(pipelines(kind)[0], source)
    files = [path.relative_to(source) for path in sorted(source.rglob("*.safetensors"))]
    for file in files:
        weights = {key: v.to(dtype) if v.is_floating_point() else v for key, v in load_file(source / file).items()}
        if file.parent.name == "text_encoder":  # as published; today's transformers leave it out
            weights = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in weights.items()}
        save_file(weights, source / file)
    convert(source, tmp_path / "ours", "kineograph")
    convert(tmp_path / "ours", tmp_path / "back", "diffusers")
    for file in files:
        if kind == "animatediff" and file.parent.name == "unet":
            continue  # the image network, beside the adapter; diffusers puts both together, as test_convert.py shows
        exact(load_file(tmp_path / "back" / file), load_file(source / file))


def test_what_stable_diffusion_2_predicts_survives(pipelines, tmp_path):
    """A file's step of training, or a folder's scheduler, says it; a file of safetensors in its header."""
    pipe = pipelines("image_pipeline")[1]
    unet = tiny.tiny_image_unet(
        block_out_channels=(64, 128), attention_head_dim=(1, 2), use_linear_projection=True, cross_attention_dim=32
    )
    theirs = tiny.under(tiny.UNET, tiny.ldm_unet(unet)) | tiny.under(tiny.VAE, tiny.ldm_vae(pipe.vae))
    theirs |= tiny.under(tiny.OPEN_TEXT, tiny.open_clip_text(pipe.text_encoder))
    tiny.write_tokenizer(tmp_path / "tokenizer")
    torch.save({"state_dict": theirs, "global_step": 875000}, tmp_path / "512.ckpt")
    convert(tmp_path / "512.ckpt", tmp_path / "there", "diffusers")
    convert(tmp_path / "there", tmp_path / "back.safetensors", "original")
    exact(load_file(tmp_path / "back.safetensors"), theirs)
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        assert file.metadata()["global_step"] == "875000"
        assert file.metadata()["modelspec.prediction_type"] == "epsilon"
    assert load_checkpoint(tmp_path / "back.safetensors").settings.scheduler["prediction_type"] == "epsilon"
    torch.save({"state_dict": theirs}, tmp_path / "768.ckpt")
    convert(tmp_path / "768.ckpt", tmp_path / "v", "diffusers")
    convert(tmp_path / "v", tmp_path / "base.safetensors", "original")
    assert load_checkpoint(tmp_path / "base.safetensors").settings.scheduler["prediction_type"] == "v_prediction"


def test_parts_that_are_not_read_are_said(pipelines, tmp_path):
    import json
    import shutil

    shutil.copytree(pipelines("image_pipeline")[0], tmp_path / "in")
    file = tmp_path / "in" / "model_index.json"
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | checker))
    done = convert(tmp_path / "in", tmp_path / "out", "diffusers")
    assert "safety_checker of the source is not read and not written" in done.notes
