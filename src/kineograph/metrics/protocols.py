"""Published protocols by name: what a number in a paper was measured with, so that it can be matched or refused.

Each entry fixes the extractor's preparation, frames, clip counts and constants of the estimator. Asking for one with
too few clips, other weights or other frames is an error, not a silent deviation. Constants follow the published code as
reported in the documents of this project, only part of it read again; `caveat` says what a protocol leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kineograph.errors import unknown
from kineograph.metrics.clips import Sampling


@dataclass(frozen=True)
class Published:
    """One protocol.

    Attributes:
        measure: Key of `MEASURES`.
        source: Paper and code.
        sampling: Frames of a clip.
        options: Constants of the estimator that differ from the measure's.
        loader: Options of the extractor's loader.
        generated: Clips to generate; None is any number.
        reference: Most real clips to use; None is all.
        scripted: Whether the number is defined on the scripted weights, which resize themselves.
        caveat: What stays open.
    """

    measure: str
    source: str
    sampling: Sampling = field(default_factory=Sampling)
    options: Mapping[str, Any] = field(default_factory=dict)
    loader: Mapping[str, Any] = field(default_factory=dict)
    generated: int | None = None
    reference: int | None = None
    scripted: bool = False
    caveat: str = ""


_RANDOM = Sampling(16, 1, "random")
_ALL = Sampling(None)
_STYLEGAN = "Skorokhodov et al. 2022 (StyleGAN-V), arXiv:2112.14683, src/metrics"

PROTOCOLS: dict[str, Published] = {
    "fvd_google": Published(
        "fvd",
        "Unterthiner et al. 2018, arXiv:1812.01717; google-research/frechet_video_distance",
        loader={"resize_rule": "google"},
        caveat="the number of frames is the data set's; 16 here",
    ),
    "fvd2048_16f_styleganv": Published(
        "fvd", _STYLEGAN, _RANDOM, {"ddof": 0}, generated=2048, reference=2048, scripted=True,
        caveat="real videos are stored at the model's resolution with Lanczos; short ones are discarded",
    ),
    "fvd2048_128f_styleganv": Published(
        "fvd", _STYLEGAN, Sampling(128, 1, "random"), {"ddof": 0}, generated=2048, reference=2048, scripted=True
    ),
    "fvd2048_128f_subsample8f_styleganv": Published(
        "fvd", _STYLEGAN, Sampling(16, 8, "random"), {"ddof": 0}, generated=2048, reference=2048, scripted=True
    ),
    "fvd_videogpt": Published(
        "fvd", "Yan et al. 2021 (VideoGPT), arXiv:2104.10157, videogpt/fvd/fvd.py", loader={"resize_rule": "crop"}
    ),
    "fvd_tats": Published(
        "fvd", "Ge et al. 2022 (TATS), arXiv:2204.03638, tats/fvd", loader={"resize_rule": "squash"}, generated=2048
    ),
    "fvd_lvdm": Published(
        "fvd", "He et al. 2022 (LVDM), arXiv:2211.13221", loader={"resize_rule": "squash"}, generated=2048,
        caveat="its code truncates (x + 1) 127.5 to bytes, which lowers 63 of 256 values by one level; we round",
    ),
    "fvd_cdfvd_i3d": Published(
        "fvd", "Ge et al. 2024, arXiv:2404.12391, cdfvd/fvd.py", _RANDOM, {"ddof": 0}, {"resize_rule": "squash"},
        caveat="its loader first scales to 256 with antialiasing; its n_fake=2048 repeats a smaller set silently",
    ),
    "cdfvd_videomae": Published(
        "cd-fvd", "Ge et al. 2024, arXiv:2404.12391, cdfvd/fvd.py", _RANDOM, {"ddof": 0},
        caveat="as fvd_cdfvd_i3d",
    ),
    "kvd_digan": Published(
        "kvd", "Yu et al. 2022 (DIGAN), arXiv:2202.10571; also TATS, LVDM", loader={"resize_rule": "squash"},
        generated=2048, reference=2048,
    ),
    "kvd_fvd_paper": Published(
        "kvd", "Unterthiner et al. 2018, arXiv:1812.01717, section 3: k = (a b + 1)^3",
        options={"gamma": 1.0}, loader={"resize_rule": "google"},
    ),
    "fid_ttur": Published(
        "fid", "Heusel et al. 2017, arXiv:1706.08500; torch-fidelity", loader={"resize_rule": "tensorflow1"}
    ),
    "fid_pytorch_fid": Published("fid", "mseitzer/pytorch-fid", loader={"resize_rule": "pytorch-fid"}),
    "fid_clean": Published("fid", "Parmar et al. 2022, arXiv:2104.11222", loader={"resize_rule": "clean"}),
    "fid_torchmetrics": Published("fid", "torchmetrics >= 1.8.0", loader={"resize_rule": "torchmetrics"}),
    "kid_torch_fidelity": Published(
        "kid", "torch-fidelity: 100 subsets of 1000",
        options={"estimator": "subset", "size": 1000, "subsets": 100, "seed": 2020},
        loader={"resize_rule": "tensorflow1"},
        caveat="the subsets are drawn by another generator than NumPy's; the mean agrees within its spread",
    ),
    "is_torch_fidelity": Published(
        "is", "torch-fidelity: 10 splits after RandomState(2020)", options={"splits": 10, "shuffle_seed": 2020}
    ),
    "is_ucf101_tganv2": Published(
        "video-is", "Saito et al. 2020 (TGANv2), arXiv:1811.09245, section 4.1", generated=2048,
        caveat="the paper repeats it on 10 sets of 2048 clips and gives mean and deviation over sets",
    ),
    "is_ucf101_styleganv": Published(
        "video-is", _STYLEGAN, _RANDOM, {"splits": 10, "shuffle_seed": 42}, generated=2048, scripted=True,
        caveat="ten splits of 204 score systematically lower than one split",
    ),
    "clipsim_godiva": Published(
        "clipsim", "Wu et al. 2021 (GODIVA), arXiv:2104.14806: CLIP ViT-B/32, mean over frames", _ALL
    ),
    "clipscore_hessel": Published(
        "clipsim", "Hessel et al. 2021, arXiv:2104.08718: 2.5 max(cos, 0), 'A photo depicts'", _ALL,
        {"scale": 2.5, "clip_at_zero": True, "prefix": "A photo depicts "},
    ),
    "frame_consistency_tuneavideo": Published(
        "frame-consistency", "Wu et al. 2023 (Tune-A-Video), arXiv:2212.11565: all pairs", _ALL
    ),
    "frame_consistency_gen1": Published(
        "frame-consistency", "Esser et al. 2023 (Gen-1), arXiv:2302.03011: neighbours", _ALL, {"pairs": "adjacent"}
    ),
    "clip_temp_evalcrafter": Published(
        "frame-consistency", "Liu et al. 2024 (EvalCrafter), arXiv:2310.11440, as published", _ALL,
        {"pairs": "adjacent"}, {"rule": "evalcrafter"}, caveat="raw bytes without CLIP's normalisation",
    ),
    "background_consistency_vbench": Published(
        "background-consistency", "Huang et al. 2024 (VBench), arXiv:2311.17982, section 3.2", _ALL
    ),
    "psnr": Published("psnr", "mean over frames; common_metrics", _ALL),
    "psnr_pooled": Published("psnr", "squared error pooled first; torchmetrics", _ALL, {"pool": "all"}),
    "ssim_wang": Published("ssim", "Wang et al. 2004, per frame and channel, windows inside", _ALL),
    "ssim_torchmetrics": Published("ssim", "torchmetrics >= 1.4.2: reflected border", _ALL, {"border": "reflect"}),
    "ssim_skimage": Published("ssim", "scikit-image default", _ALL, {"window": "uniform 7, sample covariance"}),
    "ms_ssim": Published("ms-ssim", "Wang et al. 2003", _ALL),
}  # fmt: skip


def published(name: str) -> Published:
    """Look a protocol up.

    Raises:
        InputError: Unknown name; the message names the nearest.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
