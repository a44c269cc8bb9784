"""`kineograph doctor`: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineograph.cli._output import emit, table
from kineograph.errors import InputError

GIB = 2**30
SMALL_MEMORY_GIB = 4.0  # the bundled model, torch and a clip fit into this
SMALL_DISK_GIB = 2.0
CHECKSUMS = "SHA256SUMS"
"""File beside the bundled weights, in the format of `sha256sum`."""

_PROBES = {"emoji": "emoji", "pillow": "PIL", "scikit-image": "skimage", "pytest-xdist": "xdist"}
_DEVELOPERS = ("test", "dev")


@dataclass(frozen=True)
class Args:
    """Say what is installed, what is missing and how to mend it.

    Exit status 0 when the core works, 1 when a part of the core is missing or broken.
    """

    json: bool = False
    """Print one JSON document instead of text."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something missing, and the command or advice that mends it."""

    what: str
    tip: str
    core: bool = False


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All that was found."""

    versions: Mapping[str, str | None]
    packages: list[dict[str, Any]]
    extras: dict[str, dict[str, Any]]
    devices: dict[str, Any]
    memory: dict[str, float | None]
    disk: dict[str, Any]
    programs: dict[str, str | None]
    model: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the core works."""
        return not any(problem.core for problem in self.problems)


def run(args: Args) -> int:
    """Examine the installation and print what was found."""
    found = examine()
    document = {"ok": found.ok, **{name: getattr(found, name) for name in found.__dataclass_fields__}}
    emit(document, lambda: _text(found), args.json)
    return 0 if found.ok else 1


