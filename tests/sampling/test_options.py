"""Options: the model's own where none is given, limits in the words of the flags, precision."""

import re
from types import SimpleNamespace

import pytest
import torch

from kineograph.errors import InputError, KineographError
from kineograph.sampling.options import autocast, check_finite
from kineograph.sampling.wishes import MAX_SEED, check_limits, filled


def test_what_is_not_given_is_the_models_own():
    own = SimpleNamespace(height=64, guidance_scale=4.0)
    assert filled(own, {"height": None, "guidance_scale": 0.0}) == {"height": 64, "guidance_scale": 0.0}


@pytest.mark.parametrize(
    ("options", "seed", "said"),
    [
        ({"num_frames": 9}, 0, "--num-frames must be from 1 to 8, not 9"),
        ({"num_frames": 8}, MAX_SEED + 1, "--seed must be from 0 to 2**63 - 1"),
        ({"num_frames": 8}, -1, "--seed must be from 0 to 2**63 - 1, not -1"),
    ],
)
def test_values_out_of_range_are_named(options, seed, said):
    check_limits({"num_frames": 8}, MAX_SEED, (("num_frames", 1, 8),))
    with pytest.raises(InputError, match=re.escape(said)):
        check_limits(options, seed, (("num_frames", 1, 8),))


def test_precision_is_what_is_asked_for():
    device = torch.device("cpu")
    a = torch.randn(4, 4)
    with autocast(device, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(device, "fp32"):
        assert (a @ a).dtype == torch.float32
    with pytest.raises(InputError, match="fp32"):
        autocast(device, "fp23")


def test_values_that_are_no_numbers_name_the_phase():
    with pytest.raises(KineographError, match="the decoder"):
        check_finite(torch.tensor([1.0, torch.nan]), "the decoder")
