"""Draw where each system lets time into an image network, from its plan: `python docs/time/figures.py [NAME ...]`.

Every diagram is the `Plan` of a published network, read from the registry; nothing is placed by hand. Writes
`NAME.svg` for every system.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch

import kineograph as kg
from kineograph.temporal.plan import Placement, Plan

HERE = Path(__file__).parent
SPATIAL, TEMPORAL, FRAME = "#dfe5ec", "#f2a33a", "#8a97a6"
plt.rcParams |= {"svg.hashsalt": "kineograph", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8.5}

GAP, WIDE = 0.28, 1.35
PARTS = {"down": "down", "mid": "in the middle", "up": "up"}
RESNET, SELF_ATTENTION, TRANSFORMER = 1, 2, (2, 3, 4)
BOXES = (
    "first\nconvolution",
    "ResNet\nblock",
    "self-\nattention",
    "cross-\nattention",
    "feed-\nforward",
    "last\nconvolution",
)
"""An image network, left to right; the middle four stand for every block of its three parts."""
AFTER = {
    "conv_in": 0,
    "resnet": 1,
    "before_feed_forward": 3,
    "transformer_block": 4,
    "attention": 4,
    "pair": 4,
    "conv_out": 5,
}
"""Behind which box of `BOXES` a hook point lies; `cross_attention` lies beside its box."""
WORDS = {
    "temporal_transformer": "transformer\nover frames",
    "temporal_convolution": "convolutions\nover frames",
    "temporal_rotary_attention": "attention\nover frames",
    "temporal_res_block": "ResNet block\nover frames",
    "temporal_video_block": "transformer\nover frames,\nwith the text",
    "temporal_output": "convolution\nover frames",
    "picture_attention": "attention to\na picture",
}
"""What a layer of the library is called in a diagram."""


@dataclass(frozen=True)
class Box:
    """One box of a diagram, `width` wide, in the row of boxes or below it."""

    text: str
    temporal: bool  # what makes a video network of an image network
    inside: bool  # the spatial transformer
    repeated: bool  # in every block
    width: float


def published(name: str, preset: str | None = None) -> Plan:
    """Return the plan of a published network, built without memory for its weights."""
    system = kg.systems()[name]
    with torch.device("meta"):
        return system.build(preset or next(iter(system.presets))).plan


def detail(placement: Placement) -> str:
    """Say how a layer tells frames apart, and how far it looks; convolutions know their neighbours."""
    options = placement.options
    if options.get("window"):
        return f"up to {options['window']} apart"
    if options.get("relative"):
        return "codes of distance"
    if options.get("rotary"):
        return "rotary code"
    if options.get("max_frames"):
        return "sinusoidal code"
    return "no code" if placement.layer == "temporal_transformer" else ""


def missing(placement: Placement) -> str:
    """Say which parts of the network do without a layer."""
    without = [words for part, words in PARTS.items() if part not in placement.parts]
    return f"(not {', '.join(without)})" if without and placement.at not in ("conv_in", "conv_out") else ""


def boxes(plan: Plan) -> Iterator[Box]:
    """Yield the row of boxes: those of the image network, and the temporal layers behind them."""
    inner_first = sorted(plan.placements, key=lambda p: p.at != "transformer_block")
    for i, text in enumerate(BOXES):
        words = changed(i, text, plan)
        other = words != text
        yield Box(words, other, inside=i in TRANSFORMER, repeated=0 < i < 5, width=WIDE if other else 1.0)
        for placement in (p for p in inner_first if AFTER.get(p.at) == i):
            words = "\n".join(filter(None, (WORDS[placement.layer], detail(placement), missing(placement))))
            inside = placement.at in ("before_feed_forward", "transformer_block")
            yield Box(words, temporal=True, inside=inside, repeated=0 < i < 5, width=WIDE)


def changed(i: int, text: str, plan: Plan) -> str:
    """Say what a plan changes in a box of the image network."""
    if i == SELF_ATTENTION and plan.self_attention != ("own",):
        return f"self-attention\nto the {' and the '.join(plan.self_attention)}\nframe"
    return "ResNet block,\nnorms over\nthe clip" if i == RESNET and plan.spatial_norm == "clip" else text


def notes(plan: Plan) -> list[str]:
    """Say what a diagram's boxes do not."""
    beside = any(placement.at == "cross_attention" for placement in plan.placements)
    return [
        *(["Beside every cross-attention: attention to a picture's tokens."] if beside else []),
        *(
            ["A clip of one frame is an image and passes the temporal layers by."]
            if plan.single_frame == "skip"
            else []
        ),
    ]


def draw(name: str) -> plt.Figure:
    """Draw one system."""
    plan = published(name)
    row, remarks = list(boxes(plan)), notes(plan)
    width = sum(box.width for box in row) + GAP * (len(row) - 1)
    bottom = -0.45 - 0.27 * len(remarks)
    figure, axes = plt.subplots(figsize=(1.02 * (width + 0.3), 1.02 * (1.75 - bottom)))
    edges = list(places(row))
    for box, (left, right) in zip(row, edges, strict=True):
        axes.add_patch(_rounded(left, 0, right - left, 1, fc=TEMPORAL if box.temporal else SPATIAL, ec="#555555"))
        axes.text((left + right) / 2, 0.5, box.text, ha="center", va="center")
        if left:
            axes.annotate("", (left, 0.5), (left - GAP, 0.5), arrowprops={"arrowstyle": "->", "color": FRAME})
    _frame(axes, [e for box, e in zip(row, edges, strict=True) if box.inside], 0.1, "spatial transformer")
    _frame(axes, [e for box, e in zip(row, edges, strict=True) if box.repeated], 0.34, "every block: down, middle, up")
    for k, remark in enumerate(remarks):
        axes.text(0, -0.6 - 0.27 * k, remark, va="center", color="#333333")
    axes.set(xlim=(-0.15, width + 0.15), ylim=(bottom, 1.75))
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure


def places(row: list[Box]) -> Iterator[tuple[float, float]]:
    """Yield where each box begins and ends."""
    left = 0.0
    for box in row:
        yield left, left + box.width
        left += box.width + GAP


def _rounded(x: float, y: float, width: float, height: float, **style: Any) -> FancyBboxPatch:
    return FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.1", lw=0.8, **style)


def _frame(axes: plt.Axes, edges: list[tuple[float, float]], pad: float, title: str) -> None:
    """Draw a dashed frame around neighbouring boxes, with its title above."""
    left, right = edges[0][0], edges[-1][1]
    axes.add_patch(
        _rounded(left - 0.4 * pad, -pad, right - left + 0.8 * pad, 1 + 2 * pad, fc="none", ec=FRAME, ls="--")
    )
    axes.text((left + right) / 2, 1 + pad + 0.04, title, ha="center", va="bottom", fontsize=7.5, color=FRAME)


def main() -> None:
    """Draw the wanted systems, or all."""
    for name in sys.argv[1:] or kg.systems():
        figure = draw(name)
        figure.savefig(HERE / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
        print(HERE / f"{name}.svg")


if __name__ == "__main__":
    main()
