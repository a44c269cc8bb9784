"""Draw what the bundled model makes: `python docs/emoji/figures.py` (25 clips).

Seeds and prompts are fixed here, chosen before looking: nothing is picked from several tries.
"""

import json
from pathlib import Path

import kineograph as kg
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


def main() -> None:
    """Write the three sheets and the moving picture."""
    model = kg.load("emoji")
    for name, prompts in (("seen", SEEN), ("held-out", HELD_OUT), ("paraphrases", PARAPHRASES)):
        clips = model.generate(prompts, seed=1)
        sheet = contact_sheet(clips, labels=prompts, frames_per_row=8)
        sheet.convert("P", palette=1, colors=256).save(HERE / f"{name}.png", optimize=True)
    demo = model.generate("a juggling man", seed=1)
    demo.save(HERE / "juggling.webp", quality=80)


if __name__ == "__main__":
    main()
