import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.frechet import (
    frechet_distance,
    frechet_from_moments,
    frechet_from_statistics,
    frechet_influence,
)
from kineograph.metrics.moments import Moments

PUBLISHED_FEATURES = np.random.RandomState(7)


def features(n, d, seed=0, scale=1.0, shift=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    spectrum = (4 / (1 + torch.arange(d, dtype=torch.float64))).sqrt()
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * spectrum * scale + shift).to(dtype)


def oracle(x, y):
    """Singular values of the feature product by LAPACK's gesvd, no QR, no Cholesky."""
    import scipy.linalg

    a, b = ((z - z.mean(0)).numpy() / (len(z) - 1) ** 0.5 for z in (x, y))
    if min(len(a), len(b)) > a.shape[1]:
        a, b = (scipy.linalg.qr(z, mode="r")[0][: z.shape[1]] for z in (a, b))
    values = scipy.linalg.svd(a @ b.T, compute_uv=False, lapack_driver="gesvd")
    return ((x.mean(0) - y.mean(0)) ** 2).sum().item() + (a**2).sum() + (b**2).sum() - 2 * values.sum()


@pytest.mark.parametrize("d", [16, 400])
@pytest.mark.parametrize("n", [2, 16, 256, 4096])
def test_equals_the_oracle(n, d):
    x, y = features(n, d, 1), features(n, d, 2, 1.1, 0.05)
    expected = oracle(x, y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [2, 16, 256])
def test_equals_the_oracle_at_the_size_of_inception_features(n):
    x, y = features(n, 2048, 1), features(n, 2048, 2, 1.1, 0.05)
    assert frechet_distance(x, y) == pytest.approx(oracle(x, y), rel=1e-9)


@pytest.mark.slow
def test_equals_the_oracle_at_the_size_of_inception_features_and_4096_samples():
    x, y = features(4096, 2048, 1), features(4096, 2048, 2, 1.1, 0.05)
    assert frechet_distance(x, y) == pytest.approx(oracle(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 9, 16), (64, 20, 16), (300, 40, 64), (200, 200, 30)])
def test_moments_alone_give_the_same_distance(n, m, d):
    x, y = features(n, d, 3), features(m, d, 4, 0.7, 0.1)
    assert frechet_from_moments(Moments.of(x), Moments.of(y)) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_scaled_gaussians_have_the_closed_form():
    x = features(5000, 6, 5)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    assert frechet_distance(3 * x, 5 * x) == pytest.approx(6 * (3 - 5) ** 2, rel=1e-10)


def test_pytorch_fid_closed_form():
    """tests/test_fid_score.py of pytorch-fid: means 0 and 1, unit covariances, 2048 dimensions."""
    eye = torch.eye(2048)
    assert frechet_from_statistics(torch.zeros(2048), eye, torch.ones(2048), eye) == pytest.approx(2048, rel=1e-12)


def test_torch_fidelity_and_torchmetrics_agree():
    """torch-fidelity 0.4.0, fid_statistics_to_metric, on these features: 11.252783548842473."""
    from torchmetrics.image.fid import _compute_fid

    r = np.random.RandomState(7)
    x = r.randn(300, 64) * np.linspace(2, 0.1, 64)
    y = r.randn(250, 64) * np.linspace(1.5, 0.2, 64) + 0.1
    value = frechet_distance(x, y)
    assert value == pytest.approx(11.252783548842473, rel=1e-12)
    a, b = (torch.from_numpy(z) for z in (x, y))
    assert value == pytest.approx(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item(), rel=1e-9)


def test_rotation_leaves_the_distance():
    x, y = features(50, 20, 6), features(70, 20, 7, 1.3)
    rotation = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(frechet_distance(x, y), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(8, 64), (640, 64), (2, 3)])
def test_distance_to_itself_is_zero(n, d):
    x = features(n, d, 8)
    assert 0 <= frechet_distance(x, x) <= 1e-12 * x.var(0).sum()


