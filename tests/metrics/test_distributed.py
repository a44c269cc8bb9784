"""Two processes over gloo with uneven shares give the numbers of one process."""

import subprocess
import sys

import pytest
import torch

from kineograph.metrics import evaluate
from kineograph.metrics.distributed import merge_moments, share
from kineograph.metrics.moments import Moments

WORKER = """
import json, sys, torch
from torch import distributed
from kineograph.metrics import evaluate
from kineograph.metrics.distributed import merge_moments, share
from kineograph.metrics.moments import Moments
torch.set_num_threads(1)
rank, world, file, out = int(sys.argv[1]), 2, sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=world)
x = torch.randn(31, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
own = Moments.empty(5)
for row in share(list(x)):
    own.update(row[None])
total = merge_moments(own)
clips = torch.rand(7, 6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
real = torch.rand(5, 6, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
found = evaluate(clips, real, metrics=["flicker", "psnr"], num_frames=6)
scores = {k: [s.value, s.low, s.high, s.generated] for k, s in found.scores.items()}
with open(out, "w") as f:
    json.dump({"count": total.count, "scatter": total.scatter.tolist(), "scores": scores, "decoded": found.decoded}, f)
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    import json

    folder = tmp_path_factory.mktemp("gloo")
    script = folder / "worker.py"
    script.write_text(WORKER)
    outputs = [folder / f"rank{rank}.json" for rank in range(2)]
    command = lambda rank: [sys.executable, str(script), str(rank), str(folder / "init"), str(outputs[rank])]
    workers = [subprocess.Popen(command(rank)) for rank in range(2)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    return [json.loads(path.read_text()) for path in outputs]


def test_merged_moments_equal_one_pass_on_every_rank(outcomes):
    x = torch.randn(31, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = Moments.of(x)
    for outcome in outcomes:
        assert outcome["count"] == 31
        assert torch.allclose(torch.tensor(outcome["scatter"], dtype=torch.float64), expected.scatter, rtol=1e-12)
    assert outcomes[0]["scatter"] == outcomes[1]["scatter"]


def test_scores_equal_those_of_one_process(outcomes):
    clips = torch.rand(7, 6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    real = torch.rand(5, 6, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = evaluate(clips, real, metrics=["flicker", "psnr"], num_frames=6)
    expected = {k: [s.value, s.low, s.high, s.generated] for k, s in found.scores.items()}
    assert outcomes[0]["scores"] == outcomes[1]["scores"] == expected
    assert outcomes[0]["decoded"] == found.decoded == 12


def test_one_process_needs_no_group():
    assert list(share([1, 2, 3])) == [1, 2, 3]
    moments = Moments.of(torch.eye(3))
    assert merge_moments(moments).count == 3
