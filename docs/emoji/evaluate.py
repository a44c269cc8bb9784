"""Evaluate the bundled model: `python docs/emoji/evaluate.py --data DIR -o evaluation.json`.

DIR is made by `kineograph data emoji -o DIR`. Clips are kept in the work folder, so that a stopped run continues. Five
parts: reconstruction by the autoencoder, retrieval of the right emoji from generated middle frames, distances on
stand-in features beside the floor of real against real, motion and consistency against the real clips of the same
names, and the distance to the nearest training clip. The prompts are fixed by name and seed before anything is made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import kineograph as kg
from kineograph.data.emoji import HELD_OUT_SPLIT
from kineograph.data.frames import FrameSpec, FrameStore, frame_store
from kineograph.metrics import frechet_distance, mmd, motion, psnr, ssim
from kineograph.metrics.features.standins import load_efficientnet
from kineograph.metrics.motion_net import load_motion_net
from kineograph.metrics.retrieval import best_ranks, nearest, recall_at
from kineograph.training.autoencoder import to_pixels

HERE = Path(__file__).parent
SEED = 7
LISTS = ("training", "held-out", "paraphrases")
CEILING = "held-out, real through the autoencoder"
"""What the retrieval of held-out combinations would be if the network drew the real frames."""
CHUNK = 8
"""Clips per call of the model and of the networks."""


def main() -> None:
    """Run the parts and write the record."""
    options = arguments()
    store = frame_store(options.data, FrameSpec(), options.cache, progress)
    model, work = kg.load(options.model), options.work
    image, moving = load_efficientnet(), load_motion_net()
    gallery = cached(work / "gallery.npy", lambda: middle_features(image, store, range(len(store.clips))))
    record = {"model": options.model, "frames": options.num_frames, "seed": SEED, "clips_in_gallery": len(gallery)}
    record["autoencoder"] = reconstruction(model, store, options.count)
    sets = {name: prompts for name, prompts in prompt_sets(store, options.count).items() if name in options.lists}
    clips = {name: generate(model, prompts, work / name, options) for name, prompts in sets.items()}
    if "held-out" in sets:
        sets[CEILING], clips[CEILING] = sets["held-out"], autoencoded(model, sets["held-out"], store)
    features = {name: torch.cat([middle(image, clip) for clip in made]) for name, made in clips.items()}
    record["retrieval"] = retrieval(sets, features, clips, gallery, store)
    record["memorisation"] = memorisation(features, gallery, store)
    if "training" not in sets:
        return write(record, options.output)
    record["picture distances"] = picture_distances(features["training"], gallery, sets["training"], store)
    if options.num_frames > 1:
        record["distances"] = distances(moving, image, clips["training"], sets["training"], store)
        record["motion"] = motion_against_real(clips["training"], sets["training"], store)
    return write(record, options.output)


def write(record: dict, file: Path) -> None:
    """Write and print the record."""
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data set of `kineograph data emoji`")
    parser.add_argument("--model", default="emoji", help="bundled name or folder (default: emoji)")
    parser.add_argument("--count", type=int, default=200, help="training names (default: 200)")
    parser.add_argument("--lists", nargs="+", choices=LISTS, default=LISTS, help="prompts to look at (default: all)")
    parser.add_argument("--num-frames", type=int, default=16, help="1 looks at pictures only (default: 16)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--cache", type=Path, help="folder of the decoded frames (default: the library's)")
    parser.add_argument("--work", type=Path, default=Path("emoji-evaluation"), help="folder for clips and features")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "evaluation.json", help="record")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def progress(done: int, total: int | None, what: str) -> None:
    """Say how far a long part is."""
    if done % 100 == 0:
        print(f"{what}: {done} of {total}", flush=True)


def cached(path: Path, make) -> torch.Tensor:
    """Load an array, or make and keep it."""
    if not path.is_file():
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, make().numpy())
        path.with_suffix(".part").replace(path)
    return torch.from_numpy(np.load(path))


# Prompts and clips ------------------------------------------------------------------------------------------------


def prompt_sets(store: FrameStore, count: int) -> dict[str, list[dict]]:
    """Return the three fixed lists: each prompt with the base names and the exact captions that are right."""
    order = np.random.default_rng(SEED).permutation(len(store.clips))
    train = [store.clips[i] for i in order if store.clips[i].split == "train"][:count]
    test = [clip for clip in store.clips if clip.split == HELD_OUT_SPLIT]
    named = lambda clip: {"prompt": clip.caption, "accept": [clip.extra["base"]], "exact": clip.caption}
    words = json.loads((HERE / "paraphrases.json").read_text())["paraphrases"]
    return {"training": [named(c) for c in train], "held-out": [named(c) for c in test], "paraphrases": words}


def generate(model, prompts: list[dict], folder: Path, options) -> list[torch.Tensor]:
    """Make one clip per prompt, `(frames, 3, height, width)`; those in the folder are read instead."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.webp" for i in range(len(prompts))]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    for start in range(0, len(missing), CHUNK):
        chosen = missing[start : start + CHUNK]
        made = model.generate(
            [prompts[i]["prompt"] for i in chosen],
            seed=[SEED + i for i in chosen],
            num_frames=options.num_frames,
            num_inference_steps=options.steps,
        )
        for i, clip in zip(chosen, made, strict=True):
            clip.save(paths[i])
        print(f"{folder.name}: {start + len(chosen)} of {len(missing)}", flush=True)
    return [kg.Video.read(path).frames for path in paths]


