"""Surgery: promise 1, untouched spatial keys, weights apart, and a frame count that never gets lost."""

import copy
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from tiny import FAMILIES, TEXT, inputs, perturb, relative, unequal_clip

from kineograph.errors import InputError, WeightsError
from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.frames import Clip, clip_of
from kineograph.temporal.inflate import (
    inflate,
    load_temporal_state_dict,
    spatial_state_dict,
    strip,
    temporal_state_dict,
)
from kineograph.temporal.plan import Placement, Plan
from kineograph.temporal.tags import describe_parameters, train_only

EVERYWHERE = Plan(
    (
        Placement("conv_in", "temporal_transformer", {"num_heads": 2, "head_dim": 4}),
        Placement("resnet", "temporal_convolution", {"norm_groups": 4, "dropout": 0.0}),
        Placement("attention", "temporal_transformer", {"norm_groups": 4, "head_dim": 8}),
    )
)
SKIPPING = Plan(EVERYWHERE.placements, single_frame="skip")


def image_output(unet, x, **conditions):
    """Return the image network's output, one frame at a time."""
    return torch.stack([VideoUNet(unet)(x[:, f : f + 1], **conditions)[:, 0] for f in range(x.shape[1])], 1)


def video(family="sd2", plan=EVERYWHERE):
    """Return an inflated network with every parameter perturbed."""
    return VideoUNet(perturb(inflate(FAMILIES[family].build(), plan))).eval()


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_fresh_video_network_equals_image_network_on_every_frame(name):
    family = FAMILIES[name]
    unet, call = perturb(family.build()), inputs(family)
    expected = image_output(unet, **call)
    model = VideoUNet(unet, EVERYWHERE)
    assert relative(model(**call), expected) < 1e-5
    for key, parameter in unet.named_parameters():
        if key.endswith(("leave.weight", "stages.3.conv.weight")):
            parameter.normal_(std=0.5)  # not a constant, which the LayerNorm of a transformer would take away
    assert relative(model(**call), expected) > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_trained_network_with_time_off_equals_image_network(name):
    family = FAMILIES[name]
    unet = perturb(inflate(family.build(), SKIPPING))
    model, call = VideoUNet(unet), inputs(family)
    plain = family.build()
    plain.load_state_dict(spatial_state_dict(unet), strict=True)
    expected = image_output(plain, **call)
    assert relative(model(**call), expected) > 1e-2
    with model.temporal_off():
        assert relative(model(**call), expected) < 1e-5
    assert relative(image_output(unet, **call), expected) < 1e-5
    assert relative(VideoUNet(strip(unet))(**call), expected) < 1e-5


def test_spatial_keys_are_untouched_and_temporal_keys_are_marked():
    plain = FAMILIES["sd1"].build()
    keys, attention_processors = set(plain.state_dict()), set(plain.attn_processors)
    unet = inflate(FAMILIES["sd1"].build(), EVERYWHERE)
    assert set(spatial_state_dict(unet)) == keys
    assert all(".temporal." in key for key in temporal_state_dict(unet))
    assert set(unet.attn_processors) == attention_processors
    assert set(strip(unet).state_dict()) == keys
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


@torch.no_grad()
def test_trailing_images_pass_by():
    model, call = video(), inputs(FAMILIES["sd2"], frames=5)
    mixed = model(**call, num_images=2)
    x = call.pop("x")
    assert relative(mixed[:, :3], model(x[:, :3], **call)) < 1e-5
    with model.temporal_off():
        assert relative(mixed[:, 3:], model(x[:, 3:], **call)) < 1e-5