def examine() -> Examination:
    """Look at the installation and the machine.

    Returns:
        The findings, with a problem for each thing missing.
    """
    needs = requirements()
    packages = [_package(name, bound) for name, bound in sorted(needs.get("", {}).items())]
    extras = {
        extra: _extra(extra, names) for extra, names in sorted(needs.items()) if extra and extra not in _DEVELOPERS
    }
    found = Examination(
        versions={
            "kineograph": _version("kineograph"),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        packages=packages,
        extras=extras,
        devices=_devices(),
        memory=_memory(),
        disk=_disk(Path.cwd()),
        programs={"npm": _program_version("npm")},
        model=_bundled_model(Path(__file__).parents[1] / "bundled"),
    )
    found.problems.extend(_problems(found))
    return found


# Packages --------------------------------------------------------------------------------------------------------


def requirements(distribution: str = "kineograph") -> dict[str, dict[str, str]]:
    """Read what the installed package declares.

    Args:
        distribution: Name of the installed distribution.

    Returns:
        `{extra: {package: version bound}}`, the core under the empty string; extras that only name other extras are
        resolved to their packages.
    """
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    needs: dict[str, dict[str, str]] = {}
    for line in lines:
        name, bound, extra = _requirement(line)
        needs.setdefault(extra, {})[name] = bound
    return {extra: {n: b for n, b in names.items() if n != distribution} for extra, names in needs.items()}


def _requirement(line: str) -> tuple[str, str, str]:
    """Split `name>=1; extra == "x"` into name, bound and extra."""
    spec, _, marker = line.partition(";")
    name = re.match(r"[\w.-]+", spec)
    extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
    assert name is not None, line
    bound = re.sub(r"^\[[^]]*\]", "", spec[name.end() :].strip())
    return name.group().lower(), bound.strip(" ()"), extra.group(1) if extra else ""


def _package(name: str, bound: str) -> dict[str, Any]:
    """Try to import a core package and compare its version with the declared bound."""
    version = _version(name)
    failure = None if version is None else _import_failure(_PROBES.get(name, name))
    return {"name": name, "version": version, "needs": bound, "fits": _fits(version, bound), "failure": failure}


def _extra(extra: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Say which packages of an extra are missing; nothing is imported."""
    missing = [name for name, bound in sorted(names.items()) if not _fits(_version(name), bound)]
    return {"installed": not missing, "missing": missing, "install": f'pip install "kineograph[{extra}]"'}


def _version(name: str) -> str | None:
    """Return an installed distribution's version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(version: str | None, bound: str) -> bool:
    """Tell whether a version is installed and within the bound; without `packaging` any version will do."""
    if version is None:
        return False
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return SpecifierSet(bound).contains(version, prereleases=True)


def _import_failure(module: str) -> str | None:
    """Import a module; return the error's text, or None when it works."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


# Machine ---------------------------------------------------------------------------------------------------------


def _devices() -> dict[str, Any]:
    """Describe the processor and, where torch sees one, the accelerators."""
    flags = _cpu_flags()
    processor = {
        "name": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
        "amx": "amx_tile" in flags,
    }
    return {"cpu": processor, **_torch_devices()}


def _torch_devices() -> dict[str, Any]:
    """Ask torch for its threads and accelerators; empty where torch does not import."""
    try:
        import torch
    except Exception:
        return {"threads": None, "accelerators": [], "bf16": None}
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator is not None else 0
    names = [_accelerator(accelerator, index) for index in range(count)]
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerators": names,
        "bf16": _bf16(),
    }


def _bf16() -> dict[str, Any]:
    """Say whether networks compute in bfloat16 when nothing else is asked for, and who says so."""
    from kineograph.devices import BF16_SWITCH, has_bf16

    said = os.environ.get(BF16_SWITCH, "")
    try:
        return {"default": has_bf16(), "switch": BF16_SWITCH, "said": said, "wrong": ""}
    except InputError as error:
        return {"default": None, "switch": BF16_SWITCH, "said": said, "wrong": str(error)}


def _accelerator(device: Any, index: int) -> dict[str, Any]:
    """Name an accelerator and its memory, as far as its back end tells."""
    import torch

    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    facts = properties(index) if properties is not None else None
    total = getattr(facts, "total_memory", None)
    return {
        "device": f"{device.type}:{index}",
        "name": getattr(facts, "name", device.type),
        "memory_gib": None if total is None else round(total / GIB, 1),
    }


def _cpu_flags() -> set[str]:
    """Read the processor's features where the system lists them (Linux)."""
    text = _cpu_info()
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, flags=re.MULTILINE)
    return set(line.group(1).split()) if line else set()


def _cpu_name() -> str:
    """Return the processor's name."""
    line = re.search(r"^model name\s*:\s*(.*)$", _cpu_info(), flags=re.MULTILINE)
    return line.group(1) if line else platform.processor() or platform.machine()


def _cpu_info() -> str:
    """Return the text of /proc/cpuinfo, or an empty string."""
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.exists() else ""


def _memory() -> dict[str, float | None]:
    """Measure memory in GiB: all of it, and what is free for new work."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        path = Path("/proc/meminfo")
        line = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text()) if path.exists() else None
    except (OSError, ValueError):
        return {"total_gib": None, "available_gib": None}
    available = round(int(line.group(1)) * 1024 / GIB, 1) if line else None
    return {"total_gib": round(total / GIB, 1), "available_gib": available}


def _disk(path: Path) -> dict[str, Any]:
    """Measure the free space in GiB where the user stands."""
    return {"path": path, "free_gib": round(shutil.disk_usage(path).free / GIB, 1)}


def _program_version(name: str) -> str | None:
    """Return what `NAME --version` prints, or None where the program is not on the path or does not answer."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


# Bundled model ---------------------------------------------------------------------------------------------------


def _bundled_model(folder: Path) -> dict[str, Any]:
    """Find the bundled weights and compare them with their checksums."""
    weights = sorted(folder.rglob("*.safetensors"))
    sums = list(_checksums(folder))
    wrong = [str(path.relative_to(folder)) for path, expected in sums if not path.exists() or _sha256(path) != expected]
    size = sum(path.stat().st_size for path in weights)
    return {
        "path": folder,
        "present": bool(weights),
        "mib": round(size / 2**20, 1),
        "checked": len(sums),
        "wrong": wrong,
    }


def _checksums(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each listed file and its expected digest."""
    for sums in sorted(folder.rglob(CHECKSUMS)):
        for line in sums.read_text().splitlines():
            digest, _, name = line.partition("  ")
            yield sums.parent / name.strip(), digest


def _sha256(path: Path) -> str:
    """Hash a file without reading it whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Judgement -------------------------------------------------------------------------------------------------------


def _problems(found: Examination) -> Iterator[Problem]:
    """Yield what is wrong, the core first."""
    yield from _package_problems(found)
    yield from _model_problems(found.model)
    yield from _extra_problems(found)
    yield from _machine_problems(found)


def _package_problems(found: Examination) -> Iterator[Problem]:
    if not found.packages:
        yield Problem(what="kineograph is not installed as a package", tip="pip install kineograph", core=True)
    for package in found.packages:
        name, version = package["name"], package["version"]
        install = f'pip install "{name}{package["needs"]}"'
        if version is None:
            yield Problem(what=f"{name} is not installed", tip=install, core=True)
        elif package["failure"]:
            tip = f"pip install --force-reinstall --no-deps {name}=={version}"
            yield Problem(what=f"{name} {version} does not import ({package['failure']})", tip=tip, core=True)
        elif not package["fits"]:
            yield Problem(what=f"{name} {version} is outside {package['needs']}", tip=f"{install} --upgrade", core=True)


def _model_problems(model: Mapping[str, Any]) -> Iterator[Problem]:
    reinstall = "pip install --force-reinstall --no-deps kineograph (or `git checkout` the files of a clone)"
    if not model["present"]:
        yield Problem(what="the bundled model is missing", tip=reinstall)
    for name in model["wrong"]:
        yield Problem(what=f"the bundled file {name} is damaged", tip=reinstall, core=True)


def _extra_problems(found: Examination) -> Iterator[Problem]:
    for extra in found.extras.values():
        if not extra["installed"]:
            yield Problem(what=f"optional: {', '.join(extra['missing'])} not installed", tip=extra["install"])
    if found.programs["npm"] is None:
        tip = "apt-get install npm, or pass already downloaded archives: kineograph data emoji --archives DIR"
        yield Problem(what="optional: npm, which downloads the emoji data set, is not installed", tip=tip)


def _machine_problems(found: Examination) -> Iterator[Problem]:
    if (bf16 := found.devices["bf16"]) and bf16["wrong"]:
        yield Problem(what=bf16["wrong"], tip=f"unset {bf16['switch']}, or set it to 1 or 0", core=True)
    available, free = found.memory["available_gib"], found.disk["free_gib"]
    if available is not None and available < SMALL_MEMORY_GIB:
        yield Problem(
            what=f"only {available} GiB of memory are free", tip="close other programs, or ask for fewer frames"
        )
    if free < SMALL_DISK_GIB:
        yield Problem(
            what=f"only {free} GiB are free in {found.disk['path']}", tip="free some space, or work on another disk"
        )


# Text ------------------------------------------------------------------------------------------------------------


def _text(found: Examination) -> str:
    """Return the findings for people."""
    packages = [(p["name"], p["version"] or "missing", p["needs"]) for p in found.packages]
    extras = [(name, "installed" if e["installed"] else "missing", _cost(e)) for name, e in found.extras.items()]
    blocks = [
        "\n".join(f"{name} {version}" for name, version in found.versions.items()) + f"\nat {sys.executable}",
        table(packages, ("package", "installed", "needs")),
        table(extras, ("extra", "state", "install with")),
        "\n".join(_machine_lines(found)),
        "\n".join(_problem_lines(found)),
    ]
    return "\n\n".join(blocks)


def _cost(extra: Mapping[str, Any]) -> str:
    """Return the install command where something is missing."""
    return "" if extra["installed"] else extra["install"]


def _machine_lines(found: Examination) -> Iterator[str]:
    cpu, memory, model = found.devices["cpu"], found.memory, found.model
    features = [name for name in ("avx2", "avx512", "bf16", "amx") if cpu[name]]
    yield f"processor    {cpu['name']}, {cpu['usable_cores']} cores, {found.devices['threads']} threads in torch"
    yield f"features     {', '.join(features) or 'none listed'}"
    if found.devices["bf16"]:
        yield f"arithmetic   {_arithmetic(found.devices['bf16'])}"
    shown = [f"{a['device']} {a['name']}" for a in found.devices["accelerators"]]
    yield f"accelerators {', '.join(shown) or 'none'}"
    yield f"memory       {memory['available_gib']} GiB free of {memory['total_gib']} GiB"
    yield f"disk         {found.disk['free_gib']} GiB free in {found.disk['path']}"
    yield f"npm          {found.programs['npm'] or 'missing'}"
    yield f"model        {_model_line(model)}"


def _arithmetic(bf16: Mapping[str, Any]) -> str:
    """Say what networks compute in, and how to change it."""
    asked = f"as {bf16['switch']}={bf16['said']} says" if bf16["said"] else "as the hardware is"
    default = "bfloat16" if bf16["default"] else "float32"
    return f"{default}, {asked} ({bf16['switch']}=1 or 0 to take bfloat16 or float32, --precision for one command)"


def _model_line(model: Mapping[str, Any]) -> str:
    """Describe the bundled model in a few words."""
    if not model["present"]:
        return "missing"
    checked = (
        f"{model['checked']} checksums {'wrong' if model['wrong'] else 'right'}" if model["checked"] else "no checksums"
    )
    return f"{model['mib']} MiB, {checked}"


def _problem_lines(found: Examination) -> Iterator[str]:
    for problem in found.problems:
        yield f"{'PROBLEM' if problem.core else 'note'}: {problem.what}\n    mend: {problem.tip}"
    yield "The core works." if found.ok else "The core does not work."
