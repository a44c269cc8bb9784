"""Measure this machine with `kineograph bench` and keep the record: `benchmarks/speed.json` and a table in `speed.md`.

Run it on a quiet machine: python benchmarks/speed.py [--quick]. A machine with bfloat16 in hardware has a record of its
own, `speed_bfloat16.json` and `.md`.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

from kineograph.cli._output import markdown
from kineograph.cli.doctor import examine

HERE = Path(__file__).parent


def main() -> None:
    """Measure, then write both files under temporary names and rename them."""
    command = [sys.executable, "-m", "kineograph", "bench", "--json", *sys.argv[1:]]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    document = json.loads(done.stdout)
    cpu = examine().devices["cpu"]
    document["machine"] |= {"cpu": cpu["name"], "cores": cpu["usable_cores"], "system": platform.platform()}
    name = "speed_bfloat16" if "bfloat16" in document["ceiling_flops"] else "speed"
    write(HERE / f"{name}.json", json.dumps(document, indent=2) + "\n")
    write(HERE / f"{name}.md", page(document, sys.argv[1:], f"{name}.json"))


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)


def page(document: dict, words: list[str], times: str) -> str:
    """Return the Markdown record of one measurement, whose times stand in another file."""
    machine, versions = document["machine"], document["versions"]
    ceilings = [f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in document["ceiling_flops"].items()]
    size = document["size"]
    return "\n".join(
        [
            "# Speed beside diffusers",
            "",
            f"Written by `python benchmarks/speed.py {' '.join(words)}`".rstrip(" `")
            + "`; do not edit. Every time is in",
            f"`{times}`. Both sides hold the same weights and take turns in one process; the table gives medians of",
            f"{document['rounds']} rounds (whole samples and start-up: half as many); *ratio* is the median",
            "over the rounds of diffusers' time over ours, so above 1 means that kineograph is faster.",
            "",
            f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['device']}",
            f"- Versions: Python {versions['python']}, torch {machine['torch']}, diffusers {versions['diffusers']}, "
            f"kineograph {versions['kineograph']}",
            f"- Network: ModelScopeT2V, {document['parameters'] / 1e6:.1f} M parameters, {size['frames']} frames of "
            f"{size['latent']}x{size['latent']} latents; outputs differ by {document['output_difference']:.1e}",
            f"- Ceiling, a {2048}x{2048} matrix product: {', '.join(ceilings)}",
            *([f"- {document['load']['verdict']}"] if document["load"]["verdict"] else []),
            "",
            markdown(
                [row(result) for result in document["results"]],
                ("what", "type", "kineograph, s", "diffusers, s", "ratio", "GFLOP/s", "of ceiling"),
            ),
            "",
        ]
    )


def row(result: dict) -> tuple[str, ...]:
    """Return one line of the table."""
    ours, theirs = result["ours"], result["theirs"]
    rate = f"{ours['flops'] / 1e9:.0f}" if "flops" in ours else ""
    share = f"{ours['share_of_ceiling']:.0%}" if "flops" in ours else ""
    times = (f"{ours['median_seconds']:.3f}", f"{theirs['median_seconds']:.3f}")
    return (result["name"], result["dtype"] or "", *times, f"{result['ratio']:.2f}", rate, share)


if __name__ == "__main__":
    main()