def real(store: FrameStore, index: int, frames: int | None = None) -> torch.Tensor:
    """Return a real clip's frames, (frames, 3, size, size) in [-1, 1]."""
    start, count = int(store.starts[index]), int(store.counts[index])
    return to_pixels(store.frames[start : start + min(count, frames or count)])


# Parts ------------------------------------------------------------------------------------------------------------


def middle_of(store: FrameStore, index: int) -> torch.Tensor:
    """Return the middle frame of a real clip, (3, size, size)."""
    clip = real(store, index)
    return clip[len(clip) // 2]


def middle(image, clip: torch.Tensor) -> torch.Tensor:
    """Features of the middle frame, (1, dimensions)."""
    return image(clip[None, len(clip) // 2 : len(clip) // 2 + 1])["pool"][0]


def middle_features(image, store: FrameStore, indices) -> torch.Tensor:
    """Features of the middle frames of real clips, (clips, dimensions)."""
    rows = []
    for i in indices:
        rows.append(middle(image, real(store, i)))
        progress(len(rows), len(store.clips), "gallery")
    return torch.cat(rows)


def reconstruction(model, store: FrameStore, count: int) -> dict[str, float]:
    """PSNR and SSIM of the autoencoder on the middle frames of held-out clips."""
    vae, values = model.parts.autoencoder, []
    for i in store.clips_of(HELD_OUT_SPLIT)[:count]:
        frame = middle_of(store, int(i))[None, None]
        with torch.inference_mode():
            back = vae.decode(vae.encode(frame)).clamp(-1, 1)
        values.append((psnr(back[0], frame[0], (-1, 1)), ssim(back[0], frame[0], (-1, 1))))
    decibels, structure = torch.tensor(values).mean(0).tolist()
    return {"psnr": decibels, "ssim": structure, "clips": len(values)}


def autoencoded(model, prompts: list[dict], store: FrameStore) -> list[torch.Tensor]:
    """Return the real middle frame of each prompt through the autoencoder, `(1, 3, height, width)`."""
    vae, frames = model.parts.autoencoder, [middle_of(store, _index_of(store, prompt)) for prompt in prompts]
    with torch.inference_mode():
        return [vae.decode(vae.encode(frame[None, None]))[0].float().clamp(-1, 1) for frame in frames]


def retrieval(sets, features, clips, gallery: torch.Tensor, store: FrameStore) -> dict[str, dict[str, float]]:
    """R@1 and R@10 of the base name, and of the exact combination, for each list.

    The tone of a picture is that of the nearest clip of its base, by features and by pixels.
    """
    bases = np.array([clip.extra["base"] for clip in store.clips])
    captions = np.array([clip.caption for clip in store.clips])
    found = {}
    for name, prompts in sets.items():
        right = torch.from_numpy(np.stack([np.isin(bases, p["accept"]) for p in prompts]))
        ranks = best_ranks(features[name], gallery, right)
        found[name] = {"prompts": len(prompts), "base R@1": recall_at(ranks, 1), "base R@10": recall_at(ranks, 10)}
        if "exact" in prompts[0]:
            exact = torch.from_numpy(np.stack([captions == p["exact"] for p in prompts]))
            places = best_ranks(features[name], gallery, exact)
            among = torch.stack(
                [_tone_right(f, gallery, r, e) for f, r, e in zip(features[name], right, exact, strict=True)]
            )
            hit = ranks < 10
            by_pixels = torch.tensor(
                [_tone_by_pixels(clip, r, p, store) for clip, r, p in zip(clips[name], right, prompts, strict=True)]
            )
            found[name] |= {
                "exact R@10": recall_at(places, 10),
                "tone right among base hits": _share(among, hit),
                "tone right among base hits, by pixels": _share(by_pixels, hit),
            }
    return found


def _tone_right(feature, gallery, right, exact) -> torch.Tensor:
    """Say whether the nearest clip of the right base is the exact combination."""
    place, _ = nearest(feature[None], gallery[right])
    return exact[right][place[0]]


def _tone_by_pixels(clip: torch.Tensor, right: torch.Tensor, prompt: dict, store: FrameStore) -> bool:
    """Say whether, of the clips of the right base, the exact combination's middle frame is the nearest."""
    same = right.nonzero()[:, 0].tolist()
    errors = [float((middle_of(store, i) - clip[len(clip) // 2]).square().mean()) for i in same]
    return store.clips[same[int(np.argmin(errors))]].caption == prompt["exact"]


def _share(values: torch.Tensor, among: torch.Tensor) -> float | None:
    """Share of true values among some; None if there are none."""
    return float(values[among].double().mean()) if bool(among.any()) else None


def memorisation(features, gallery: torch.Tensor, store: FrameStore) -> dict[str, float]:
    """Median cosine distance to the nearest training clip: generated ones, and real ones that were held out."""
    train = gallery[[i for i, clip in enumerate(store.clips) if clip.split == "train"]]
    unseen = gallery[[i for i, clip in enumerate(store.clips) if clip.split == HELD_OUT_SPLIT]]
    values = {name: nearest(rows, train)[1] for name, rows in {**features, "real held-out": unseen}.items()}
    return {f"{name}, median": float(v.median()) for name, v in values.items()}


def distances(moving, image, clips, prompts, store: FrameStore) -> dict[str, float]:
    """Fréchet and kernel distances to the real clips of the same names, beside those of two halves of the real ones."""
    pairs = [(clip, _real_of(store, p)) for clip, p in zip(clips, prompts, strict=True)]
    pairs = [(clip, other) for clip, other in pairs if len(other) >= 16]
    found = {"clips": len(pairs)}
    for name, network, shape in (("image", image, lambda x: x[None, ::4]), ("motion", moving, lambda x: x[None])):
        x, y = (torch.cat([network(shape(p[k]))["pool"].flatten(0, -2) for p in pairs]) for k in (0, 1))
        half = len(y) // 2
        found |= {
            f"FD {name}": frechet_distance(x, y),
            f"FD {name}, real halves": frechet_distance(y[:half], y[half:]),
            f"KD {name}": mmd(x, y),
            f"KD {name}, real halves": mmd(y[:half], y[half:]),
        }
    return found


def picture_distances(features, gallery: torch.Tensor, prompts, store: FrameStore) -> dict[str, float]:
    """Fréchet and kernel distances of generated middle frames to the real ones of other names, beside real to real.

    Half of the names against the other half, for both, so that the floor has as many pictures.
    """
    others = gallery[[_index_of(store, prompt) for prompt in prompts]]
    half = len(others) // 2
    found = {"pictures": half}
    for name, first in (("", features[:half]), (", real", others[:half])):
        found[f"FD{name}"] = frechet_distance(first, others[half:])
        found[f"KD{name}"] = mmd(first, others[half:])
    return found


def _real_of(store: FrameStore, prompt: dict) -> torch.Tensor:
    return real(store, _index_of(store, prompt), 16)


def _index_of(store: FrameStore, prompt: dict) -> int:
    return next(i for i, clip in enumerate(store.clips) if clip.caption == prompt["exact"])


def motion_against_real(clips, prompts, store: FrameStore) -> dict[str, float]:
    """Mean frame difference and flickering of generated clips beside the real clips of the same names."""
    change = lambda x: float((x[1:] - x[:-1]).abs().mean())
    rows = [(clip, _real_of(store, p)) for clip, p in zip(clips, prompts, strict=True)]
    rows = [(clip, other) for clip, other in rows if len(other) >= 16]
    ratios = torch.tensor([change(clip) / max(change(other), 1e-6) for clip, other in rows])
    flicker = torch.tensor([[motion.flicker(clip), motion.flicker(other)] for clip, other in rows]).mean(0)
    return {
        "clips": len(rows),
        "frame difference over real, median": float(ratios.median()),
        "flickering score": float(flicker[0]),
        "flickering score, real": float(flicker[1]),
    }


if __name__ == "__main__":
    main()
