"""What every system of the registry keeps."""

import ast
import dataclasses
import importlib
import inspect
import re

import pytest
import torch
from tiny import perturb, relative

import kineograph as kg
from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.systems import Registry, systems
from kineograph.systems.card import EVIDENCE
from kineograph.temporal.inflate import strip, temporal_state_dict

NAMES = list(systems())


def tiny_call(model, frames=3, batch=2):
    """Return arguments that fit a tiny system's image network."""
    config = model.config
    size = config["sample_size"]
    conditions = {}
    if config["class_embed_type"] == "projection":
        conditions["class_labels"] = torch.randn(batch, config["projection_class_embeddings_input_dim"])
    return {
        **conditions,
        "x": torch.randn(batch, frames, config["in_channels"], size, size)
        * torch.linspace(0.3, 3, frames).view(frames, 1, 1, 1),
        "timestep": torch.tensor([7, 900]),
        "context": torch.randn(batch, 5, config["cross_attention_dim"]),
    }


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name):
    card = systems()[name].card
    assert re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv) or not card.arxiv
    assert all((card.title, card.authors, card.code_license, card.adds, 2019 < card.year < 2027))
    assert card.evidence in EVIDENCE
    assert (card.evidence == "paper") == (card.code == "")
    text = inspect.getdoc(importlib.import_module(f"kineograph.systems.{name}"))
    assert card.arxiv in text
    assert card.title.split(":")[0].split()[0] in text


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_frozen_and_documented(name):
    system = systems()[name]
    assert "tiny" in system.presets
    for preset in system.presets.values():
        assert isinstance(preset, system.config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(preset, dataclasses.fields(preset)[0].name, None)
    for field in dataclasses.fields(system.config):
        assert f"{field.name}:" in system.config.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_file_is_short_and_light_to_import(name):
    source = inspect.getsource(importlib.import_module(f"kineograph.systems.{name}"))
    assert len(source.splitlines()) <= 210
    top = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top for alias in node.names} | {getattr(node, "module", "") for node in top}
    assert not {part.split(".")[0] for part in names if part} & {"torch", "diffusers", "transformers"}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_tiny_preset_is_the_image_network_at_first_and_relates_frames_afterwards(name):
    model = systems()[name].build("tiny").eval()
    call = tiny_call(model)
    out = model(**call)
    assert out.shape == (*call["x"].shape[:2], model.config["out_channels"], *call["x"].shape[3:])
    if systems()[name].starts_as_image:
        with model.temporal_off():
            assert relative(out, model(**call)) < 1e-5
    perturb(model)
    before = model(**call)
    call["x"][0, 0] += 1
    moved = (model(**call) - before).abs().amax((2, 3, 4))
    assert (moved[0] > 0).all()
    assert (moved[1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_training_step_moves_only_temporal_weights_when_the_rest_is_frozen(name):
    from kineograph.temporal.tags import train_only

    model = perturb(systems()[name].build("tiny")).train()
    if not temporal_state_dict(model.unet):
        pytest.skip("needs no training")
    model.enable_gradient_checkpointing()
    optimizer = torch.optim.SGD(train_only(model, ["temporal"]), lr=1.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(**tiny_call(model)).square().mean().backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all(".temporal." in key for key in moved)
    assert len(moved) > 0.9 * sum(".temporal." in key for key in before)


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_no_gradient(name):
    model = perturb(systems()[name].build("tiny")).eval()
    call = tiny_call(model)

    def gradients():
        model.zero_grad()
        model(**call).square().mean().backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.enable_gradient_checkpointing()
    found = gradients()
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert set(found) == set(expected)
    assert all((found[key] - expected[key]).abs().max() < 1e-5 * largest for key in expected)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_saved_network_gives_the_same_output(name, tmp_path):
    model = perturb(systems()[name].build("tiny")).eval()
    model.save_pretrained(tmp_path)
    call = tiny_call(model)
    assert torch.equal(VideoUNet.from_pretrained(tmp_path)(**call), model(**call))


@pytest.mark.parametrize("name", NAMES)
def test_given_image_network_is_inflated_in_place(name):
    system = systems()[name]
    image = strip(system.build("tiny").unet)
    model = system.build("tiny", image)
    assert model.unet is image
    assert bool(temporal_state_dict(image)) is bool(model.plan.placements)


def test_public_face_lists_the_registry():
    from kineograph import systems as package_or_function

    assert list(kg.systems()) == list(package_or_function()) == NAMES
    import kineograph.systems

    assert isinstance(kineograph.systems(), Registry)
    assert systems().find("ModelScope").name == "modelscope"
    assert systems().find("SVD").name == "stable_video_diffusion"
    with pytest.raises(InputError, match="did you mean 'modelscope'"):
        systems().find("modelscop")
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        systems()["modelscope"].build("tini")
    assert "modelscop" not in systems()