def test_population_covariance_is_the_convention_of_stylegan():
    x, y = features(10, 4, 9), features(10, 4, 10, 2.0)
    scale = 9 / 10
    centred = frechet_distance(x - x.mean(0), y - y.mean(0))
    assert frechet_distance(x - x.mean(0), y - y.mean(0), ddof=0) == pytest.approx(scale * centred, rel=1e-10)


def test_repeating_samples_adds_no_information():
    x, y = features(40, 30, 11), features(40, 30, 12)
    assert frechet_distance(x.repeat(8, 1), y, ddof=0) == pytest.approx(frechet_distance(x, y, ddof=0), rel=1e-9)


def test_influence_is_the_derivative_by_weight():
    x, y = features(12, 20, 13), features(9, 20, 14, 1.2, 0.3)
    distance, influence_x, _ = frechet_influence(x, y)
    assert distance == pytest.approx(frechet_distance(x, y), rel=1e-12)
    step = 1e-5
    for i in (0, 5):
        plus, minus = (_weighted(x, y, i, s) for s in (step, -step))
        assert (plus - minus) / (2 * step) == pytest.approx(influence_x[i].item(), rel=1e-5, abs=1e-6)


def _weighted(x, y, i, step):
    """Distance when sample i carries 1/n + step of the weight, the others sharing the rest; same factor n/(n - 1)."""
    n = len(x)
    weight = torch.full((n,), (1 - step) / n, dtype=torch.float64)
    weight[i] += step
    mean = weight @ x
    a = (x - mean) * (weight * n / (n - 1)).sqrt()[:, None]
    b = (y - y.mean(0)) / (len(y) - 1) ** 0.5
    trace = torch.linalg.svdvals(a @ b.T).sum()
    return ((mean - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * trace).item()


@pytest.mark.parametrize("sizes", [(1,) * 30, (30,), (7, 1, 22), (29, 1)])
def test_streaming_in_any_chunks_gives_the_same_moments(sizes):
    x = features(30, 12, 15, shift=100.0)
    stream = Moments.empty(12)
    for chunk in x.split(sizes):
        stream.update(chunk)
    assert stream.count == 30
    assert torch.allclose(stream.mean, x.mean(0), rtol=1e-12, atol=0)
    assert torch.allclose(stream.covariance(), x.T.cov(), rtol=1e-12, atol=1e-12 * x.var())


def test_merging_in_any_order_gives_the_same_moments():
    parts = [Moments.of(c) for c in features(40, 5, 16).split([3, 17, 20])]
    orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    results = []
    for order in orders:
        total = Moments.empty(5)
        for i in order:
            total.merge(parts[i])
        results.append(total.scatter)
    assert all(torch.allclose(r, results[0], rtol=1e-12, atol=1e-12) for r in results)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 4), "1 sample;"),
        (torch.zeros(0, 4), "0 samples"),
        (torch.zeros(4), "must have shape"),
        (torch.full((3, 4), torch.nan), "NaN or infinite"),
        (torch.zeros(3, 5), "same layer"),
        ("abc", "array or a tensor"),
    ],
)
def test_bad_features_are_explained(x, message):
    with pytest.raises(InputError, match=message):
        frechet_distance(x, torch.zeros(3, 4))


def test_moments_refuse_other_dimensions_and_one_sample():
    with pytest.raises(InputError, match="Cannot merge moments of 3 and 4"):
        Moments.empty(3).merge(Moments.empty(4))
    with pytest.raises(InputError, match="at least 2 samples"):
        Moments.of(torch.ones(1, 3)).covariance()


def test_three_constant_images_give_the_statistics_of_pytorch_fid():
    """pytorch-fid, tests/test_fid_score.py: pixels as features of constant images 0, 1/2 and 1."""
    images = torch.tensor([0.0, 0.5, 1.0])[:, None].expand(3, 3 * 8 * 8)
    moments = Moments.of(images)
    assert torch.equal(moments.mean, torch.full((192,), 0.5, dtype=torch.float64))
    assert torch.equal(moments.covariance(), torch.full((192, 192), 0.25, dtype=torch.float64))
    one_by_one = Moments.empty(192)
    for image in images:
        one_by_one.update(image[None])
    assert torch.allclose(one_by_one.covariance(), moments.covariance(), rtol=1e-12, atol=0)
