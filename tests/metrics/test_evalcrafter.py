import json

import pytest
import torch

from kineograph.errors import DataError, InputError
from kineograph.metrics.evalcrafter import METRICS, PUBLISHED, fit, of_aspect, published_scores, read_prompts, skipped

VALUES = {
    "vqa_a": 60.0, "vqa_t": 50.0, "is": 17.0, "clip_temp": 0.998, "warping_error": 0.01, "face_consistency": 0.99,
    "action_score": 0.7, "motion_ac_score": 0.5, "flow_score": 2.0, "clip_score": 0.2, "blip_bleu": 0.22,
    "sd_score": 0.68, "detection_score": 0.5, "color_score": 0.4, "count_score": 0.5, "ocr_score": 0.6,
    "celebrity_id_score": 0.6,
}  # fmt: skip


def test_seventeen_metrics_with_their_published_order():
    assert len(METRICS) == 17
    assert all(len(of_aspect(aspect)) == len(weights) for aspect, (weights, _) in PUBLISHED.items())
    assert [m.key for m in of_aspect("alignment")][:3] == ["clip_score", "blip_bleu", "sd_score"]


def test_published_scores_by_hand():
    scores = published_scores(VALUES)
    quality = 5 * (0.03004555 * 0.6 + 0.02887537 * 0.5 - 0.01382558 * 0.17 + 0.08707463) * 100
    temporal = 5 * (2.92492244 * 0.998 + 0.45475678 * 0.99 + 0.17561504 * 0.99 - 3.42274051) * 100
    motion = 5 * (-0.01641512 * 0.7 - 0.01340959 * 0.5 - 0.10517075 * 0.02 + 0.12975620) * 100
    assert scores["quality"] == pytest.approx(quality, rel=1e-12)
    assert scores["temporal"] == pytest.approx(temporal, rel=1e-12)
    assert scores["motion"] == pytest.approx(motion, rel=1e-12)
    assert scores["total"] == pytest.approx(sum(scores[a] for a in PUBLISHED), rel=1e-12)


def test_correction_moves_only_the_alignment_intercept():
    published, corrected = published_scores(VALUES), published_scores(VALUES, corrected=True)
    assert corrected["alignment"] - published["alignment"] == pytest.approx(-400 * 0.30683182, rel=1e-9)
    assert corrected["motion"] == published["motion"]


def test_missing_metrics_are_named_not_filled_in():
    with pytest.raises(InputError, match="2 are missing: is needs Inception"):
        published_scores({k: v for k, v in VALUES.items() if k not in ("is", "ocr_score")})
    assert "rapidocr" in skipped(["is"])["ocr_score"]
    assert len(skipped(["is"])) == 16


def test_prompts_with_metadata(tmp_path):
    (tmp_path / "p.txt").write_text("a red cat\n2 dogs\n")
    (tmp_path / "m.json").write_text(json.dumps({"0000": {"attributes": {"color": "red"}}, "0001": {"attributes": {}}}))
    prompts = read_prompts(tmp_path / "p.txt", tmp_path / "m.json")
    assert [p.text for p in prompts] == ["a red cat", "2 dogs"]
    assert prompts[0].attributes == {"color": "red"}
    (tmp_path / "m.json").write_text(json.dumps({"0000": {"attributes": {"colour": "red"}}}))
    with pytest.raises(DataError, match="colour"):
        read_prompts(tmp_path / "p.txt", tmp_path / "m.json")


def ratings(rows=80, noise=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 1]) + 3
    y = 0.5 * x[:, 0] + 0.1 * x[:, 1] + noise * torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, y


@pytest.mark.parametrize("kind", ["nonnegative", "ridge"])
def test_fit_recovers_weights_and_beats_the_plain_mean(kind):
    x, y = ratings()
    result = fit(x, y, kind=kind, resamples=60)
    assert result.weights[:2].tolist() == pytest.approx([0.5, 0.1], rel=0.25)
    assert result.spearman.value > result.spearman_mean.value
    assert result.spearman.low < result.spearman.value < result.spearman.high
    assert result.low[0] < 0.5 < result.high[0]
    assert 0.5 < result.kendall.value < result.spearman.value


def test_nonnegative_fits_never_punish():
    x, y = ratings()
    x[:, 3] = -y + 0.1 * x[:, 3]
    assert fit(x, y, resamples=20).weights.min() >= 0
    assert fit(x, y, kind="ridge", resamples=20).weights[3] < 0


def test_predictions_outside_the_ratings_are_refused():
    x, y = ratings()
    result = fit(x, y, resamples=20)
    assert result.predict(x[:3]).shape == (3,)
    with pytest.raises(InputError, match="leave the range"):
        result.predict(x[:1] + 100)
    assert result.predict(x[:1] + 100, extrapolate=True).shape == (1,)


def test_too_few_ratings():
    x, y = ratings(5)
    with pytest.raises(InputError, match="at least 10"):
        fit(x, y)
