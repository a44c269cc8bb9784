"""Control networks for clips; equality with diffusers: tests/parity/test_sparsectrl.py."""

import pytest
import torch
from tiny_svd import perturbed

from kineograph.errors import InputError
from kineograph.models.sparse_control import place_frames
from kineograph.systems.sparsectrl import PRESETS, build


def test_starts_from_an_image_network_and_steers_nothing_at_first():
    from kineograph.systems import systems

    video = systems()["animatediff"].build("tiny").eval()
    control = build(PRESETS["tiny"], systems()["animatediff"].build("tiny").unet.__class__.from_config(video.config))
    assert control.control.config["conditioning_channels"] == 5
    x, context = torch.randn(1, 3, 4, 8, 8), torch.randn(1, 5, 32)
    condition, mask = place_frames(torch.randn(1, 1, 4, 8, 8), [1], 3)
    with torch.no_grad():
        down, middle = control.eval()(x, 500, context, condition, mask)
        plain = video(x, 500, context)
        assert torch.equal(video(x, 500, context, down_residuals=down, mid_residual=middle), plain)
        perturbed(control)
        down, middle = control(x, 500, context, condition, mask)
        steered = video(x, 500, context, down_residuals=down, mid_residual=middle)
        assert (steered - plain).abs().amax((0, 2, 3, 4)).min() > 1e-4  # all frames, also those without a condition


def test_wrong_conditions_say_so():
    control = build(PRESETS["tiny"])
    with pytest.raises(InputError, match=r"a condition is \(1, 3, 4, 8, 8\)"):
        control(
            torch.zeros(1, 3, 4, 8, 8), 1, torch.zeros(1, 2, 32), torch.zeros(1, 2, 4, 8, 8), torch.zeros(1, 3).bool()
        )
    with pytest.raises(InputError, match="as many different numbers"):
        place_frames(torch.zeros(1, 2, 4, 8, 8), [0, 0], 3)
    with pytest.raises(InputError, match="from -3 to 2"):
        place_frames(torch.zeros(1, 1, 4, 8, 8), [3], 3)