def test_deep_copies_are_independent():
    model = video()
    twin, call = copy.deepcopy(model), inputs(FAMILIES["sd2"])
    with torch.no_grad():
        before = model(**call)
        for value in temporal_state_dict(twin.unet).values():
            value.zero_()
        assert torch.equal(model(**call), before)
        assert relative(twin(**call), before) > 1e-2


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {key: parameter.grad.clone() for key, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_no_gradient(name):
    model, call = video(name), inputs(FAMILIES[name])
    model.train()
    torch.manual_seed(1)  # DiT drops labels at random in training
    expected = gradients(model, model(**call).square().mean())
    model.unet.enable_gradient_checkpointing()
    torch.manual_seed(1)
    found = gradients(model, model(**call).square().mean())
    assert all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-7) for key in expected)


def test_checkpoints_remember_their_frame_count():
    """Clips of 2 and 6 frames go forward before either goes backward: shapes agree, only the grouping differs."""
    model = video()
    call = inputs(FAMILIES["sd2"], frames=6, batch=1)
    x, conditions = call.pop("x"), call
    regroup = dict(conditions, timestep=torch.tensor(7), context=conditions["context"].expand(3, -1, -1))

    def losses():
        long = model(x, **conditions).square().mean()
        short = model(x.reshape(3, 2, *x.shape[2:]), **regroup).square().mean()
        return long, short

    expected = [gradients(model, loss) for loss in losses()]
    model.enable_gradient_checkpointing()
    found = [gradients(model, loss) for loss in losses()]
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.allclose(ours[key], theirs[key], rtol=1e-4, atol=1e-7) for key in theirs)
    assert any(not torch.allclose(expected[0][key], expected[1][key], rtol=1e-2) for key in expected[0])


def test_temporal_activations_are_not_kept_under_checkpointing():
    model, call = video(), inputs(FAMILIES["sd2"])

    def kept():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(**call)
        return sum(sizes)

    plain = kept()
    model.enable_gradient_checkpointing()
    assert kept() < plain / 2


