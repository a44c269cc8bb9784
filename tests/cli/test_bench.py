"""`kineograph bench`: the timing parts, and one real comparison on the small size."""

import json
import statistics
import time
from functools import partial

import pytest
import torch

from kineograph import cli
from kineograph.cli import _timing, bench
from kineograph.cli._timing import Timing


def test_rivals_take_turns_and_change_places():
    calls = []
    timings = _timing.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_median_spread_and_ratio():
    timing = Timing((4.0, 1.0, 2.0, 3.0, 5.0))
    assert timing.median == 3.0
    assert timing.spread == pytest.approx(2 / 3)
    assert Timing((1.0, 9.0)).spread == 0.0
    assert _timing.ratio(Timing((2.0,)), Timing((3.0,))) == 1.5
    slow_later = Timing((1.0, 1.0, 4.0, 5.0, 4.0)), Timing((2.0, 2.0, 8.0, 5.0, 8.0))
    assert _timing.ratio(*slow_later) == 2


def test_seconds_are_wall_clock():
    assert _timing.seconds_of(lambda: time.sleep(0.05)) >= 0.05


@pytest.mark.parametrize("shape", [(3, 5, 7), (16, 4, 8)])
def test_operations_of_a_matrix_product_are_counted(shape):
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    assert _timing.floating_point_operations(lambda: left @ right) == 2 * rows * inner * columns


def test_operations_of_attention_are_counted():
    q = torch.randn(1, 2, 6, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert _timing.floating_point_operations(lambda: attend(q, q, q)) == 2 * (2 * 2 * 6 * 6 * 4)


def test_the_ceiling_is_a_rate():
    assert 1e6 < _timing.matmul_ceiling("float32", "cpu", size=64, rounds=3) < 1e15


TINY = bench.Size(channels=(32, 32), layers=1, context_dim=8, tokens=3, frames=3, latent=4, head_dim=8, sample_steps=2)


@pytest.fixture(scope="module")
def pair():
    return bench.Pair.build(TINY, "cpu")


def test_both_networks_do_the_same_work(pair):
    assert pair.difference < 1e-5
    count = [sum(p.numel() for p in network.parameters()) for network in (pair.ours, pair.theirs)]
    assert count[0] == count[1]


def test_both_sampling_loops_give_the_same_clip(pair):
    with torch.inference_mode():
        ours, theirs = bench._our_sampler(pair)(), bench._their_sampler(pair)().transpose(1, 2)
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-4


def test_a_training_step_changes_only_its_own_copy(pair):
    before = [p.clone() for p in pair.ours.parameters()]
    bench._training_step(pair, pair.ours, lambda network, x, t, c: network(x, t, c), "float32")()
    assert all(torch.equal(a, b) for a, b in zip(before, pair.ours.parameters(), strict=True))


def test_the_command_reports_rates_against_the_ceiling(capsys, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setattr(bench, "matmul_ceiling", partial(_timing.matmul_ceiling, size=64))
    assert cli.main(["bench", "--quick", "--rounds", "1", "--parts", "step", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output_difference"] < 1e-5
    for result in document["results"]:
        ours, ceiling = result["ours"], document["ceiling_flops"][result["dtype"]]
        assert ours["flops"] == pytest.approx(result["operations"] / ours["median_seconds"])
        assert ours["share_of_ceiling"] == pytest.approx(ours["flops"] / ceiling)
        rounds = zip(ours["seconds"], result["theirs"]["seconds"], strict=True)
        assert result["ratio"] == pytest.approx(statistics.median(b / a for a, b in rounds))
        assert isinstance(result["unsteady"], list)
    assert "denoising step" in bench._text({**document, "size": TINY})
    assert set(document["load"]) >= {"believable", "verdict", "share_of_others", "load_average_before"}
    document["load"]["verdict"] = "Do not believe these numbers: too busy."
    assert bench._text({**document, "size": TINY}).endswith("too busy.")


@pytest.mark.parametrize(
    ("words", "named"), [(["--rounds", "0"], "--rounds"), (["--parts", "stp"], "step"), (["--parts"], "--parts")]
)
def test_wrong_requests_are_refused(capsys, words, named):
    assert cli.main(["bench", *words]) == 2
    assert named in capsys.readouterr().err
