"""Whole evaluations over small clips, with a small extractor in the place of the networks."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch

from kineograph.cli import evaluate as command
from kineograph.cli._parse import parse
from kineograph.errors import InputError
from kineograph.metrics import clips as clips_module
from kineograph.metrics import compare, evaluate, frechet_distance, mmd
from kineograph.metrics.clips import Sampling, list_clips
from kineograph.metrics.features.clip import Clip
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.lpips import Lpips
from kineograph.metrics.protocols import PROTOCOLS
from kineograph.metrics.report import write_report
from kineograph.metrics.score import score_from_dict
from kineograph.video import Video


def small_extractor(unit="clip", name="tiny", weights="0" * 64):
    """Colour means and, for clips, differences of frames: four to six numbers."""
    card = Card(name, weights, "none", unit, True, "test")

    def clip_network(x):
        colour = x.mean((1, 3, 4))
        return {"pool": torch.cat([colour, (x[:, 1:] - x[:, :-1]).abs().mean((1, 3, 4))], 1)}

    def frame_network(x):
        means = torch.cat([x.mean((2, 3)), x.std((2, 3))], 1) + 2
        return {"pool": means, "embedding": means, "logits": means * 3, "logits_unbiased": means * 3}

    layers = ("pool",) if unit == "clip" else ("pool", "embedding", "logits", "logits_unbiased")
    return Extractor(card, lambda x: x, clip_network if unit == "clip" else frame_network, layers)


WEIGHTS = {"motion": small_extractor(), "image": small_extractor("frame", "tiny-image")}
STAND_INS = ["fd-motion", "kd-motion", "fd-image", "consistency-image", "flicker"]


def make_clips(folder, count, seed=0, frames=6, size=16, contrast=1.0, suffix=".png"):
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        colour = torch.rand(1, 3, 1, 1, generator=generator) * 2 - 1
        noise = 0.4 * torch.rand(frames, 3, size, size, generator=generator) - 0.2
        video = Video((contrast * (colour + noise)).clamp(-1, 1), 8.0, metadata={"prompt": f"clip number {i}"})
        video.save(folder / f"clip{i:03d}.webp")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return make_clips(root / "generated", 20, 1, contrast=0.8), make_clips(root / "real", 24, 2)


@pytest.fixture
def decoded(monkeypatch):
    """Paths decoded so far."""
    paths = []
    original = clips_module.read_clip
    monkeypatch.setattr(clips_module, "read_clip", lambda path: paths.append(path) or original(path))
    return paths


def main(words):
    return command.run(parse(command, words[0], words[1:]))


def run(generated, reference=None, **options):
    return evaluate(generated, reference, **({"weights": WEIGHTS, "num_frames": 6} | options))


class TestNumbers:
    def test_scores_equal_the_functions_on_the_features(self, folders):
        found = run(*folders, metrics=["fd-motion", "kd-motion"])
        features = [
            torch.stack(
                [WEIGHTS["motion"](record.load().frames[None])["pool"][0] for record in list_clips(folder, "x")]
            )
            for folder in folders
        ]
        assert found["fd-motion"].value == pytest.approx(frechet_distance(*features), rel=1e-9)
        assert found["kd-motion"].value == pytest.approx(mmd(*features), rel=1e-9)
        assert found["fd-motion"].low < found["fd-motion"].value < found["fd-motion"].high

    def test_stand_ins_never_carry_a_published_name(self, folders):
        found = run(*folders, metrics=STAND_INS)
        names = [score.name for score in found.scores.values()]
        assert names[:2] == ["FD[tiny]", "KD[tiny]"]
        assert not any(re.search(r"FVD|KVD|FID|KID|CLIPSIM", name) for name in names)
        assert found["fd-motion"].protocol.facts["stand_in"] is True

    def test_every_score_carries_its_protocol(self, folders):
        facts = run(*folders, metrics=["fd-motion"])["fd-motion"].protocol.facts
        assert facts["weights"] == "0" * 64
        assert (facts["frames"], facts["stride"], facts["window"], facts["ddof"]) == (6, 1, "first", 1)
        assert (facts["generated_clips"], facts["reference_clips"]) == (20, 24)

    def test_frames_of_one_clip_are_one_observation(self, folders):
        """Four frames per clip enter the image distance, but the error bar counts clips."""
        found = run(*folders, metrics=["fd-image"])
        assert found["fd-image"].generated == 20
        independent = found["fd-image"].high - found["fd-image"].low
        doubled = run(sorted(folders[0].iterdir()), folders[1], metrics=["fd-image"])
        assert doubled["fd-image"].high - doubled["fd-image"].low == pytest.approx(independent, rel=1e-9)

    def test_arrays_videos_and_files_give_one_result(self, folders):
        records = list_clips(folders[0], "x")
        videos = [record.load() for record in records]
        pixels = torch.stack([video.frames for video in videos])
        values = [run(source, metrics=["flicker"])["flicker"].value for source in (folders[0], videos, pixels)]
        bytes_ = np.stack([video.to_uint8() for video in videos])
        values.append(run(bytes_, metrics=["flicker"])["flicker"].value)
        assert values == pytest.approx([values[0]] * 4, rel=1e-6)

    def test_aligned_metrics_pair_by_name(self, folders, tmp_path):
        found = run(*folders, metrics=["psnr", "ssim"])
        assert len(found["psnr"].per_clip) == 20
        same = run(folders[0], folders[0], metrics=["psnr", "ssim"])
        assert same["psnr"].value == 100
        assert same["ssim"].value == pytest.approx(1, abs=1e-6)
        other = run(folders[0], make_clips(tmp_path / "other", 20, size=24), metrics=["psnr", "flicker"])
        assert "24" in other.skipped["psnr"]
        assert other["flicker"].generated == 20

    def test_text_scores_use_the_prompts_of_the_files(self, folders):
        seen = []

        def text(prompts):
            seen.extend(prompts)
            return torch.ones(len(prompts), 6)

        clip = Clip(small_extractor("frame", "tiny-clip"), text)
        found = run(folders[0], metrics=["clipsim"], weights={"clip": clip})
        assert seen[:2] == ["clip number 0", "clip number 1"]
        assert 0 < found["clipsim"].value <= 1
        run(folders[0], prompts=[f"prompt {i}" for i in range(20)], metrics=["clipsim"], weights={"clip": clip})
        assert seen[20] == "prompt 0"
        scaled = run(folders[0], protocol="clipscore_hessel", weights={"clip": clip})["clipsim"]
        assert scaled.value == pytest.approx(2.5 * found["clipsim"].value, rel=1e-6)
        assert seen[40] == "A photo depicts clip number 0"

    def test_text_match_tells_right_from_wrong_prompts(self, folders, tmp_path, monkeypatch):
        from kineograph.metrics import text_match

        colour = {
            f"clip number {i}": r.load().frames.mean((0, 2, 3)) for i, r in enumerate(list_clips(folders[1], "x"))
        }
        monkeypatch.setattr(text_match, "sentences", lambda texts: torch.stack([colour[t] for t in texts]).double())
        right = run(folders[1], folders[1], metrics=["text-match"])["text-match"]
        wrong_prompts = [f"clip number {(i + 7) % 24}" for i in range(24)]
        wrong = run(folders[1], folders[1], prompts=wrong_prompts, metrics=["text-match"])["text-match"]
        assert right.value > 0.8 > wrong.value + 0.3
        assert "fitted on the reference" in right.name
        few = run(folders[0], sorted(folders[1].iterdir())[:5], metrics=["text-match"])
        assert "at least 20" in few.skipped["text-match"]


class TestOnce:
    def test_each_clip_is_decoded_once_and_never_again(self, folders, decoded, tmp_path):
        first = run(*folders, metrics=[*STAND_INS, "psnr", "ssim"], store=tmp_path)
        assert len(decoded) == len(set(decoded)) == first.decoded == 44
        second = run(*folders, metrics=[*STAND_INS, "psnr", "ssim"], store=tmp_path)
        assert len(decoded) == 44
        assert second.decoded == 0
        assert {k: s.to_dict() for k, s in first.scores.items()} == {k: s.to_dict() for k, s in second.scores.items()}

    def test_other_weights_frames_or_files_are_measured_again(self, folders, tmp_path):
        run(folders[0], folders[1], metrics=["fd-motion"], store=tmp_path)
        other = {"motion": small_extractor(weights="1" * 64)}
        assert run(*folders, metrics=["fd-motion"], store=tmp_path, weights=other).decoded == 44
        assert run(*folders, metrics=["fd-motion"], store=tmp_path, stride=1, num_frames=5).decoded == 44
        assert run(*folders, metrics=["fd-motion"], store=tmp_path).decoded == 0

    def test_a_damaged_entry_is_measured_again(self, folders, tmp_path):
        run(folders[0], metrics=["flicker"], store=tmp_path)
        entry = next(tmp_path.rglob("*.safetensors"))
        entry.write_bytes(b"broken")
        assert run(folders[0], metrics=["flicker"], store=tmp_path).decoded == 1


class TestBadInput:
    def test_one_corrupt_file_among_a_hundred(self, decoded, tmp_path):
        """200 clips: each is decoded once, the corrupt one is counted, the rest is measured."""
        generated, real = (make_clips(tmp_path / n, 100, s, frames=3) for n, s in (("generated", 1), ("real", 2)))
        (generated / "clip042.webp").write_bytes((generated / "clip042.webp").read_bytes()[:60])
        found = run(generated, real, metrics=["fd-motion", "consistency-image"], num_frames=3)
        assert len(decoded) == len(set(decoded)) == 200
        assert [f.clip for f in found.failures] == ["clip042"]
        assert (found["fd-motion"].generated, found["fd-motion"].reference, found.decoded) == (99, 100, 199)

    def test_one_corrupt_file_is_reported_and_the_rest_measured(self, folders, tmp_path, capsys):
        folder = make_clips(tmp_path / "g", 6)
        (folder / "clip002.webp").write_bytes(b"RIFF nonsense")
        found = run(folder, folders[1], metrics=["fd-motion"])
        assert [f.clip for f in found.failures] == ["clip002"]
        assert found["fd-motion"].generated == 5
        assert not found.complete
        status = main(["evaluate", str(folder), "--metrics", "flicker", "--num-frames", "6", "--no-store"])
        assert status == 1
        assert "clip002" in capsys.readouterr().out

    def test_short_clips_are_failures_not_padded(self, folders, tmp_path):
        folder = make_clips(tmp_path / "g", 3)
        Video(torch.rand(4, 3, 16, 16), 8.0).save(folder / "short.webp")
        found = run(folder, metrics=["flicker"])
        assert found.failures[0].reason == "short has 4 frames; 6 frames at stride 1 need 6."

    def test_different_sizes_are_noted(self, folders, tmp_path):
        folder = make_clips(tmp_path / "g", 3)
        for path in make_clips(tmp_path / "large", 2, size=32).iterdir():
            path.rename(folder / f"large-{path.name}")
        assert "2 sizes" in run(folder, metrics=["flicker"]).notes[0]

    def test_nan_pixels(self):
        pixels = torch.zeros(3, 6, 3, 16, 16)
        pixels[1, 2] = math.nan
        found = run(pixels, metrics=["flicker"])
        assert "NaN" in found.failures[0].reason

    def test_grey_pixels_are_repeated(self):
        assert run(torch.rand(3, 6, 1, 16, 16), metrics=["flicker"])["flicker"].generated == 3

    def test_one_clip(self, folders, tmp_path):
        folder = make_clips(tmp_path / "g", 1)
        found = run(folder, folders[1], metrics=["fd-motion", "flicker"])
        assert "at least 2" in found.skipped["fd-motion"]
        assert found["flicker"].low is None
        assert "one clip" in found["flicker"].warnings[0]

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            (("/nowhere",), {}, "does not exist"),
            (("empty",), {}, "no clips"),
            (("generated",), {"metrics": ["fvdd"]}, "did you mean 'fvd'"),
            (("generated",), {"protocol": "fvd_vidgpt"}, "did you mean 'fvd_videogpt'"),
            (("generated",), {"weights": {"i3": "x"}}, "Unknown extractor"),
            (("generated",), {"metrics": ["fvd"], "protocol": "psnr"}, "either metrics or a protocol"),
            (("generated",), {"window": "last"}, "chosen by one of"),
            (("generated",), {"prompts": ["one"]}, "1 prompts for 20 clips"),
            (("generated",), {"protocol": "psnr"}, "needs reference clips"),
            (("generated",), {"num_frames": 60}, "None of the 20 generated"),
        ],
    )
    def test_the_message_says_what_to_do(self, folders, tmp_path, arguments, options, message):
        (tmp_path / "empty").mkdir()
        place = {"generated": folders[0], "empty": tmp_path / "empty"}
        with pytest.raises(InputError, match=message):
            run(place.get(arguments[0], arguments[0]), **options)

    def test_few_samples_are_diagnosed(self, folders):
        found = run(*folders, metrics=["fd-motion"], weights={"motion": _wide()})
        assert "20 samples for 30 dimensions" in found["fd-motion"].warnings[0]

    def test_missing_weights_skip_with_the_line_that_mends_it(self, folders):
        found = run(*folders, metrics=["fvd", "flicker"])
        assert "--weights i3d=PATH" in found.skipped["fvd"]
        assert "i3d_pretrained_400.pt" in found.skipped["fvd"]


def _wide():
    card = Card("wide", "2" * 64, "none", "clip", True, "test")
    return Extractor(card, lambda x: x, lambda x: {"pool": x.flatten(1)[:, :30]}, ("pool",))


class TestSkipped:
    """What cannot run is skipped with its reason, and takes nothing down."""

    def test_one_metric_that_cannot_run_takes_no_other_down(self, folders, decoded):
        found = run(*folders, metrics=["niqe", "precision-recall", "smoothness", "flicker"], num_frames=2)
        assert set(found.scores) >= {"flicker", "precision-recall-precision"}
        assert found.complete
        assert found.skipped == {
            "niqe": "needs at least 194 pixels along the shorter edge; the largest clip has 16",
            "smoothness": "needs at least 3 frames per clip; 2 are measured",
        }
        assert len(decoded) == 44
        few = run(folders[0], sorted(folders[1].iterdir())[:4], metrics=["precision-recall", "flicker"])
        assert "at least 6 clips a side; there are 20 generated and 4 reference" in few.skipped["precision-recall"]
        assert "flicker" in few.scores

    def test_it_is_found_before_anything_is_decoded(self, folders, decoded, capsys):
        found = run(folders[0], metrics=["niqe"])
        assert (decoded, found.decoded, set(found.scores)) == ([], 0, set())
        assert main(["evaluate", str(folders[0]), "--metrics", "niqe", "--no-store", "--json"]) == 2
        assert "194 pixels" in json.loads(capsys.readouterr().out)["skipped"]["niqe"]
        assert main(["evaluate", str(folders[0]), "--metrics", "niqe,flicker", "--no-store"]) == 1
        assert "Skipped niqe" in capsys.readouterr().out

    def test_a_network_says_how_many_frames_it_needs(self, folders):
        weights = {"motion": dataclasses.replace(small_extractor(), fewest_frames=8)}
        found = run(*folders, metrics=["precision-recall", "flicker"], weights=weights, num_frames=4)
        assert found.skipped["precision-recall"] == "needs at least 8 frames per clip; 4 are measured"
        assert "flicker" in found.scores

    def test_clips_that_one_metric_refuses_are_its_own_failures(self, folders, tmp_path):
        folder = make_clips(tmp_path / "g", 3, size=16)
        for path in make_clips(tmp_path / "large", 2, size=200).iterdir():
            path.rename(folder / f"large-{path.name}")
        found = run(folder, metrics=["ms-ssim", "flicker"], reference=folder)
        assert (found["flicker"].generated, found["ms-ssim"].generated) == (5, 2)
        assert {(f.metric, f.side) for f in found.failures} == {("ms-ssim", "generated")}
        assert len(found.failures) == 3

    def test_nothing_named_takes_all_that_can_run(self, folders):
        few = sorted(folders[0].iterdir())[:3]
        found = run(few)
        assert {"flicker", "smoothness", "flow", "warping-error", "dynamic-degree", "consistency-image"} <= set(
            found.scores
        )
        assert not {"psnr", "clip-temp", "is-evalcrafter"} & {*found.scores, *found.skipped}
        assert {"psnr", "ssim", "fd-motion"} <= set(run(few, few).scores)
        assert "psnr" in run(few, sorted(folders[1].iterdir())[:5]).scores  # the reference has a clip of every name

    def test_short_clips_are_measured_with_the_frames_they_have(self, folders, tmp_path):
        found = evaluate(folders[0], metrics=["flicker"])
        assert found["flicker"].protocol.facts["frames"] == 6
        assert "The shorter clips have 6 frames, so 6 of each" in found.notes[0]
        folder = make_clips(tmp_path / "g", 24, frames=6)
        Video(torch.rand(2, 3, 16, 16), 8.0).save(folder / "short.webp")
        mixed = evaluate(folder, metrics=["flicker"])
        assert (mixed["flicker"].generated, [f.clip for f in mixed.failures]) == (24, ["short"])
        assert not evaluate(torch.rand(2, 20, 3, 16, 16), metrics=["flicker"]).notes


class TestFolders:
    """Folders of numbered pictures are clips."""

    def test_a_folder_of_pictures_is_a_clip_and_a_folder_of_such_folders_a_set(self, folders, tmp_path):
        from PIL import Image

        for i, record in enumerate(list_clips(folders[0], "x")[:3]):
            folder = tmp_path / f"shot.{i}"
            folder.mkdir()
            for k, pixels in enumerate(record.load().to_uint8()):
                Image.fromarray(pixels).save(folder / f"frame{k + 8}.png")
        (tmp_path / "shot.0" / "caption.txt").write_text("a dog")
        videos = [record.load() for record in list_clips(folders[0], "x")[:3]]
        expected = run(videos, metrics=["flicker"])["flicker"].per_clip
        found = run(tmp_path, metrics=["flicker"], store=tmp_path / "store")["flicker"]
        assert list(found.per_clip) == ["shot.0", "shot.1", "shot.2"]
        assert list(found.per_clip.values()) == pytest.approx(list(expected.values()))
        assert run(tmp_path / "shot.1", metrics=["flicker"])["flicker"].value == pytest.approx(expected["00001"])
        assert run(tmp_path, metrics=["flicker"], store=tmp_path / "store").decoded == 0
        (tmp_path / "shot.1" / "frame8.png").write_bytes((tmp_path / "shot.2" / "frame8.png").read_bytes())
        assert run(tmp_path, metrics=["flicker"], store=tmp_path / "store").decoded == 1

    def test_pictures_beside_clips_are_no_clips(self, folders, tmp_path):
        folder = make_clips(tmp_path / "g", 2)
        Video(torch.rand(1, 3, 16, 16), 8.0).save(folder / "sheet1.png")
        (folder / "report_files").mkdir()
        Video(torch.rand(1, 3, 16, 16), 8.0).save(folder / "report_files" / "clip0.png")
        (folder / "report_files" / "plot0.svg").write_text("<svg/>")
        assert [record.name for record in list_clips(folder, "x")] == ["clip000", "clip001"]


class TestPartial:
    """Metrics that compare through a network, and suites of which only a part can run."""

    def test_lpips_pairs_by_name_and_is_stored(self, folders, tmp_path):
        card = Card("lpips-tiny", "3" * 64, "none", "frame", False, "test")
        weights = {"lpips": Lpips(card, (torch.nn.Sequential(torch.nn.Identity()),), (torch.ones(1, 3, 1, 1),))}
        large = [make_clips(tmp_path / name, 3, seed, size=32) for seed, name in enumerate(("a", "b"))]
        found = run(*large, metrics=["lpips"], weights=weights, store=tmp_path / "store")["lpips"]
        assert (len(found.per_clip), found.protocol.facts["features"]) == (3, "lpips-tiny")
        assert found.value > run(large[0], large[0], metrics=["lpips"], weights=weights)["lpips"].value == 0
        again = run(*large, metrics=["lpips"], weights=weights, store=tmp_path / "store")
        assert (again["lpips"].value, again.decoded) == (found.value, 0)
        assert "--weights lpips=PATH" in run(*folders, metrics=["lpips", "flicker"]).skipped["lpips"]

    def test_evalcrafter_runs_what_it_can_and_names_the_rest(self, folders):
        clip = Clip(small_extractor("frame", "tiny-clip"), lambda texts: torch.ones(len(texts), 6))
        found = run(folders[0], metrics=["evalcrafter"], weights={"clip": clip, "inception": clip.frames})
        assert set(found.scores) == {"is-evalcrafter", "clip-temp", "face-consistency", "clipsim"}
        assert len(found.skipped) == 13
        assert "GroundingDINO" in found.skipped["count_score"]
        bare = run(folders[0], metrics=["evalcrafter", "flicker"])
        assert "--weights clip=PATH" in bare.skipped["clip-temp"]


class TestProtocols:
    def test_all_name_a_measure_and_a_source(self):
        from kineograph.metrics.measures import MEASURES

        assert all(p.measure in MEASURES and p.source for p in PROTOCOLS.values())
        assert {"fvd2048_16f_styleganv", "fvd_videogpt", "kvd_digan", "is_ucf101_tganv2", "clipsim_godiva"} <= set(
            PROTOCOLS
        )
        assert {"frame_consistency_tuneavideo", "psnr", "ssim_wang"} <= set(PROTOCOLS)

    def test_too_few_clips_are_refused(self, folders):
        weights = {"i3d": small_extractor()}
        with pytest.raises(InputError, match="needs 2048 generated clips, given 20"):
            run(*folders, protocol="kvd_digan", weights=weights)

    def test_variants_of_one_metric_differ_as_they_should(self, folders):
        wang, reflect, uniform = (
            run(*folders, protocol=name)["ssim"] for name in ("ssim_wang", "ssim_torchmetrics", "ssim_skimage")
        )
        assert len({s.protocol.hash for s in (wang, reflect, uniform)}) == 3
        assert len({round(s.value, 6) for s in (wang, reflect, uniform)}) == 3
        assert wang.protocol.published == "ssim_wang"

    def test_different_hashes_are_not_compared(self, folders):
        a = run(*folders, metrics=["fd-motion"])["fd-motion"]
        b = run(*folders, metrics=["fd-motion"], num_frames=5)["fd-motion"]
        with pytest.raises(InputError, match="frames: 6 and 5"):
            compare([a, b])
        assert len(compare([a, b], allow_mismatch=True)) == 2
        c = run(folders[0], folders[0], metrics=["fd-motion"])["fd-motion"]
        with pytest.raises(InputError, match="reference data"):
            compare([a, c])

    def test_the_better_score_comes_first(self, folders, tmp_path):
        better = make_clips(tmp_path / "better", 20, 7)
        a, b = (run(f, folders[1], metrics=["fd-motion"])["fd-motion"] for f in (folders[0], better))
        assert compare([a, b])[0].value == min(a.value, b.value)

    def test_json_round_trip_and_edited_protocols(self, folders):
        score = run(*folders, metrics=["fd-motion"])["fd-motion"]
        row = json.loads(json.dumps(score.to_dict()))
        assert score_from_dict(row).protocol.hash == score.protocol.hash
        row["protocol"]["ddof"] = 0
        with pytest.raises(InputError, match="edited"):
            score_from_dict(row)

    def test_random_windows_are_seeded_by_name(self):
        sampling = Sampling(4, 2, "random", 3)
        assert sampling.indices(50, "a") == sampling.indices(50, "a")
        assert sampling.indices(50, "a") != sampling.indices(50, "b")
        assert Sampling(4, 2, "middle").indices(11, "a") == [2, 4, 6, 8]
        assert Sampling(None, 3).indices(7, "a") == [0, 3, 6]


class TestOutput:
    def test_json_on_stdout_is_one_document(self, folders, capsys, tmp_path):
        words = ["evaluate", str(folders[0]), "--metrics", "flicker,smoothness", "--num-frames", "6", "--json"]
        assert main([*words, "--store", str(tmp_path)]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["scores"]["flicker"]["generated"] == 20
        assert len(document["scores"]["flicker"]["protocol"]["hash"]) == 12

    def test_html_report_stands_alone(self, folders, tmp_path):
        found = run(*folders, metrics=STAND_INS)
        records = {r.name: r for r in list_clips(folders[0], "x")}
        path = write_report(found, tmp_path / "report.html", lambda name: records[name].load().frames)
        text = path.read_text()
        assert text.count("<svg") >= 4
        assert text.count("data:image/png") == 6
        assert found["fd-motion"].protocol.hash in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")

    def test_markdown_report_keeps_its_pictures_beside_it(self, folders, tmp_path):
        found = run(*folders, metrics=["fd-motion"])
        text = write_report(found, tmp_path / "report.md").read_text()
        for name in re.findall(r"\]\(([^)]+)\)", text):
            assert (tmp_path / name).is_file()
        assert "| FD[tiny] |" in text

    def test_a_report_is_not_written_over_unasked(self, folders, tmp_path, capsys, decoded):
        (tmp_path / "report.html").write_text("mine")
        words = ["evaluate", str(folders[0]), "--metrics", "flicker", "--no-store", "--report"]
        with pytest.raises(InputError, match="--report .* exists already.*--overwrite"):
            main([*words, str(tmp_path / "report.html")])
        assert not decoded
        assert main([*words, str(tmp_path / "report.html"), "--overwrite"]) == 0
        assert "flicker" in (tmp_path / "report.html").read_text()

    def test_reports_have_two_formats(self, folders, tmp_path):
        with pytest.raises(InputError, match=".html or .md"):
            write_report(run(folders[0], metrics=["flicker"]), tmp_path / "report.pdf")

    def test_lists(self, folders, capsys):
        assert main(["evaluate", ".", "--metrics", "list"]) == 0
        listed = capsys.readouterr().out
        assert re.search(r"fd-motion +FD\[kineograph-motion\] +Fréchet distance of features +--reference", listed)
        assert re.search(r"niqe .*194 pixels", listed)
        assert "{" not in listed
        assert main(["evaluate", ".", "--metrics", "list", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["fvd"]["needs"] == ["--reference", "--weights i3d=PATH", "2 clips"]
        assert main(["evaluate", ".", "--protocol", "list", "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == set(PROTOCOLS)
