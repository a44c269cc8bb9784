"""How much of the picture is text: the area of detected text boxes, in the worst of three frames.

Stable Video Diffusion runs CRAFT on first, middle and last frame and drops clips with more than 7 % text (Blattmann et
al. 2023, arXiv:2311.15127, app. C). `Differs from the paper:` the detector is PP-OCR's by RapidOCR, whose model is
inside the wheel; boxes are joined as a union, so that overlapping ones do not count twice, and the largest of the three
frames decides, which the paper leaves open.

Input size matters: at RapidOCR's default (short side at least 736) a sign became a box over a quarter of the picture,
at 320 a page of text vanished; a long side of 640 was right on the probes. But the detector also takes whole figures
for one big letter: on Big Buck Bunny about 25 of 72 clips had such a box, some over the whole picture. So a large box
that is not a line must be legible: the recogniser, also in the wheel, has to read it. It reads lines, so a title of
two reads badly as a whole and well in halves: that of Big Buck Bunny as "BUNKY" with a confidence of 0.75 to 0.80 from
frame to frame, its halves as "BiqBuck" with 0.94 and "BUNNY" with 1.00. Of 42 figures in 213 pictures of that film none
reads as two letters at 0.8, and no half as four.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation.ids import fingerprint
from kineograph.errors import InputError, require

MAX_SIDE = 640
"""Long side in pixels at which text is looked for; larger pictures are scaled down to it, smaller ones left alone."""
VERSION = 3
LARGE = 0.01
"""Share of the picture from which a box is large."""
LINE = 4.0
"""Width over height from which a box is a line of text, and believed."""
FEWEST_LETTERS, FEWEST_OF_A_HALF = 2, 4
LEAST_CONFIDENCE = 0.8
"""What the recogniser must read in a large box that is not a line, or in its upper or lower half."""


class TextArea:
    """Scorer for `text_area`, the share of the picture under text, from 0 to 1.

    Args:
        max_side: Long side in pixels at which to detect, a multiple of 32.
    """

    name = "text_area"
    columns = {"text_area": "double"}  # noqa: RUF012

    def __init__(self, max_side: int = MAX_SIDE) -> None:
        if max_side < 64 or max_side % 32:
            raise InputError(f"max_side is {max_side}; it is a multiple of 32, at least 64.")
        self.max_side = max_side
        self._detector: Any = None

    @property
    def fingerprint(self) -> str:
        """Of code, size, library and model file."""
        require("rapidocr", "curation")
        return fingerprint(
            "text_area", VERSION, [self.max_side, LARGE, LINE, metadata.version("rapidocr"), _model_hash()]
        )

    def score(self, strip: np.ndarray, row: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the largest text area of the frames.

        Args:
            strip: uint8 (frames, height, width, 3), RGB.
            row: Not looked at.
        """
        return {"text_area": max(covered(self.boxes(frame), *frame.shape[:2]) for frame in strip)}

    def boxes(self, frame: np.ndarray) -> np.ndarray:
        """Detect text.

        Args:
            frame: uint8 (height, width, 3), RGB.

        Returns:
            Quadrilaterals in pixels, shape (boxes, 4, 2), each point as x, y.
        """
        if self._detector is None:
            self._detector = _load(self.max_side)
        bgr = np.ascontiguousarray(frame[:, :, ::-1])
        found = self._detector(bgr, use_det=True, use_cls=False, use_rec=False).boxes
        boxes = np.zeros((0, 4, 2)) if found is None else np.asarray(found, np.float64).reshape(-1, 4, 2)
        believed = [box for box in boxes if not doubtful(box, *frame.shape[:2]) or self.legible(bgr, box)]
        return np.array(believed).reshape(-1, 4, 2)

    def legible(self, bgr: np.ndarray, box: np.ndarray) -> bool:
        """Whether the recogniser reads text in a box, or in its upper or lower half.

        Args:
            bgr: uint8 (height, width, 3), blue first.
            box: Corners, shape (4, 2).
        """
        if self._detector is None:
            self._detector = _load(self.max_side)
        parts = [(box, FEWEST_LETTERS), *((half, FEWEST_OF_A_HALF) for half in halves(box))]
        return any(self._reads(bgr, part, letters) for part, letters in parts)

    def _reads(self, bgr: np.ndarray, box: np.ndarray, letters: int) -> bool:
        (crop,) = self._detector.crop_text_regions(bgr, box[None].astype(np.float32))
        read = self._detector(crop, use_det=False, use_cls=False, use_rec=True)
        words = zip(read.txts or (), read.scores if read.scores is not None else (), strict=True)
        return any(len(text.strip()) >= letters and score >= LEAST_CONFIDENCE for text, score in words)


def halves(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the upper and the lower half of a box; corners in order from the upper left, shape (4, 2)."""
    left, right = (box[0] + box[3]) / 2, (box[1] + box[2]) / 2
    return np.array([box[0], box[1], right, left]), np.array([left, right, box[2], box[3]])


def covered(boxes: np.ndarray, height: int, width: int) -> float:
    """Share of a picture under the union of polygons.

    Args:
        boxes: Shape (boxes, points, 2), in pixels; parts outside the picture do not count.
        height: Of the picture.
        width: Of the picture.

    Returns:
        From 0 to 1.
    """
    if not len(boxes):
        return 0.0
    cv2 = require("cv2", "curation")
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:  # each by itself: filled together, overlaps would cancel
        cv2.fillPoly(mask, [np.rint(box).astype(np.int32)], 1)
    return float(mask.mean())


def doubtful(box: np.ndarray, height: int, width: int) -> bool:
    """Whether a box is large and not a line, as figures that are taken for text are.

    Args:
        box: Corners in order, shape (4, 2), in pixels.
        height: Of the picture.
        width: Of the picture.
    """
    sides = np.linalg.norm(np.roll(box, -1, axis=0) - box, axis=1)
    long, short = sorted(((sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2), reverse=True)
    return bool(long * short > LARGE * height * width and long < LINE * short)


def _load(max_side: int) -> Any:
    """Build the detector; it works on one thread, because clips are scored side by side."""
    ocr = require("rapidocr", "curation")
    params = {
        "Global.use_cls": False,
        "Global.log_level": "error",
        "Det.limit_type": "max",
        "Det.limit_side_len": max_side,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return ocr.RapidOCR(params=params)


@functools.cache
def _model_hash() -> str:
    """Hash the models of the installed wheel that find and read text."""
    folder = Path(str(require("rapidocr", "curation").__file__)).parent / "models"
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*det*.onnx"), *folder.glob("*rec*.onnx")]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
