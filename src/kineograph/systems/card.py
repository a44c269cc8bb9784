"""What every published system brings: a card, a configuration, presets, a way to build it and its key maps.

Light to import: no torch here, nor at the top of a system's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kineograph.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from kineograph.models.video_unet import VideoUNet
    from kineograph.systems.keys import KeyMap


@dataclass(frozen=True)
class Card:
    """Who made a system, under which terms, and what it adds to an image model.

    Attributes:
        title: Title of the paper.
        authors: First authors and "et al.".
        year: Year of the first version.
        arxiv: Identifier such as `"2308.06571"`; empty where there is none.
        code: Address of the original code; empty where none was published.
        code_license: Licence of that code.
        weights_license: Licence of the released weights; empty where none were released.
        adds: What it adds to an image model, one sentence per choice.
        differs: How this implementation differs from the paper or the code; empty if it does not.
        evidence: How it is known to be right, one of `EVIDENCE`.
    """

    title: str
    authors: str
    year: int
    arxiv: str
    code: str
    code_license: str
    weights_license: str
    adds: tuple[str, ...]
    differs: tuple[str, ...] = ()
    evidence: str = "tested"


EVIDENCE = {
    "tested": "equal to the original code or to diffusers' class of it, on the same weights, in a test of this package",
    "compared": "compared once with the authors' code on the same weights, outside this repository (the parity page)",
    "paper": "written from the paper; there is no code to compare with",
}
"""What a card's evidence means. Tests load the same random weights into both and compare outputs; the comparisons
outside are recorded in docs/systems/parity.md with the commit of the authors' code and the difference found."""

CURVES = {"cosine": "squaredcos_cap_v2"}
"""What diffusers calls beta schedules that have another name here."""
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample", "svd": "v_prediction"}
"""What diffusers calls predictions."""
STABLE_DIFFUSION_DDIM = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""DDIM as Stable Diffusion's release sets it (`ldm/modules/diffusionmodules/util.py`, `make_ddim_timesteps`): uniform
timesteps plus one, the last step ends at timestep 0. VideoCrafter and ModelScopeT2V do the same."""


@dataclass(frozen=True)
class Process:
    """A discrete diffusion process, owned by the system so that nobody pairs weights with another one by accident.

    Attributes:
        schedule: Kind of beta schedule, as in `kineograph.diffusion.schedule.beta_schedule`.
        beta_start: First beta.
        beta_end: Last beta.
        prediction: What the network predicts, as in `kineograph.diffusion.parameterization.KINDS`.
        data_scale: How the data is made weaker, as in `kineograph.diffusion.schedule.Schedule.scale_data`: the least
            factor, and over how many timesteps; None: it is not.
    """

    schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "epsilon"
    data_scale: tuple[float, int] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the process as fields of a diffusers scheduler's configuration."""
        return {
            "num_train_timesteps": 1000,
            "beta_schedule": CURVES.get(self.schedule, self.schedule),
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": PREDICTIONS[self.prediction],
        }


@dataclass(frozen=True)
class Sampling:
    """The authors' sampling settings.

    Attributes:
        sampler: Name of the sampler.
        eta: Share of fresh noise in each step of DDIM.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance.
        first_guidance: Its scale at the first frame, where it grows from there to `guidance` at the last; None: it is
            the same for all frames.
        frames: Frames per clip.
        fps: Frames per second.
        height: Pixels.
        width: Pixels.
        solver: The authors' scheduler without the process: its class in diffusers, and where its timesteps lie.
    """

    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 7.5
    frames: int = 16
    fps: int = 8
    height: int = 256
    width: int = 256
    eta: float = 0.0
    first_guidance: float | None = None
    solver: Mapping[str, Any] = field(default_factory=lambda: STABLE_DIFFUSION_DDIM)


@dataclass(frozen=True)
class System:
    """One published system.

    Attributes:
        name: Name in the registry.
        card: Its card.
        config: Class of its configuration, a frozen dataclass.
        presets: Named configurations; `"tiny"` builds within a second and runs on a CPU.
        builder: `(config, image_unet or None) -> VideoUNet`; with an image U-Net it is inflated in place, without one a
            fresh network of the configured size is made.
        key_maps: Conversions of released weights, by the name of the layout; each takes the configuration of the image
            network (`model.config`), which says where layers sit.
        process: The diffusion process its weights were trained with.
        sampling: How its authors sample.
        variants: Process and sampling of the presets that have others of their own.
        starts_as_image: Whether a fresh network equals the image network on every frame of any clip.
        sampler: For systems without trained weights, how a clip is made from the noise of its first frame:
            `(denoiser, first, levels, noise of the later frames, still=, above=, schedule=, callback=) -> latents`;
            `still` is a draft of the first frame that stands at times from `above` on, or None.
    """

    name: str
    card: Card
    config: type
    presets: Mapping[str, Any]
    builder: Callable[[Any, Any], VideoUNet]
    key_maps: Mapping[str, Callable[[Any], KeyMap]] = field(default_factory=dict)
    process: Process = field(default_factory=lambda: Process())
    sampling: Sampling = field(default_factory=lambda: Sampling())
    variants: Mapping[str, tuple[Process, Sampling]] = field(default_factory=dict)
    starts_as_image: bool = True
    sampler: Callable[..., Tensor] | None = None

    def preset(self, name: str) -> Any:
        """Return a named configuration.

        Raises:
            InputError: No such preset.
        """
        if name not in self.presets:
            raise unknown(f"preset of {self.name}", name, self.presets)
        return self.presets[name]

    def settled(self, preset: str = "") -> tuple[Process, Sampling]:
        """Return the process of a preset and how its authors sample; without a name those of the system."""
        return self.variants.get(preset, (self.process, self.sampling))

    def scheduler(self, preset: str = "") -> dict[str, Any]:
        """Return the authors' scheduler of a preset, process and sampler, as diffusers writes it."""
        process, sampling = self.settled(preset)
        return {**process.fields(), **sampling.solver}

    def build(self, config: Any = None, image_unet: Any = None) -> VideoUNet:
        """Build the network.

        Args:
            config: A configuration, the name of a preset, or None for the first preset, the published one.
            image_unet: An image U-Net to give time to, in place; None makes a fresh one of the configured size.

        Returns:
            The video network; its temporal layers start as the identity.
        """
        if config is None:
            config = next(iter(self.presets.values()))
        return self.builder(self.preset(config) if isinstance(config, str) else config, image_unet)
