"""The pages under docs/process: their code runs, their figures exist and are small."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.noise import iid
from kineograph.diffusion.samplers import ddim, ddpm
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.solvers import dpm_solver_pp

PAGES = sorted((Path(__file__).parents[2] / "docs" / "process").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs_and_figures_are_there(page, capsys):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        assert len([line for line in block.splitlines() if line.strip()]) <= 20
        exec(compile(block, str(page), "exec"), {})
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert 0 < (page.parent / figure).stat().st_size < 150_000
    for link in re.findall(r"[^!]\[.*?\]\((\S+?\.md)\)", text):
        assert (page.parent / link).is_file()


def test_every_idea_has_a_page():
    names = {page.stem for page in PAGES}
    assert names >= {"forward", "schedules", "parameterizations", "samplers", "inversion", "guidance", "noise-priors"}


@pytest.fixture(scope="module")
def bundled():
    path = Path(__file__).parents[2] / "docs" / "process" / "bundled.py"
    spec = importlib.util.spec_from_file_location("bundled", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def toy(x, t, condition):
    return torch.tanh(x + condition + t / 1000)


def test_comparison_of_samplers(bundled):
    schedule = Schedule.named("cosine")
    denoiser = NetworkDenoiser(lambda x, t, c: toy(x, t, 0.0), schedule, "v")
    runs = {"DDPM": (ddpm, 200), "exact": (ddim, 200), "DDIM": (ddim, 20), "DPM": (dpm_solver_pp, 20)}
    results, records = bundled.compare_samplers(denoiser, schedule, iid((4, 3, 8, 8), [0, 1]), [0, 1], runs)
    assert records["exact"]["error_of_solution"] == 0
    assert 0 < records["DPM"]["error_of_solution"] < records["DDIM"]["error_of_solution"] < 0.2
    assert records["DDPM"]["deviation_over_ddpm"] == 1
    picture = bundled.grid_picture([(name, clip[0]) for name, clip in results.items()])
    assert picture.size == (120 + 8, 4 * 8)


def test_round_trips(bundled):
    schedule = Schedule.named("cosine")
    network = lambda x, t, c: toy(x, t, c).float()
    denoiser = NetworkDenoiser(network, schedule, "v", torch.float32)
    clip, text, empty = iid((4, 3, 8, 8), [0]), torch.full((1, 1, 1, 1, 1), 0.3), torch.zeros(1, 1, 1, 1, 1)
    back = bundled.round_trips(denoiser, schedule, clip, text, empty, 3.0, 25)
    dB = {name: float(bundled.psnr(clip.double(), other)) for name, other in back.items()}
    assert min(dB["EDICT"], dB["BDIA"]) > 60
    assert dB["null-text, guided 3"] > dB["DDIM, guided 3"]
    assert dB["DDIM"] > dB["DDIM, guided 3"]