def test_threads_do_not_share_a_frame_count():
    """Two threads, one model, clips of 2 and 3 frames in one folded shape, forward and checkpointed backward."""
    model = video()
    model.enable_gradient_checkpointing()
    x, context = unequal_clip(6, 1), torch.randn(1, 5, TEXT)

    def gradient(frames):
        clips = x.reshape(6 // frames, frames, *x.shape[2:]).clone().requires_grad_()
        out = model(clips, 7, context.expand(6 // frames, -1, -1))
        return torch.autograd.grad(out.square().mean(), clips)[0].flatten()

    expected = {frames: gradient(frames) for frames in (2, 3)}
    assert relative(expected[2], expected[3]) > 1e-3
    wrong, start = [], threading.Barrier(2)

    def work(frames):
        start.wait()
        wrong.extend(frames for _ in range(6) if relative(gradient(frames), expected[frames]) > 1e-4)

    threads = [threading.Thread(target=work, args=(frames,)) for frames in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_backward_in_another_thread():
    """Autograd engines of accelerators run backward, and with it recomputation, in threads of their own."""
    model = video()
    call = inputs(FAMILIES["sd2"])
    expected = gradients(model, model(**call).square().mean())
    model.enable_gradient_checkpointing()
    model.zero_grad()
    thread = threading.Thread(target=model(**call).square().mean().backward)
    thread.start()
    thread.join()
    found = {key: p.grad for key, p in model.named_parameters()}
    assert all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-7) for key in expected)


def test_lora_of_the_image_model_still_loads():
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out"])
    plain = perturb(FAMILIES["sd2"].build())
    weights = copy.deepcopy(plain.state_dict())
    plain.add_adapter(config)
    perturb(plain, seed=3)
    lora = get_peft_model_state_dict(plain)
    plain_weights = {k.replace(".base_layer", ""): v for k, v in plain.state_dict().items() if ".lora_" not in k}

    unet = FAMILIES["sd2"].build()
    unet.load_state_dict(weights)
    inflate(unet, EVERYWHERE).add_adapter(config)
    assert not any(".temporal." in key for key in get_peft_model_state_dict(unet))
    unset = set_peft_model_state_dict(unet, lora)
    assert not unset.unexpected_keys
    base = {k.replace(".base_layer", ""): k for k in unet.state_dict() if ".lora_" not in k and ".temporal." not in k}
    unet.load_state_dict({base[k]: v for k, v in plain_weights.items()}, strict=False)
    call = inputs(FAMILIES["sd2"])
    with torch.no_grad():
        assert relative(VideoUNet(unet.eval())(**call), image_output(plain.eval(), **call)) < 1e-5


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    model, call = video(), inputs(FAMILIES["sd2"])
    with torch.no_grad():
        expected = model(**call)
        assert relative(torch.compile(model, backend="eager", fullgraph=True)(**call), expected) < 1e-5


def test_temporal_weights_move_and_misfits_are_named():
    source, target = video(), VideoUNet(FAMILIES["sd2"].build(), EVERYWHERE)
    weights = temporal_state_dict(source.unet)
    load_temporal_state_dict(target.unet, weights)
    assert all(torch.equal(value, weights[key]) for key, value in temporal_state_dict(target.unet).items())
    first, second, third, *_ = weights
    broken = {k: v for k, v in weights.items() if k != first} | {
        "extra.temporal.weight": torch.zeros(1),
        second: torch.zeros(3),
        third: torch.full_like(weights[third], torch.nan),
    }
    with pytest.raises(WeightsError) as error:
        load_temporal_state_dict(target.unet, broken)
    for part in (first, "extra.temporal.weight", f"{second} [3] instead of", third, "NaN"):
        assert part in str(error.value)


def test_tags_choose_what_trains():
    model = video()
    chosen = train_only(model, ["temporal"])
    assert {id(p) for p in chosen} == {id(p) for k, p in model.named_parameters() if ".temporal." in k}
    assert not any(p.requires_grad for k, p in model.named_parameters() if ".temporal." not in k)
    assert describe_parameters(model).endswith("(temporal)")
    with pytest.raises(InputError, match="did you mean 'temporal'"):
        train_only(model, ["temporel"])


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ([Placement("resnet", "temporal_convolutions")], "did you mean 'temporal_convolution'"),
        ([Placement("attention", "temporal_transformer", parts=())], "has no 'attention'"),
        ([Placement("resnet", "temporal_convolution")] * 2, "meet on one module"),
    ],
)
def test_impossible_plans_are_refused(placements, message):
    with pytest.raises(InputError, match=message):
        inflate(FAMILIES["sd1"].build(), Plan(tuple(placements)))


def test_inflating_twice_is_refused():
    with pytest.raises(InputError, match="strip"):
        inflate(inflate(FAMILIES["sd1"].build(), EVERYWHERE), EVERYWHERE)


def test_folded_batch_that_does_not_split_is_refused():
    unet = inflate(FAMILIES["sd1"].build(), EVERYWHERE)
    with clip_of(Clip(3)), pytest.raises(InputError, match="clips of 3 frames"):
        unet(torch.randn(4, 4, 8, 8), 1, torch.randn(4, 5, TEXT))
    with pytest.raises(InputError, match="not possible"):
        Clip(2, num_images=2)


def test_plan_survives_json():
    assert Plan.from_dict(SKIPPING.to_dict()) == SKIPPING
    with pytest.raises(InputError, match="not a temporal plan"):
        Plan.from_dict({"placements": [{"att": "resnet"}]})
    with pytest.raises(InputError, match="hook point"):
        Placement("resnets", "temporal_convolution")


def test_new_layers_take_mode_type_and_device_of_their_network():
    unet = FAMILIES["sd1"].build().to(torch.bfloat16)
    assert not any(module.training for module in inflate(unet, EVERYWHERE).modules())
    assert {value.dtype for value in temporal_state_dict(unet).values()} == {torch.bfloat16}
    assert all(module.training for module in inflate(FAMILIES["sd1"].build().train(), EVERYWHERE).modules())
