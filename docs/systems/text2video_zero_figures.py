"""Make the picture of `kineograph generate "a cat" --system text2video_zero` (`make figures`)."""

from pathlib import Path

import kineograph as kg

if __name__ == "__main__":
    clip = kg.load("emoji", system="text2video_zero").generate("a cat")
    clip.save(Path(__file__).with_name("text2video-zero-cat.webp"), quality=80)
