import pytest
import torch
from torch.nn import functional

from kineograph.errors import InputError
from kineograph.metrics import consistency, motion, motion_net
from kineograph.metrics.features.weights import load_tensors


def texture(size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size // 4, size // 4, generator=generator)
    return functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[0].clamp(0, 1) * 2 - 1


def moving(dx, frames=6, size=64):
    return torch.stack([texture(size).roll(round(dx * i), -1) for i in range(frames)])


class TestConsistency:
    def test_all_pairs_equals_the_loop(self):
        x = torch.randn(7, 5, dtype=torch.float64)
        unit = functional.normalize(x, dim=1)
        pairs = [float(unit[i] @ unit[j]) for i in range(7) for j in range(i + 1, 7)]
        assert consistency.all_pairs(x) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)

    def test_variants_by_hand(self):
        x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        assert consistency.adjacent(x) == pytest.approx(0, abs=1e-12)
        assert consistency.first(x) == pytest.approx(-0.5)
        assert consistency.all_pairs(x) == pytest.approx(-1 / 3)
        assert consistency.vbench(torch.tensor([[1.0, 0.0], [1.0, 1.0]])) == pytest.approx(0.5**0.5)
        assert consistency.vbench(x) == 0

    def test_one_frame_is_refused(self):
        with pytest.raises(InputError, match="at least two frames"):
            consistency.all_pairs(torch.ones(1, 4))


class TestMotion:
    def test_frozen_clips(self):
        x = moving(0)
        assert motion.flicker(x) == motion.smoothness(x) == 1
        assert motion.mean_flow(x) == pytest.approx(0, abs=1e-6)
        assert motion.dynamic_degree(x, 8) == 0

    def test_flicker_by_hand(self):
        x = torch.stack([torch.full((3, 8, 8), -1.0), torch.full((3, 8, 8), 1.0)])
        assert motion.flicker(x) == 0

    def test_smoothness_of_a_linear_fade_is_one(self):
        x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 8, 8)
        assert motion.smoothness(x) == pytest.approx(1, abs=0.003)

    @pytest.mark.parametrize("dx", [1, 2, 4])
    def test_flow_finds_a_translation(self, dx):
        grey = ((moving(dx) + 1) * 127.5).mean(1)
        flow = motion.lucas_kanade(grey[:-1], grey[1:])[..., 12:-12, 12:-12]
        assert flow[:, 0].median().item() == pytest.approx(dx, abs=0.1 * dx + 0.05)
        assert flow[:, 1].median().item() == pytest.approx(0, abs=0.1)

    def test_dynamic_degree_follows_the_rule(self):
        assert motion.dynamic_degree(moving(4), 8) == 1
        assert motion.dynamic_degree(moving(1), 8) == 0

    def test_warping_error_is_below_the_plain_difference(self):
        x = moving(2)
        plain = ((x[1:] - x[:-1]) / 2).square().mean().item()
        assert motion.warping_error(x) < 0.3 * plain

    def test_one_frame_is_refused(self):
        with pytest.raises(InputError, match="at least 2 frames"):
            motion.flicker(torch.zeros(1, 3, 8, 8))


class TestMotionNet:
    @pytest.fixture(scope="class")
    @classmethod
    def extractor(cls):
        return motion_net.load_motion_net()

    def test_bundled_weights_are_small_and_a_stand_in(self, extractor):
        path = motion_net.files("kineograph") / motion_net.BUNDLED
        assert len(path.read_bytes()) < 3_000_000
        assert extractor.card.standin
        assert len(extractor.card.weights) == 64
        assert all(v.dtype == torch.bfloat16 for v in load_tensors(path).values())

    def test_order_of_frames_matters_to_it(self, extractor):
        x = moving(2, 16)[None]
        features = [extractor(v)["pool"][0] for v in (x, x.flip(1), x[:, [0] * 16])]
        assert features[0].shape == (320,)
        assert all((features[0] - f).norm() > 0.02 * features[0].norm() for f in features[1:])

    def test_batches_do_not_matter(self, extractor):
        x = torch.stack([moving(1, 16), moving(3, 16)])
        both, alone = extractor(x)["pool"], extractor(x[1:])["pool"]
        assert torch.allclose(both[1], alone[0], rtol=1e-4, atol=1e-5)

    def test_training_writes_a_loadable_network(self, tmp_path, monkeypatch):
        bank = [torch.randint(0, 255, (3, 24, 36, 36), dtype=torch.uint8) for _ in range(3)]
        monkeypatch.setattr(motion_net, "read_bank", lambda recipe: bank)
        path = motion_net.train(motion_net.Recipe(tmp_path, tmp_path, minutes=0.001, batch=2))
        extractor = motion_net.load_motion_net(path)
        assert extractor(moving(1, 9)[None])["pool"].isfinite().all()

    def test_changes_keep_the_shape_and_do_what_they_say(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.arange(16.0).view(1, 16, 1, 1).expand(3, 16, 2, 2)
        order = {name: change(x, generator)[0, :, 0, 0].tolist() for name, change in motion_net.CHANGES.items()}
        assert order["reversed"] == list(range(15, -1, -1))
        assert len(set(order["frozen"])) == 1
        assert sorted(order["shuffled"]) == list(range(16)) != order["shuffled"]
        assert order["stutter"][:5] == [0, 0, 0, 0, 4]
