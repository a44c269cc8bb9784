"""Every field of diffusers' configurations is read, fixed or refused by name."""

import inspect

import diffusers
import pytest

from kineograph.errors import WeightsError
from kineograph.models.config_fields import AS, FIXED, READ, check_fields


@pytest.mark.parametrize("name", list(READ))
def test_every_argument_of_the_class_is_known(name):
    arguments = set(list(inspect.signature(getattr(diffusers, name).__init__).parameters)[1:])
    assert arguments == {*READ[name], *FIXED.get(name, {}), *AS.get(name, {})}


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("UNet3DConditionModel", {"act_fn": "gelu"}, "act_fn='gelu'; only 'silu' or 'swish'"),
        ("UNetMotionModel", {"act_fn": "mish"}, "act_fn='mish'"),
        ("UNetMotionModel", {"mid_block_layers": 2}, "only 1 is built in"),
        ("UNetMotionModel", {"encoder_hid_dim": 16}, "encoder_hid_dim=16"),
        (
            "UNetMotionModel",
            {"transformer_layers_per_mid_block": 2, "transformer_layers_per_block": [2, 1]},
            "only that of transformer_layers_per_block",
        ),
        (
            "MotionAdapter",
            {"motion_transformer_layers_per_mid_block": 2, "use_motion_mid_block": True},
            "only that of motion_transformer_layers_per_block",
        ),
        ("MotionAdapter", {"motion_mid_block_layers_per_block": 2}, "motion_mid_block_layers_per_block=2"),
        ("UNetSpatioTemporalConditionModel", {"num_framse": 14}, "did you mean 'num_frames'"),
        ("SparseControlNetModel", {"global_pool_conditions": True}, "global_pool_conditions=True; only False"),
        ("AutoencoderKL", {"latents_mean": [0.1] * 4}, "latents_mean"),
        ("AutoencoderKLTemporalDecoder", {"act_fn": "gelu"}, "act_fn"),
    ],
)
def test_what_nothing_acts_on_is_refused(name, config, said):
    with pytest.raises(WeightsError, match=said):
        check_fields(config, name, "folder")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("UNet3DConditionModel", {"act_fn": "swish", "_diffusers_version": "0.15", "sample_size": 32}),
        ("UNetMotionModel", {"transformer_layers_per_mid_block": None, "act_fn": "silu", "old_switch": False}),
        ("UNetMotionModel", {"transformer_layers_per_mid_block": 10, "transformer_layers_per_block": [1, 2, 10]}),
        ("MotionAdapter", {"motion_transformer_layers_per_mid_block": [2], "use_motion_mid_block": False}),
    ],
)
def test_what_changes_nothing_passes(name, config):
    check_fields(config, name, "folder")
