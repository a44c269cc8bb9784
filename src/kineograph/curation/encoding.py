"""Encode frames of a film as H.264 that shows the same colours at the same times.

Readers turn YUV into RGB by a matrix and a range. Both follow from the film's tags or, without tags, from its height;
so both are written into the clip, whose height may be another. Frames keep their film's matrix; full range is made
limited, which every player reads. What is no YUV (RGB, grey, palettes) becomes BT.709, as `Video.save` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from kineograph._container import SWSCALE_FLAGS
from kineograph._decode import _HD_HEIGHT
from kineograph._encode import X264_OPTIONS
from kineograph.curation.analyse import turn
from kineograph.curation.config import ClipConfig
from kineograph.curation.probe import Probe

MUXER = {"fflags": "+bitexact"}
_BT709, _UNSPECIFIED, _SMPTE170M = 1, 2, 6
"""Matrices by their numbers in ITU-T H.273, table 4; 6 is that of BT.601."""
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class Colours:
    """How a film's colours are to be read, by the numbers of ITU-T H.273.

    Attributes:
        matrix: Of YUV to RGB, as written into the clip.
        primaries: As tagged.
        transfer: As tagged; high dynamic range stays what it is.
        converted: Whether frames must become RGB first, because their format holds no YUV.
    """

    matrix: int
    primaries: int
    transfer: int
    converted: bool

    @classmethod
    def of(cls, frame: Any) -> Colours:
        """Read a frame's tags; a matrix without a tag is chosen by height, as readers do."""
        matrix, primaries, transfer = (int(n) for n in (frame.colorspace, frame.color_primaries, frame.color_trc))
        layout = frame.format
        if layout.is_rgb or len(layout.components) < 3 or layout.name.startswith(("pal", "xyz")):
            return cls(_BT709, _BT709, _BT709 if transfer == _UNSPECIFIED else transfer, True)
        if matrix == _UNSPECIFIED:
            matrix = _BT709 if frame.height >= _HD_HEIGHT else _SMPTE170M
        return cls(matrix, primaries, transfer, False)

    def tag(self, context: Any) -> None:
        """Write them into an encoder's stream."""
        context.colorspace, context.color_primaries, context.color_trc = self.matrix, self.primaries, self.transfer
        context.color_range = _LIMITED

    def limited(self, frame: Any, size: tuple[int, int], transform: Any = None) -> Any:
        """Return a frame as YUV 4:2:0 of limited range.

        Args:
            frame: With this film's colours.
            size: Width and height to scale to, before it is put upright.
            transform: How to put it upright, as `analyse.turn` gives it; None where it is.
        """
        source = None if self.converted else self.matrix
        given = _FULL if int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj") else _LIMITED
        if not self.converted and transform is None:
            return self._yuv(frame, size, src_colorspace=source, src_color_range=given)
        told = {"src_colorspace": source, "src_color_range": None if self.converted else given}
        shown = frame.reformat(*size, format="rgb24", **told, dst_color_range=_FULL, **_EXACTLY)
        if transform is not None:
            import av

            pixels = np.ascontiguousarray(transform.apply(shown.to_ndarray()))
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        return self._yuv(shown, (shown.width, shown.height))

    def _yuv(self, frame: Any, size: tuple[int, int], **source: int | None) -> Any:
        told = {"dst_colorspace": self.matrix, "dst_color_range": _LIMITED}
        return frame.reformat(*size, format="yuv420p", **source, **told, **_EXACTLY)


_EXACTLY = {"interpolation": SWSCALE_FLAGS, "threads": 1}


class Writer:
    """One encoded clip.

    A frame waits until the next one comes, so that each is written with the time that it is shown.
    """

    def __init__(self, path: Path, frame: Any, facts: Probe, config: ClipConfig, even: bool) -> None:
        """Begin.

        Args:
            path: The clip's file.
            frame: The first frame.
            facts: The film's header.
            config: How to encode.
            even: Whether all frames are shown equally long. The index of an mp4 adds up decoding times, which with
                B-frames do not end where uneven presentation times do.
        """
        import av

        self.base, self.waiting = Fraction(facts.time_base), None
        self.output = av.open(str(path), "w", format="mp4", options=MUXER)
        self.transform, self.colours = turn(frame), Colours.of(frame)
        self.is_turned = any((self.transform.transpose, self.transform.flip_columns, self.transform.flip_rows))
        self.size = (max(frame.width // 2 * 2, 2), max(frame.height // 2 * 2, 2))
        shown = self.size[::-1] if self.transform.transpose else self.size
        self.stream: Any = self.output.add_stream("libx264", rate=Fraction(facts.rate or 25).limit_denominator(100000))
        self.stream.width, self.stream.height = shown
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = self.base
        self.stream.codec_context.thread_count = 1
        self.colours.tag(self.stream.codec_context)
        if facts.aspect != 1.0:
            aspect = Fraction(facts.aspect).limit_denominator(1000)
            self.stream.codec_context.sample_aspect_ratio = 1 / aspect if self.transform.transpose else aspect
        order = {} if even else {"bf": "0"}
        self.stream.options = {"crf": str(config.crf), "preset": config.preset, **X264_OPTIONS, **order}

    def add(self, frame: Any, pts: int) -> None:
        """Encode a frame at a pts after the clip's start."""
        self._write(pts)
        self.waiting = (frame, pts)

    def close(self, end: int) -> None:
        """Write what is held back, the last frame until a pts after the clip's start, and finish the file."""
        self._write(end)
        self.output.mux(self.stream.encode(None))
        self.output.close()

    def _write(self, until: int) -> None:
        if self.waiting is None:
            return
        frame, pts = self.waiting
        shown = self.colours.limited(frame, self.size, self.transform if self.is_turned else None)
        shown.pts, shown.time_base, shown.duration = pts, self.base, until - pts
        shown.pict_type = 0
        self.output.mux(self.stream.encode(shown))
