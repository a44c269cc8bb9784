"""Systems without a diffusers class: published parameter counts on the meta device."""

import pytest
import torch

from kineograph.systems import systems
from kineograph.temporal.inflate import temporal_state_dict

TEMPORAL = {
    ("align_your_latents", "published"): 656.1,
    ("align_your_latents", "sd1"): 649.7,
    ("zeroscope", "xl"): 545.3,
}
"""Millions. Align your Latents prints 656 M and 649 M (arXiv:2304.08818, appendix)."""


TOTAL = {
    ("videocrafter", "v1"): 1144.5,
    ("videocrafter", "v2"): 1413.3,
    ("videocrafter", "i2v"): 1438.8,
    ("show1", "base"): 1726.8,
    ("show1", "latent"): 1411.2,
}
"""Millions, as the authors' code has them (VideoCrafter 11bcd76f; Show-1's latent network is ModelScopeT2V's)."""


@pytest.mark.parametrize(("name", "preset"), TEMPORAL)
def test_temporal_parameters(name, preset):
    with torch.device("meta"):
        model = systems()[name].build(preset)
    count = sum(value.numel() for value in temporal_state_dict(model.unet).values())
    assert round(count / 1e6, 1) == TEMPORAL[name, preset]


@pytest.mark.parametrize(("name", "preset"), TOTAL)
def test_all_parameters(name, preset):
    with torch.device("meta"):
        model = systems()[name].build(preset)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == TOTAL[name, preset]
