"""The extractors by name, and what each needs before it can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineograph.errors import InputError, KineographError, unknown
from kineograph.metrics.features.clip import Clip, load_clip
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.lpips import Lpips


@dataclass(frozen=True)
class Entry:
    """One extractor.

    Attributes:
        load: Builds it from the weights' path (None for stand-ins) and options.
        weights: What to give for weights, for the message when they are missing; empty for stand-ins.
        frames: Frames per clip that it sees, evenly spread; None sees all.
        called: Name of its features, for lists; a loaded one says its own.
    """

    load: Callable[..., Any]
    weights: str = ""
    frames: int | None = None
    called: str = ""


def _inception(path: str, **options: Any) -> Extractor:
    from kineograph.metrics.features.inception import load_inception

    return load_inception(path, **options)


def _i3d(path: str, **options: Any) -> Extractor:
    from kineograph.metrics.features.i3d import load_i3d

    return load_i3d(path, **options)


def _c3d(path: str, **options: Any) -> Extractor:
    from kineograph.metrics.features.c3d import load_c3d

    return load_c3d(path, **options)


def _videomae(path: str, **options: Any) -> Extractor:
    from kineograph.metrics.features.videomae import load_videomae

    return load_videomae(path, **options)


def _lpips(path: str) -> Lpips:
    from kineograph.metrics.features.lpips import load_lpips

    return load_lpips(path)


def _efficientnet(path: None) -> Extractor:
    from kineograph.metrics.features.standins import load_efficientnet

    return load_efficientnet()


def _motion(path: None) -> Extractor:
    from kineograph.metrics.motion_net import load_motion_net

    return load_motion_net()


EXTRACTORS: dict[str, Entry] = {
    "inception": Entry(_inception, "pt_inception-2015-12-05-6726825d.pth (91 MB, pytorch-fid's or torch-fidelity's)"),
    "i3d": Entry(_i3d, "i3d_pretrained_400.pt (51 MB, TATS) or i3d_torchscript.pt (StyleGAN-V)"),
    "c3d": Entry(_c3d, "conv3d_deepnetA_ucf.npz beside mean2.npz (313 MB, TGANv2's release) or c3d_ucf101.pt"),
    "clip": Entry(load_clip, "a transformers folder of openai/clip-vit-base-patch32 (354 MB)"),
    "videomae": Entry(_videomae, "vit_g_hybrid_pt_1200e_ssv2_ft.pth (VideoMAE v2) or a transformers folder"),
    "lpips": Entry(_lpips, "alexnet-owt-7be5be79.pth (233 MB) or vgg16-397923af.pth (528 MB), torchvision's"),
    "image": Entry(_efficientnet, frames=4, called="efficientnet-lite0"),
    "motion": Entry(_motion, called="kineograph-motion"),
}
"""`image` and `motion` are stand-ins that need no download."""


@dataclass
class Extractors:
    """Extractors loaded on first use.

    Attributes:
        weights: Paths by extractor name, or extractors of your own.
        options: Loader options by extractor name, from a published protocol.
    """

    weights: Mapping[str, str | Path | Extractor | Clip | Lpips]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loaded: dict[str, Extractor | Clip | Lpips] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.weights:
            if name not in EXTRACTORS:
                raise unknown("extractor", name, EXTRACTORS)

    def frames(self, name: str) -> Extractor:
        """The extractor that turns pixels into features."""
        found = self._get(name)
        if isinstance(found, Lpips):
            raise InputError(f"'{name}' compares pictures and has no features.")
        return found.frames if isinstance(found, Clip) else found

    def distance(self, name: str) -> Lpips:
        """The network that compares two clips."""
        found = self._get(name)
        if not isinstance(found, Lpips):
            raise InputError(f"'{name}' is no distance of pictures.")
        return found

    def card(self, name: str) -> Card:
        """The identity of what is loaded under a name."""
        found = self._get(name)
        return found.frames.card if isinstance(found, Clip) else found.card

    def clip(self) -> Clip:
        """CLIP with its text tower.

        Raises:
            InputError: The weights came without a tokenizer.
        """
        found = self._get("clip")
        if not isinstance(found, Clip) or found.text is None:
            raise InputError("CLIP was loaded without a tokenizer: give a transformers folder, --weights clip=FOLDER.")
        return found

    def why_not(self, name: str) -> str | None:
        """Why an extractor cannot run, with the line that mends it; None if it can."""
        entry = EXTRACTORS[name]
        if entry.weights and name not in self.weights:
            return f"needs the weights of {name}: --weights {name}=PATH, where PATH is {entry.weights}"
        try:
            self._get(name)
        except KineographError as error:
            return str(error)
        return None

    def limits(self, name: str) -> tuple[int, str]:
        """Frames of the shortest clip that an extractor accepts, and whether its samples are clips or frames."""
        found = self._get(name)
        if isinstance(found, Lpips):
            return 1, found.card.unit
        network = found.frames if isinstance(found, Clip) else found
        return network.fewest_frames, network.card.unit

    def _get(self, name: str) -> Extractor | Clip | Lpips:
        if name not in self.loaded:
            given = self.weights.get(name)
            if isinstance(given, (Extractor, Clip, Lpips)):
                self.loaded[name] = given
            else:
                self.loaded[name] = EXTRACTORS[name].load(given, **self.options.get(name, {}))
        return self.loaded[name]
