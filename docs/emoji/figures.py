"""Draw what the bundled model makes: `python docs/emoji/figures.py` (25 clips).

Seeds and prompts are fixed here, chosen before looking: nothing is picked from several tries. With `--data DATASET` it
also prints how much the clips of real names move and flicker beside the real ones.
"""

import argparse
import json
from pathlib import Path

from evaluate import motion_against_real

import kineograph as kg
from kineograph.data.frames import FrameSpec, frame_store
from kineograph.video import contact_sheet

HERE = Path(__file__).parent
SEEN = (
    "man juggling",
    "dog face",
    "red apple",
    "loudly crying face",
    "fire",
    "woman running",
    "rocket",
    "waving hand medium-dark skin tone",
)
# Combinations of the split `held-out-combinations`: base and tone were trained, never together.
HELD_OUT = (
    "man juggling medium skin tone",
    "woman golfing dark skin tone",
    "person running light skin tone",
    "waving hand light skin tone",
    "man technologist medium-dark skin tone",
    "old woman light skin tone",
    "snowboarder dark skin tone",
    "construction worker dark skin tone",
)
# The first eight of paraphrases.json, which was written before the networks were trained on other wordings.
PARAPHRASES = tuple(row["prompt"] for row in json.loads((HERE / "paraphrases.json").read_text())["paraphrases"][:8])
SHEETS = {"seen": SEEN, "held-out": HELD_OUT, "paraphrases": PARAPHRASES}


def main() -> None:
    """Write the three sheets and the moving picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="data set of `kineograph data emoji` to compare motion with")
    parser.add_argument("--cache", type=Path, help="folder of its decoded frames (default: the library's)")
    options = parser.parse_args()
    model = kg.load("emoji")
    made = {name: model.generate(prompts, seed=1) for name, prompts in SHEETS.items()}
    for name, clips in made.items():
        sheet = contact_sheet(clips, labels=SHEETS[name], frames_per_row=8)
        sheet.convert("P", palette=1, colors=256).save(HERE / f"{name}.png", optimize=True)
    demo = model.generate("a juggling man", seed=1)
    demo.save(HERE / "juggling.webp", quality=80)
    if options.data is not None:
        store = frame_store(options.data, FrameSpec(), options.cache)
        clips = [clip.frames for clip in made["seen"] + made["held-out"]]
        names = [{"exact": prompt} for prompt in SEEN + HELD_OUT]
        print(json.dumps(motion_against_real(clips, names, store), indent=2))


if __name__ == "__main__":
    main()
