"""Key maps."""

import pytest
import torch

from kineograph.errors import WeightsError
from kineograph.systems import systems
from kineograph.systems.keys import KeyMap, PositionTable, nest

ORIGINAL_TOP = ("input_blocks", "middle_block", "output_blocks", "time_embed", "out", "init_attn", "fps_embedding")
MAP = KeyMap(
    pairs=nest([("down.{i}.temp.{j}.", "down.{i}.res.{j}.temporal.")], [("to_q.", "query."), ("norm", "norm")]),
    tables=(PositionTable(beside="to_q.weight", name="table", frames=5),),
)


def weights(*keys):
    return {key: torch.full((6, 6), float(n)) for n, key in enumerate(keys)}


def test_renames_both_ways():
    theirs = weights("down.3.temp.12.to_q.weight", "down.0.temp.1.norm1.bias", "down.0.res.1.conv.weight")
    ours = MAP.to_ours(theirs)
    assert list(ours) == ["down.3.res.12.temporal.query.weight", "down.0.res.1.temporal.norm1.bias", *list(theirs)[2:]]
    back = MAP.to_theirs(ours)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


def test_position_tables_are_dropped_and_made():
    assert not MAP.to_ours(weights("down.0.temp.1.table"))
    made = MAP.to_theirs(weights("down.0.res.1.temporal.query.weight"))
    assert made["down.0.temp.1.table"].shape == (1, 5, 6)


def test_unknown_keys_are_an_error_where_the_map_is_complete():
    complete = KeyMap(MAP.pairs, rest="error", what="toy")
    with pytest.raises(WeightsError, match=r"1 of 2 keys are not known in the toy layout.*stranger"):
        complete.to_ours(weights("down.0.temp.1.to_q.weight", "stranger"))


def test_collisions_are_an_error():
    with pytest.raises(WeightsError, match="map to one"):
        MAP.to_ours(weights("down.0.temp.1.to_q.weight", "down.0.res.1.temporal.query.weight"))


@pytest.mark.parametrize("name", ["modelscope", "videocrafter"])
def test_original_layouts_are_bijections(name):
    model = systems()[name].build("tiny")
    keys, weights = systems()[name].key_maps["original"](model.config), model.unet.state_dict()
    theirs = keys.to_theirs(weights)
    assert len(theirs) == len(weights)
    assert all(key.split(".")[0] in ORIGINAL_TOP for key in theirs)
    back = keys.to_ours(theirs)
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    with pytest.raises(WeightsError, match="stranger"):
        keys.to_ours({**theirs, "stranger.weight": torch.zeros(1)})
