"""ZeroScope: ModelScopeT2V trained further on wide clips with offset noise, and as a video-to-video upscaler.

ModelScope Text-to-Video Technical Report, Wang et al. 2023, arXiv:2308.06571, describes the network; ZeroScope itself
has no paper. Its weights were made with ExponentialML/Text-To-Video-Finetuning.
"""

from __future__ import annotations

from dataclasses import replace

from kineograph.systems.card import Card, Sampling, System
from kineograph.systems.modelscope import PRESETS, ModelScopeConfig, build, diffusers_keys

CARD = Card(
    title="ZeroScope v2 576w and XL",
    authors="Spencer Sterling (cerspense)",
    year=2023,
    arxiv="",
    code="https://github.com/ExponentialML/Text-To-Video-Finetuning",
    code_license="MIT",
    weights_license="CC-BY-NC-4.0",
    adds=(
        "ModelScopeT2V's layers, trained on 9,923 clips and 29,769 frames of 576x320 and 24 frames.",
        "Its authors trained with offset noise of strength 0.1, so that clips may be dark or bright as a whole.",
        "A second set of weights for 1024x576, used as video to video on the first one's clips.",
    ),
    differs=("Training here draws no offset noise.",),
)


def _sized(height: int, width: int) -> ModelScopeConfig:
    """Return ModelScopeT2V for a picture size in pixels."""
    published = PRESETS["published"]
    return replace(published, image={**published.image, "sample_size": (height // 8, width // 8)})


SYSTEM = System(
    name="zeroscope",
    card=CARD,
    config=ModelScopeConfig,
    presets={"576w": _sized(320, 576), "xl": _sized(576, 1024), "tiny": PRESETS["tiny"]},
    builder=build,
    key_maps={"diffusers": diffusers_keys},
    sampling=Sampling(guidance=9.0, frames=24, height=320, width=576),
)
