"""What the pages take for granted, in small: films, data sets, published files with random weights."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tiny_pipelines as tiny
import torch
from safetensors.torch import save_file

from kineograph.video import Video

Make = Callable[[Path], object]


def shapes(folder: Path) -> None:
    """Write a captioned data set of moving shapes, with the fields and the split of the emoji."""
    from kineograph.data.synthetic import write_synthetic

    write_synthetic(folder, count=6, seed=0, num_frames=16, size=64, fps=8)
    manifest = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"base": row["caption"].split()[-1], "split": "held-out-combinations" if i == 0 else "train"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pan(seed: int, frames: int = 72, height: int = 90, width: int = 160) -> np.ndarray:
    """Return a shot: a random texture that moves two pixels a frame, (frames, height, width, 3)."""
    texture = np.random.default_rng(seed).integers(0, 255, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    picture = texture.repeat(10, 0).repeat(10, 1)[:height, :width]
    return np.stack([np.roll(picture, 2 * i, axis=1) for i in range(frames)])


def films(folder: Path) -> None:
    """Write two films of two shots each."""
    folder.mkdir(parents=True)
    for i in range(2):
        film(folder / f"film{i}.mp4", i)


def film(file: Path, seed: int = 0) -> None:
    """Write a film of two shots of three seconds."""
    written = file.with_suffix(".mp4")  # a name without an ending would be a folder of pictures
    Video.from_uint8(np.concatenate([pan(2 * seed), pan(2 * seed + 1)]), fps=24).save(written)
    written.rename(file)


def curated(folder: Path) -> None:
    """Curate two films."""
    from kineograph.cli import main

    films(folder.with_name("films"))
    assert main(["curate", str(folder.with_name("films")), "-o", str(folder)]) == 0


def many(folder: Path) -> None:
    """Write a data set as large as the training of a metric's network asks for."""
    from kineograph.data.synthetic import write_synthetic

    write_synthetic(folder, count=300, seed=0, num_frames=42, size=32, fps=8)


def clips(folder: Path, count: int = 4) -> None:
    """Write clips of sixteen frames."""
    folder.mkdir(parents=True)
    for i in range(count):
        Video.from_uint8(pan(i, 16, 64, 64), fps=8).save(folder / f"{i:04}.mp4")


def picture(file: Path) -> None:
    """Write a picture."""
    Video.from_uint8(pan(3, 1, 64, 64), fps=8).save(file)


def prompts(file: Path) -> None:
    """Write a prompt a line, as many as `clips` writes."""
    file.write_text("a cat\na dog\na rocket\na house\n")


def svd_folder(folder: Path) -> None:
    """Write Stable Video Diffusion's pipeline folder."""
    from tiny_svd import tiny_pipeline

    tiny_pipeline().save_pretrained(folder)


def svd_file(file: Path) -> None:
    """Write Stable Video Diffusion's file, as the authors name its weights."""
    from kineograph.cli import main

    folder = file.with_suffix("")
    svd_folder(folder)
    assert main(["convert", str(folder), "-o", str(file), "--to", "original"]) == 0


def stable_diffusion_file(file: Path) -> None:
    """Write a Stable Diffusion 1 checkpoint, with the tokenizer beside it that no file holds."""
    pipe = tiny.write_image_pipeline(file.with_suffix(".folder"))
    tiny.write_tokenizer(file.parent / "tokenizer")
    save_file({k: v.contiguous() for k, v in tiny.stable_diffusion_file(pipe).items()}, file)


def motion_file(file: Path) -> None:
    """Write AnimateDiff's motion modules in the authors' layout."""
    from kineograph.checkpoints.networks import key_map
    from kineograph.systems import systems
    from kineograph.systems.animatediff import AnimateDiffConfig
    from kineograph.temporal.inflate import temporal_state_dict

    system = systems()["animatediff"]
    network = system.build(AnimateDiffConfig(max_frames=32, middle=True), tiny.tiny_image_unet())
    torch.save(key_map(system, network, "original").to_theirs(temporal_state_dict(network.unet)), file)


def lora_file(file: Path) -> None:
    """Write a LoRA of a Stable Diffusion 1 network, as diffusers saves it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    unet = tiny.tiny_image_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(file.parent, unet_lora_layers=weights, weight_name=file.name)


def i3d_file(file: Path) -> None:
    """Write a random I3D."""
    from kineograph.metrics.features.i3d import I3D

    torch.save(I3D().state_dict(), file)


def list_of_webvid(file: Path) -> None:
    """Write WebVid's list, for the films that `films` writes."""
    header = "videoid,contentUrl,duration,page_dir,name\n"
    rows = [f"film{i},https://example.org/film{i}.mp4,PT00H00M06S,x,a moving texture\n" for i in range(2)]
    file.write_text(header + "".join(rows))


NEEDED: Mapping[str, Mapping[str, Make]] = {
    "README.md": {
        "FOLDER_OR_FILE": tiny.write_modelscope,
        "IN": tiny.write_modelscope,
        "emoji": shapes,
        "raw": films,
        "made": clips,
        "real": clips,
    },
    "docs/animate.md": {
        "mm_sd_v15_v2.ckpt": motion_file,
        "your_model.safetensors": stable_diffusion_file,
        "your_style.safetensors": lora_file,
        "svd_xt.safetensors": svd_file,
        "cat.png": picture,
        "emoji": shapes,
    },
    "docs/checkpoints.md": {
        "text-to-video-ms-1.7b": tiny.write_modelscope,
        "mm_sd_v15_v2.ckpt": motion_file,
        "realistic.safetensors": stable_diffusion_file,
        "style.safetensors": lora_file,
        "svd_xt.safetensors": svd_file,
        "rocket.png": picture,
    },
    "docs/curation/choosing.md": {"raw": films},
    "docs/curation/exporting.md": {"results_2M_val.csv": list_of_webvid, "videos": films},
    "docs/curation/index.md": {"raw": films, "FILM": film},
    "docs/curation/study.md": {
        "dataset": curated,
        "clips/0": clips,
        "clips/25": clips,
        "clips/50": clips,
        "prompts.txt": prompts,
    },
    "docs/emoji/diary.md": {"emoji": shapes},
    "docs/emoji/training.md": {"emoji": shapes},
    "docs/metrics/index.md": {
        "generated": clips,
        "real": clips,
        "i3d_pretrained_400.pt": i3d_file,
        "DATASET": many,
    },
    "docs/own-films.md": {"raw": films, "made": clips},
    "docs/systems/animatediff.md": {"emoji": shapes},
    "docs/systems/league.md": {"DATASET": shapes},
    "docs/systems/stable-video-diffusion.md": {
        "stable-video-diffusion-img2vid-xt": svd_folder,
        "rocket.png": picture,
        "DATA": shapes,
        "apple.png": picture,
    },
    "docs/systems/text2video-zero.md": {"PATH": tiny.write_image_pipeline},
}
"""What each page's commands read and none of them makes: a name, and who writes it."""


def prepare(page: str, folder: Path) -> None:
    """Write a page's stand-ins into a folder."""
    for name, make in NEEDED.get(page, {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)
