import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.manifold import neighbour_distance, precision_recall


def direct(fake, real, k):
    radius = lambda z: [sorted(float((a - b).norm()) for b in z)[k] for a in z]
    r_real, r_fake = radius(real), radius(fake)
    near = [[float((f - r).norm()) for r in real] for f in fake]
    inside = [[d <= r_real[j] for j, d in enumerate(row)] for row in near]
    return {
        "precision": sum(any(row) for row in inside) / len(fake),
        "recall": sum(any(near[i][j] <= r_fake[i] for i in range(len(fake))) for j in range(len(real))) / len(real),
        "density": sum(map(sum, inside)) / (k * len(fake)),
        "coverage": sum(any(inside[i][j] for i in range(len(fake))) for j in range(len(real))) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_equals_the_definition(k):
    fake, real = torch.randn(25, 4, dtype=torch.float64) * 0.7 + 0.4, torch.randn(30, 4, dtype=torch.float64)
    result = precision_recall(fake, real, k)
    for name, value in direct(fake, real, k).items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-12)
        assert result.samples[name].mean().item() == pytest.approx(value, abs=1e-12)


def test_mode_collapse_lowers_recall_and_coverage_not_precision():
    real = torch.randn(200, 3, dtype=torch.float64)
    result = precision_recall(real[:1] + 1e-3 * torch.randn(200, 3, dtype=torch.float64), real)
    assert result.precision == 1
    assert result.recall < 0.05
    assert result.coverage < 0.2


def test_neighbour_distance():
    assert torch.allclose(
        neighbour_distance(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [2.0]])),
        torch.tensor([1.0, 3.0]).double(),
    )


def test_too_few_samples_are_explained():
    with pytest.raises(InputError, match="more than 5 samples"):
        precision_recall(torch.zeros(5, 2), torch.zeros(9, 2))
