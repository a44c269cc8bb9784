"""Text of known area is measured as that area, by the real detector."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kineograph.curation.text_area import TextArea, covered, doubtful
from kineograph.errors import InputError

LINE = "A flip book has pictures"


@pytest.fixture(scope="module")
def scorer():
    return TextArea()


def page(lines, size=28, left=40, height=360, width=640):
    """Give a picture with text lines at given heights, and the exact area of their ink's boxes as a share."""
    y, x = np.mgrid[:height, :width]
    ground = np.stack([60 + x // 12, 80 + y // 8, 110 - x // 16], -1).astype(np.uint8)
    image = Image.fromarray(ground)
    draw, area = ImageDraw.Draw(image), 0.0
    font = ImageFont.load_default(size)
    for top in lines:
        draw.text((left, top), LINE, fill="white", font=font)
        x0, y0, x1, y1 = draw.textbbox((left, top), LINE, font=font)
        area += (x1 - x0) * (y1 - y0)
    return np.asarray(image), area / (height * width)


@pytest.mark.parametrize(("lines", "size"), [((150,), 28), ((40, 120, 200), 28), ((90, 200), 48), ((20,), 20)])
def test_drawn_text_of_known_area(scorer, lines, size):
    picture, area = page(lines, size)
    boxes = scorer.boxes(picture)
    assert len(boxes) == len(lines)
    assert 0.9 < covered(boxes, 360, 640) / area < 1.6  # the detector's boxes have a margin around the ink
    tops = sorted(box[:, 1].min() for box in boxes)
    assert np.abs(np.array(tops) - lines).max() < size / 2


def test_a_wall_of_text_is_most_of_the_picture_and_a_plain_picture_none(scorer):
    wall, area = page(range(8, 340, 30), 26, left=10, width=360)
    assert area > 0.4
    assert scorer.score(wall[None])["text_area"] > 0.45
    plain, _ = page(())
    assert scorer.score(plain[None])["text_area"] == 0.0
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    assert scorer.score(noise[None])["text_area"] < 0.01


def figure(kind):
    y = np.mgrid[:360, :640][0]
    image = Image.fromarray(np.stack([120 + y // 4, 170 + y // 6, 230 - y // 8], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if kind == "animal":
        for box in ((170, 80, 470, 380), (240, 30, 400, 200)):
            draw.ellipse(box, fill=(200, 195, 190))
        for ear in ([(270, 60), (250, -20), (295, 40)], [(370, 60), (395, -20), (345, 40)]):
            draw.polygon(ear, fill=(200, 195, 190))
        for line in ((280, 100, 310, 110), (360, 100, 330, 110), (290, 150, 350, 150)):
            draw.line(line, fill=(40, 40, 40), width=6)
    elif kind == "ring":
        draw.ellipse((200, 60, 440, 300), outline=(90, 60, 30), width=40)
    else:
        draw.text((60, 60), kind, fill="white", font=ImageFont.load_default(130))
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["animal", "ring"])
def test_a_figure_that_the_detector_takes_for_a_letter_is_not_text(scorer, kind):
    scorer.boxes(figure(kind))
    bgr = np.ascontiguousarray(figure(kind)[:, :, ::-1])
    (box,) = scorer._detector(bgr, use_det=True, use_cls=False, use_rec=False).boxes
    assert doubtful(box, 360, 640)
    assert covered(box[None], 360, 640) > 0.25
    assert scorer.score(figure(kind)[None]) == {"text_area": 0.0}


def test_a_title_of_two_lines_is_read_by_halves(scorer):
    """The recogniser reads lines; a box around two of them it does not read, or barely."""
    picture = cv2.putText(figure("ring") // 3, "Big Buck", (180, 120), cv2.FONT_HERSHEY_DUPLEX, 2.2, (255,) * 3, 6)
    cv2.putText(picture, "BUNNY", (180, 190), cv2.FONT_HERSHEY_DUPLEX, 2.8, (255,) * 3, 8)
    box = np.array([[170.0, 50], [520, 50], [520, 205], [170, 205]])
    assert doubtful(box, 360, 640)
    assert scorer.legible(picture, box)
    assert not scorer._reads(picture, box, 2)
    assert not scorer.legible(picture, box + np.array([0, 150]))


@pytest.mark.parametrize("word", ["TAXI", "Stop", "EXIT"])
def test_a_large_word_is_text(scorer, word):
    boxes = scorer.boxes(figure(word))
    assert len(boxes) == 1
    assert doubtful(boxes[0], 360, 640)
    assert covered(boxes, 360, 640) > 0.1


def test_lines_and_small_boxes_are_believed():
    def box(width, height):
        return np.array([[0, 0], [width, 0], [width, height], [0, height]], float)

    assert doubtful(box(100, 60), 360, 640)
    assert doubtful(box(60, 100), 360, 640)
    assert not doubtful(box(300, 60), 360, 640)
    assert not doubtful(box(50, 40), 360, 640)


def test_the_frame_with_most_text_decides(scorer):
    none, one, two = (page(lines)[0] for lines in ((), (100,), (100, 200)))
    areas = [scorer.score(frame[None])["text_area"] for frame in (none, one, two)]
    assert areas[0] == 0 < areas[1] < areas[2]
    assert scorer.score(np.stack([none, two, one])) == {"text_area": areas[2]}


def test_overlaps_count_once_and_what_lies_outside_not_at_all():
    box = np.array([[0, 0], [49, 0], [49, 49], [0, 49]])
    assert covered(np.stack([box]), 100, 100) == 0.25
    assert covered(np.stack([box, box]), 100, 100) == 0.25
    shifts = {name: box + np.array(by) for name, by in {"right": (25, 0), "far": (50, 50), "out": (75, 0)}.items()}
    assert covered(np.stack([box, shifts["right"]]), 100, 100) == 0.375
    assert covered(np.stack([box, shifts["far"], shifts["out"]]), 100, 100) == 0.25 + 0.25 + 0.125
    assert covered(np.zeros((0, 4, 2)), 100, 100) == 0.0


def test_the_fingerprint_is_that_of_size_and_model(scorer, monkeypatch):
    assert scorer.fingerprint == TextArea(640).fingerprint != TextArea(480).fingerprint
    before = scorer.fingerprint
    monkeypatch.setattr("kineograph.curation.text_area._model_hash", lambda: "another")
    assert scorer.fingerprint != before
    with pytest.raises(InputError, match="multiple of 32"):
        TextArea(600)
