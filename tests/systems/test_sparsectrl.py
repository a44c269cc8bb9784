"""Sizes and folders of SparseCtrl; equality with diffusers: tests/parity/test_sparsectrl.py."""

import pytest
import torch
from diffusers import SparseControlNetModel

from kineograph.errors import WeightsError
from kineograph.systems.sparsectrl import PRESETS, build, load_sparsectrl


def test_published_networks_have_the_parameters_of_diffusers():
    for name in ("rgb", "scribble"):
        with torch.device("meta"):
            ours = build(PRESETS[name])
            theirs = SparseControlNetModel(
                conditioning_channels=PRESETS[name].picture_channels,
                use_simplified_condition_embedding=PRESETS[name].latents,
            )
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no control network"):
        load_sparsectrl(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    with pytest.raises(WeightsError, match="not a SparseControlNetModel"):
        load_sparsectrl(tmp_path)
