import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.classifier_score import inception_score, inception_score_splits


def test_one_hot_predictions_give_the_number_of_classes():
    assert inception_score(torch.eye(10).repeat(3, 1)) == pytest.approx(10, rel=1e-12)


def test_uniform_predictions_give_one():
    assert inception_score(torch.full((5, 7), 1 / 7)) == pytest.approx(1, abs=1e-7)


def test_torch_fidelity_agrees():
    """torch-fidelity 0.4.0, isc_features_to_metric without shuffle, on these logits."""
    r = np.random.RandomState(7)
    r.randn(300 * 64 + 250 * 64)
    p = torch.from_numpy(r.randn(200, 10) * 2).softmax(1)
    assert inception_score(p) == pytest.approx(2.700538016882265, rel=1e-12)
    splits = inception_score_splits(p, 7)
    assert splits.mean().item() == pytest.approx(2.585850368360601, rel=1e-12)
    assert splits.std(correction=0).item() == pytest.approx(0.25013902814156375, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all extracted features")
def test_torchmetrics_agrees_where_chunks_are_equal():
    from torchmetrics.image.inception import InceptionScore

    class Identity(torch.nn.Module):
        num_features = 10

        def forward(self, x):
            return x

    logits = torch.randn(50, 10)
    metric = InceptionScore(feature=Identity(), splits=2)
    metric.update(logits)
    torch.manual_seed(1)
    mean, spread = metric.compute()
    torch.manual_seed(1)
    splits = inception_score_splits(logits[torch.randperm(50)].double().softmax(1), 2)
    assert splits.mean().item() == pytest.approx(mean.item(), rel=1e-5)
    assert splits.std().item() == pytest.approx(spread.item(), rel=1e-4)


def test_more_splits_cap_the_score():
    """A perfect classifier of 101 classes, 64 samples: at most the samples of a split."""
    p = torch.eye(101, dtype=torch.float64)[torch.arange(64)]
    assert inception_score(p) == pytest.approx(64)
    assert inception_score(p, splits=10) == pytest.approx(6.4)


def test_underflow_is_zero_not_nan():
    logs = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]], dtype=torch.float64)
    assert inception_score_splits(logs.exp()).item() == pytest.approx(2)


@pytest.mark.parametrize(
    ("p", "splits", "message"),
    [
        (torch.tensor([[0.7, 0.7]]), 1, "summing to 1"),
        (torch.tensor([[1.5, -0.5]]), 1, "not negative"),
        (torch.eye(2), 3, "allowed: 1 to 2"),
    ],
)
def test_bad_probabilities_are_explained(p, splits, message):
    with pytest.raises(InputError, match=message):
        inception_score(p, splits)
