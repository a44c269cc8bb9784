"""Where time enters an image network: a plan as plain data, so that it can be printed, compared and written to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from kineograph.errors import InputError, unknown

Point = Literal[
    "conv_in", "conv_out", "resnet", "attention", "pair", "transformer_block", "before_feed_forward", "cross_attention"
]
"""After `conv_in` or `conv_out`; after every ResNet block; after every spatial attention; once after each (ResNet,
attention) pair, or after the ResNet where a block has no attention; after every transformer block inside a spatial
attention; inside each such block, after its attentions; beside its cross-attention."""

Part = Literal["down", "mid", "up"]

Source = Literal["own", "first", "previous", "next"]
"""A frame that a frame looks at; at the ends of a clip the previous and the next are the frame itself."""


@dataclass(frozen=True)
class Placement:
    """One kind of temporal layer at one kind of place.

    Attributes:
        at: The hook point.
        layer: Name of a layer in `kineograph.temporal.inflate.LAYERS`.
        options: Arguments of the layer beside the channels, which the place determines.
        parts: Parts of the network that take it; without meaning for `conv_in` and `conv_out`.
    """

    at: Point
    layer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ("down", "mid", "up")

    def __post_init__(self):
        if self.at not in get_args(Point):
            raise unknown("hook point", self.at, get_args(Point))
        for part in self.parts:
            if part not in get_args(Part):
                raise unknown("network part", part, get_args(Part))


@dataclass(frozen=True)
class Plan:
    """How a system adds time to an image network.

    Attributes:
        placements: What goes where. Two placements must not meet on one module.
        single_frame: `"run"`: temporal layers also run on clips of one frame; `"skip"`: one frame is an image.
        spatial_norm: Statistics of the image network's group norms, those of its ResNet blocks and its output:
            `"frame"` leaves them alone; `"clip"` shares them between the frames of a clip (AnimateDiff v1, LaVie).
        self_attention: Frames that the image network's self-attention takes its keys and values from; `("own",)` leaves
            it alone, `("first",)` is Text2Video-Zero, `("first", "previous")` Tune-A-Video.
    """

    placements: tuple[Placement, ...]
    single_frame: Literal["run", "skip"] = "run"
    spatial_norm: Literal["frame", "clip"] = "frame"
    self_attention: tuple[Source, ...] = ("own",)

    def __post_init__(self):
        if self.single_frame not in ("run", "skip"):
            raise unknown("single_frame", self.single_frame, ("run", "skip"))
        if self.spatial_norm not in ("frame", "clip"):
            raise unknown("spatial_norm", self.spatial_norm, ("frame", "clip"))
        for source in self.self_attention:
            if source not in get_args(Source):
                raise unknown("source frame", source, get_args(Source))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON data."""
        return {**asdict(self), "placements": [asdict(placement) for placement in self.placements]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Build a plan from `to_dict` data.

        Raises:
            InputError: A field is missing or unknown.
        """
        try:
            placements = tuple(Placement(**{**p, "parts": tuple(p["parts"])}) for p in data["placements"])
            sources = tuple(data.get("self_attention", ("own",)))
            return cls(**{**data, "placements": placements, "self_attention": sources})
        except (KeyError, TypeError) as error:
            raise InputError(f"This is not a temporal plan: {error}. Expected placements and single_frame.") from error
