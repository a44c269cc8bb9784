"""An output folder of `kineograph curate` with known rows, pictures and clips, made without running it."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image, ImageDraw

from kineograph.curation import rows
from kineograph.curation.duplicates import video_hash

CONFIG = "c0ffee"


def source(number=0, **changes):
    fields = {
        "source_id": f"{number:040x}",
        "path": f"films/film-{number}.mp4",
        "name": f"film-{number}.mp4",
        "bytes": 1000 + number,
        "status": "ok",
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "width": 640,
        "height": 360,
        "fps": 25.0,
        "duration": 40.0,
        "frames": 1000,
        "start_pts": 0,
        "end_pts": 512000,
        "time_base": "1/12800",
        "keyframes": [0, 128000, 256000, 384000],
        "hard_cuts": [128000, 256000],
        "gradual": [[300000, 330000]],
        "shots": 4,
        "licence": "CC0",
        "config": CONFIG,
    }
    return rows.SourceRow(**{**fields, **changes})


def clip(number, owner, **changes):
    clip_id = hashlib.blake2b(f"clip {number}".encode(), digest_size=20).hexdigest()
    start = 12800 * 10 * (number % 4)
    fields = {
        "clip_id": clip_id,
        "source_id": owner.source_id,
        "source_path": owner.path,
        "path": rows.clip_file(clip_id),
        "start_pts": start,
        "end_pts": start + 102400,
        "time_base": "1/12800",
        "start": start / 12800,
        "end": start / 12800 + 8,
        "duration": 8.0,
        "frames": 200,
        "fps": 25.0,
        "width": 640,
        "height": 360,
        "method": "copy",
        "motion_mean": 0.001 * number,
        "motion_median": 0.001 * number,
        "motion_p10": 0.0005 * number,
        "motion_p90": 0.002 * number,
        "motion_algorithm": "farneback",
        "motion_size": "320x180",
        "motion_fps": 2.0,
        "licence": "CC0",
    }
    return rows.ClipRow(**{**fields, **changes})


def picture(number, height=90, width=160):
    """Give a strip, uint8 (3, height, width, 3): a block pattern of its own and a square that moves over it."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
    frames = []
    for step in range(3):
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        x = width // 10 + step * width // 5
        ImageDraw.Draw(image).rectangle((x, height // 3, x + width // 8, height // 2), fill=(255, 240, 40))
        frames.append(np.asarray(image))
    return np.stack(frames)


def write_part(file, table, schema):
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(table, schema), file)


def write_strip(out, clip_id, strip):
    file = out / rows.strip_file(clip_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(strip), axis=1)).save(file, quality=90)


def write_clip(out, row, size=2000):
    """Write bytes in place of a film; exports copy them and look at nothing in them."""
    file = out / row.path
    file.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(int(row.clip_id[:8], 16)).bytes(size)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def scores(number):
    return {
        "text_area": 0.01 * (number % 10),
        "aesthetic": 4 + 0.25 * (number % 8),
        "clip_similarity": 0.2 + 0.01 * ((7 * number) % 16),
    }


def output(out, clips=16, sources=2, captions=True):
    """Fabricate an output folder; clip `i` has `motion_mean` 0.001 i and `scores(i)`."""
    out = Path(out)
    owners = [source(n) for n in range(sources)]
    made = []
    for number in range(clips):
        owner = owners[number % sources]
        row = clip(number, owner)
        strip = picture(number)
        write_strip(out, row.clip_id, strip)
        made.append(dataclasses.replace(row, sha256=write_clip(out, row), phash=video_hash(strip)))
    for owner in owners:
        mine = [row for row in made if row.source_id == owner.source_id]
        table = [dataclasses.asdict(row) for row in mine]
        write_part(rows.clips_part(out, owner.source_id, CONFIG), table, rows.schema(rows.ClipRow))
        write_scores(out, owner, mine, made, captions)
        kept = dataclasses.asdict(dataclasses.replace(owner, clips=len(mine)))
        write_part(rows.source_part(out, owner.source_id, CONFIG), [kept], rows.schema(rows.SourceRow))
    failed = dataclasses.asdict(source(90, status="unreadable", reason="not <a> video", path="films/bad & ugly.txt"))
    write_part(rows.source_part(out, failed["source_id"], CONFIG), [failed], rows.schema(rows.SourceRow))
    return made


def write_scores(out, owner, mine, made, captions):
    tables = {"text_area": ["text_area"], "clip": ["aesthetic", "clip_similarity"]}
    for scorer, columns in tables.items():
        schema = rows.schema_of({"clip_id": "string", **dict.fromkeys(columns, "double")})
        values = [{"clip_id": row.clip_id, **scores(made.index(row))} for row in mine]
        write_part(rows.scores_part(out, scorer, owner.source_id, "f00d"), values, schema)
    if captions:
        kind = "list<struct<text: string, captioner: string, weight: double>>"
        schema = rows.schema_of({"clip_id": "string", "captions": kind})
        values = [{"clip_id": row.clip_id, "captions": caption_rows(made.index(row))} for row in mine]
        write_part(rows.scores_part(out, "captions", owner.source_id, "beef"), values, schema)


def caption_rows(number):
    return [
        {"text": f"{who} says {number}", "captioner": who, "weight": weight}
        for who, weight in (("coca", 0.5), ("v-blip", 0.25), ("llm", 0.25))
    ]
