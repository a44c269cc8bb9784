"""Networks in their published layouts with random weights, against outputs of the original code on the same weights.

The expected numbers were computed once by torch-fidelity 0.4.0 (Inception), cd-fvd a1e037a and VideoGPT c6655e8 (I3D),
openai/CLIP and cd-fvd 824b4a4 (VideoMAE v2).
"""

import numpy as np
import pytest
import torch
from PIL import Image

from kineograph.errors import InputError, WeightsError
from kineograph.metrics.features import c3d, clip, i3d, inception, lpips, resize, standins, videomae, weights


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that keep activations of order one through deep networks; every statistic is perturbed."""
    generator = np.random.RandomState(seed)
    state = {}
    for key in sorted(shapes):
        shape = shapes[key]
        noise = generator.randn(*shape).astype(np.float32) if shape else np.float32(0)
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        if key.endswith("running_var"):
            value = 1 + 0.3 * np.tanh(noise)
        elif len(shape) > 1:
            value = noise * np.sqrt(2 / fan_in)
        elif key.endswith("weight"):
            value = 1 + 0.1 * noise
        else:
            value = 0.1 * noise
        state[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return state


def random_pixels(*shape: int, seed: int = 1) -> torch.Tensor:
    """Pixels in [-1, 1] whose frames differ in brightness and contrast."""
    generator = np.random.RandomState(seed)
    x = generator.rand(*shape).astype(np.float32)
    ramp = np.linspace(0.3, 1, shape[1], dtype=np.float32).reshape(1, -1, *([1] * (len(shape) - 2)))
    return torch.from_numpy(2 * x * ramp - 1)


def shapes(network):
    return {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


def save(folder, name, state):
    torch.save(state, folder / name)
    return folder / name


class TestInception:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory):
        state = random_state(shapes(inception.Inception()))
        assert len(state) == 472
        return save(tmp_path_factory.mktemp("inception"), "inception.pth", state)

    CLOSE = 1e-4
    """The frozen values were computed on one processor; on another they were seen 3e-5 apart, in float32."""

    def test_equals_torch_fidelity(self, path):
        extractor = inception.load_inception(path)
        features = extractor(random_pixels(2, 3, 40, 52)[None])
        pool, unbiased, biased = (features[k][0, 1, :4].tolist() for k in extractor.layers)
        assert pool == pytest.approx([0.0, 0.6846338510513306, 1.1558524370193481, 1.3453900814056396], rel=self.CLOSE)
        assert unbiased == pytest.approx([0.17252826690, 2.7965030670, -1.2741730213, 1.7759081125], rel=self.CLOSE)
        assert biased == pytest.approx([0.15339574217, 2.8180553913, -1.0988972187, 1.8183381557], rel=self.CLOSE)
        assert features["pool"].double().abs().mean().item() == pytest.approx(0.960872676939962, rel=self.CLOSE)

    def test_resize_rules_give_different_cards(self, path):
        keys = {rule: inception.load_inception(path, rule).card.key for rule in inception.RESIZES}
        assert len(set(keys.values())) == 4
        with pytest.raises(InputError, match="did you mean 'clean'"):
            inception.load_inception(path, "cleaned")

    def test_another_network_is_refused(self, tmp_path):
        with pytest.raises(WeightsError, match="missing"):
            inception.load_inception(save(tmp_path, "x.pth", {"conv.weight": torch.zeros(3)}))


class TestI3D:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory):
        network = i3d.I3D()
        assert sum(p.numel() for p in network.parameters()) == 12_697_264
        return save(tmp_path_factory.mktemp("i3d"), "i3d.pt", random_state(shapes(network)))

    def test_equals_the_port_at_nine_frames(self, path):
        logits = i3d.load_i3d(path)(random_pixels(1, 9, 3, 60, 80))["logits"]
        expected = [2.353672504425049, -2.6519346237182617, 1.2474324703216553, -3.1296298503875732]
        assert logits[0, :4].tolist() == pytest.approx(expected, rel=1e-5)
        assert logits.double().abs().mean().item() == pytest.approx(1.7050504401279614, rel=1e-5)

    def test_eight_frames_are_too_few(self, path):
        with pytest.raises(InputError, match="at least 9 frames, given 8"):
            i3d.load_i3d(path)(random_pixels(1, 8, 3, 32, 32))

    def test_resize_rules(self, path):
        clips = random_pixels(1, 9, 3, 60, 80)
        prepared = {rule: i3d.RESIZES[rule][0](clips) for rule in i3d.RESIZES}
        assert all(x.shape == (1, 3, 9, 224, 224) and x.abs().max() <= 1 for x in prepared.values())
        assert (prepared["google"] - prepared["squash"]).abs().max() > 0.1
        assert not torch.allclose(prepared["crop"], prepared["squash"])


class TestC3D:
    def test_layout_and_shapes(self):
        with torch.device("meta"):
            network = c3d.C3D()
            outputs = network(torch.zeros(2, 3, 16, 112, 112))
        assert sum(p.numel() for p in network.parameters()) == 78_409_573
        assert outputs["logits"].shape == (2, 101)
        assert outputs["fc7"].shape == (2, 4096)

    def test_preparation_is_bgr_bytes_less_the_mean(self):
        clips = torch.zeros(1, 16, 3, 50, 60)
        clips[:, :, 0] = 1.0
        prepared = c3d._prepare(clips, torch.full((3, 16, 112, 112), 100.0))
        assert prepared.shape == (1, 3, 16, 112, 112)
        assert prepared[0, :, 0, 0, 0].tolist() == [28.0, 28.0, 156.0]

    def test_the_mean_clip_is_checked(self, tmp_path):
        np.savez(tmp_path / "mean2.npz", mean=np.zeros((3, 16, 128, 100), np.float32))
        with pytest.raises(WeightsError, match="array 'mean'"):
            c3d._mean_clip(tmp_path / "mean2.npz")


CLIP_SHAPES = {
    "positional_embedding": (12, 64),
    "text_projection": (64, 24),
    "token_embedding.weight": (50, 64),
    "ln_final.weight": (64,),
    "ln_final.bias": (64,),
    "visual.class_embedding": (128,),
    "visual.positional_embedding": (17, 128),
    "visual.proj": (128, 24),
    "visual.conv1.weight": (128, 3, 8, 8),
    **{f"visual.ln_{side}.{kind}": (128,) for side in ("pre", "post") for kind in ("weight", "bias")},
    "logit_scale": (),
}


def clip_state():
    block = lambda w: {
        "attn.in_proj_weight": (3 * w, w), "attn.in_proj_bias": (3 * w,), "attn.out_proj.weight": (w, w),
        "attn.out_proj.bias": (w,), "ln_1.weight": (w,), "ln_1.bias": (w,), "ln_2.weight": (w,), "ln_2.bias": (w,),
        "mlp.c_fc.weight": (4 * w, w), "mlp.c_fc.bias": (4 * w,), "mlp.c_proj.weight": (w, 4 * w),
        "mlp.c_proj.bias": (w,),
    }  # fmt: skip
    towers = [("visual.", 128, 2), ("", 64, 3)]
    blocks = {
        f"{t}transformer.resblocks.{i}.{k}": s for t, w, n in towers for i in range(n) for k, s in block(w).items()
    }
    state = random_state(CLIP_SHAPES | blocks)
    state["logit_scale"] = torch.tensor(1.0)
    return state


class TestClip:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory):
        return save(tmp_path_factory.mktemp("clip"), "clip.pt", clip_state())

    def test_images_equal_openai(self, path):
        embedding = clip.load_clip(path).frames(random_pixels(1, 2, 3, 40, 52))["embedding"]
        expected = [2.512739658355713, 2.1218602657318115, 2.271422863006592, 4.313529014587402]
        assert embedding[0, 1, :4].tolist() == pytest.approx(expected, rel=1e-5)
        assert embedding[0].double().abs().mean().item() == pytest.approx(2.5974946551335356, rel=1e-5)

    def test_texts_equal_openai(self, path):
        model = clip._from_file(path, True)
        ids = torch.tensor([[48, 3, 5, 49] + 8 * [0], [48, 7, 9, 11, 13, 49] + 6 * [0]])
        embedding = clip._pooled(model.get_text_features(input_ids=ids))
        expected = [-3.036715507507324, 2.3282625675201416, -2.7903194427490234, -1.2859598398208618]
        assert embedding[1, :4].tolist() == pytest.approx(expected, rel=1e-5)
        assert embedding.double().abs().mean().item() == pytest.approx(1.8754106376630564, rel=1e-5)

    def test_transformers_folder_gives_the_same_numbers(self, path, tmp_path):
        clip._from_file(path, True).save_pretrained(tmp_path)
        pixels = random_pixels(1, 2, 3, 40, 52)
        folder, file = clip.load_clip(tmp_path), clip.load_clip(path)
        assert torch.allclose(folder.frames(pixels)["embedding"], file.frames(pixels)["embedding"], rtol=1e-5)
        assert file.text is None

    def test_preparation_equals_pillow(self):
        pixels = random_pixels(1, 1, 3, 50, 70)[0]
        array = resize.to_bytes(pixels)[0].byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(array).resize((44, 32), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[:, :, 6:38]
        mean, std = (torch.tensor(v)[:, None, None] for v in (clip.MEAN, clip.STD))
        ours = clip.RULES["official"][0](pixels, 32)[0] * std + mean
        assert (ours * 255 - expected).abs().max() <= 1.01
        assert (ours * 255 - expected).abs().mean() < 0.05

    def test_evalcrafter_feeds_unscaled_bytes(self):
        assert clip.RULES["evalcrafter"][0](torch.ones(1, 3, 50, 70), 32).max() == 255

    def test_zero_vectors_have_no_cosine(self):
        with pytest.raises(InputError, match="zero"):
            clip.unit(torch.zeros(2, 3))


def test_videomae_equals_the_original(tmp_path):
    block = {
        "norm1.weight": (32,), "norm1.bias": (32,), "attn.q_bias": (32,), "attn.v_bias": (32,),
        "attn.qkv.weight": (96, 32), "attn.proj.weight": (32, 32), "attn.proj.bias": (32,), "norm2.weight": (32,),
        "norm2.bias": (32,), "mlp.fc1.weight": (64, 32), "mlp.fc1.bias": (64,), "mlp.fc2.weight": (32, 64),
        "mlp.fc2.bias": (32,),
    }  # fmt: skip
    rest = {"patch_embed.proj.weight": (32, 3, 2, 112, 112), "patch_embed.proj.bias": (32,), "fc_norm.weight": (32,)}
    rest |= {"fc_norm.bias": (32,), "head.weight": (5, 32), "head.bias": (5,)}
    state = random_state(rest | {f"blocks.{i}.{k}": s for i in (0, 1) for k, s in block.items()})
    extractor = videomae.load_videomae(save(tmp_path, "vit.pth", {"module": state}), heads=2)
    feature = extractor(random_pixels(1, 16, 3, 30, 40))["fc_norm"]
    expected = [0.4697094261646271, 1.202480435371399, -0.05178550258278847, 0.9279792904853821]
    assert feature[0, :4].tolist() == pytest.approx(expected, rel=1e-5)
    assert feature.double().abs().mean().item() == pytest.approx(0.7238677595596528, rel=1e-5)


def test_efficientnet_is_a_stand_in_and_sees_content():
    pytest.importorskip("efficientnet_lite_pytorch")
    extractor = standins.load_efficientnet()
    assert extractor.card.standin
    features = extractor(random_pixels(2, 2, 3, 40, 60))
    assert features["pool"].shape == (2, 2, 1280)
    assert features["logits"].softmax(-1).sum(-1) == pytest.approx(1, abs=1e-5)
    flat = extractor(torch.zeros(1, 1, 1, 40, 60))["pool"]
    assert (features["pool"][0, 0] - flat[0, 0]).norm() > 1


class TestResize:
    def test_tensorflow_rule_by_hand(self):
        """Row [0, 10, 20, 30] to six columns: positions 0, 2/3, 4/3, 2, 8/3, 10/3, the last clamped."""
        x = torch.tensor([[[[0.0, 10.0, 20.0, 30.0]]]])
        expected = [0, 20 / 3, 40 / 3, 20, 80 / 3, 30]
        assert resize.tensorflow1_bilinear(x, 1, 6).flatten().tolist() == pytest.approx(expected, rel=1e-5)

    def test_clean_rule_equals_pillow_in_floating_point(self):
        x = torch.rand(1, 1, 40, 50) * 255
        picture = Image.fromarray(x[0, 0].numpy()).resize((17, 13), Image.Resampling.BICUBIC)
        assert torch.allclose(
            resize.antialiased_bicubic(x, 13, 17)[0, 0], torch.from_numpy(np.array(picture)), atol=2e-3
        )

    @pytest.mark.parametrize(("ceil", "expected"), [(False, (224, 298)), (True, (224, 299))])
    def test_shorter_side(self, ceil, expected):
        assert resize.shorter_side(240, 320, 224, ceil) == expected
        assert resize.shorter_side(320, 240, 224, ceil) == expected[::-1]

    def test_bytes_round_trip(self):
        values = torch.arange(256).float()
        assert torch.equal(resize.to_bytes(values / 127.5 - 1), values)


class TestWeights:
    def test_missing_file(self):
        with pytest.raises(WeightsError, match="No weights at"):
            weights.locate("/nowhere/i3d.pt")

    def test_the_hash_in_the_name_is_checked(self, tmp_path):
        path = save(tmp_path, "net-01234567.pth", {"a": torch.zeros(2)})
        with pytest.raises(WeightsError, match="expected 01234567"):
            weights.locate(path)
        good = path.rename(tmp_path / f"net-{weights.file_hash(path)[:8]}.pth")
        assert weights.locate(good) == good

    def test_truncated_file(self, tmp_path):
        path = save(tmp_path, "net.pth", {"a": torch.zeros(2000)})
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(WeightsError, match="truncated download"):
            weights.load_tensors(path)

    def test_hub_names_need_three_parts(self):
        with pytest.raises(WeightsError, match="hub:OWNER/NAME/FILE"):
            weights.locate("hub:i3d")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "must have shape"),
        (torch.zeros(1, 2, 4, 8, 8), "background"),
        (torch.full((1, 2, 3, 8, 8), torch.nan), "NaN"),
    ],
)
def test_bad_pixels_are_explained(pixels, message):
    from kineograph.metrics.features.extractor import as_rgb

    with pytest.raises(InputError, match=message):
        as_rgb(pixels)


class TestLpips:
    """Random backbones in torchvision's layout with the authors' heads, beside torchmetrics' port of the same code."""

    @staticmethod
    def backbone(folder, name):
        state = random_state(shapes(lpips.NETWORKS[name]()))
        state = {f"features.{key}": value for key, value in state.items()}
        return save(folder, f"{name}.pth", state | {"classifier.1.weight": torch.ones(2, 2)})

    @pytest.mark.parametrize("name", ["alex", "vgg"])
    def test_equals_torchmetrics(self, name, tmp_path, monkeypatch):
        from torchmetrics.functional.image import lpips as theirs

        path = self.backbone(tmp_path, name)
        features = lpips.NETWORKS[name]()
        features.load_state_dict({k[9:]: v for k, v in torch.load(path).items() if k.startswith("features.")})
        monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: [*features, torch.nn.Identity()])
        reference = theirs._LPIPS(pretrained=True, net=name, pnet_rand=True, eval_mode=True)
        a, b = random_pixels(3, 3, 64, 48), random_pixels(3, 3, 64, 48, seed=2)
        ours = lpips.load_lpips(path)(a, b)
        assert ours.shape == (3,)
        assert torch.allclose(ours, reference(a, b).flatten(), rtol=1e-5)

    def test_equal_frames_have_no_distance_and_order_does_not_matter(self, tmp_path):
        distance = lpips.load_lpips(self.backbone(tmp_path, "alex"))
        a, b = random_pixels(2, 3, 40, 40), random_pixels(2, 3, 40, 40, seed=2)
        assert (distance(a, a) == 0).all()
        assert torch.allclose(distance(a, b), distance(b, a))
        assert distance.card.key != lpips.load_lpips(self.backbone(tmp_path, "vgg")).card.key

    def test_wrong_files_and_frames_are_named(self, tmp_path):
        path = self.backbone(tmp_path, "alex")
        with pytest.raises(WeightsError, match=r"neither torchvision's AlexNet .*\[2, 2\]"):
            lpips.load_lpips(save(tmp_path, "x.pth", {"features.0.weight": torch.ones(2, 2)}))
        with pytest.raises(WeightsError, match="needed are"):
            lpips.load_lpips(path, lpips.installed_heads("vgg"))
        with pytest.raises(InputError, match="32 pixels"):
            lpips.load_lpips(path)(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
