"""Who may import whom, what importing costs, and what no source file may contain (DESIGN.md, promises 4 and 6)."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from kineograph.cli.doctor import requirements

SRC = Path(__file__).parents[1] / "src" / "kineograph"
FILES = sorted(SRC.rglob("*.py"))

BASE = {"video", "errors"}
ABOVE_SYSTEMS = {"sampling", "training", "editing", "metrics"}
CHAIN = ["devices", "diffusion", "temporal", "models", "systems"]
# Each part and the parts it may import, besides itself and BASE. Checkpoints turns files of every layout into networks
# and back, so it uses models and the systems' key maps; sampling uses it to load what the user names.
ALLOWED: dict[str, set[str]] = {
    "video": {"errors"},
    "errors": set(),
    "devices": set(),
    "diffusion": set(),
    "temporal": {"devices", "diffusion"},
    "models": {"devices", "diffusion", "temporal"},
    "systems": set(CHAIN[:4]),
    "checkpoints": set(CHAIN),
    "sampling": {*CHAIN, "checkpoints", "bundled"},
    "training": {*CHAIN, "checkpoints", "sampling", "data"},
    "editing": {*CHAIN, "checkpoints", "sampling"},
    "metrics": {*CHAIN, "checkpoints", "data"},
    "data": set(),
    "curation": set(),
    "bundled": set(),
    "studio": {*CHAIN, *ABOVE_SYSTEMS, "checkpoints", "data", "curation", "bundled"},
    "cli": {*CHAIN, *ABOVE_SYSTEMS, "checkpoints", "data", "curation", "bundled", "studio"},
}
FACE = {"__init__", "__main__"}  # the package itself: names of everything, imported on first use
SHARED = ("diffusion", "temporal", "models")
DEVICE_FILES = {"devices.py"}


def part_of(path: Path) -> str:
    """Name the part a file belongs to: its folder, or its own name at the top level."""
    relative = path.relative_to(SRC)
    return home(relative.parts[0] if len(relative.parts) > 1 else relative.stem)


def home(name: str) -> str:
    """Count the private modules at the top level, which read and write files, to `video`."""
    return "video" if name.startswith("_") and not name.startswith("__") else name


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each module of this package that a file imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith("kineograph."))
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            if module == "kineograph":
                yield from ((f"kineograph.{alias.name}", node.lineno) for alias in node.names)
            elif module.startswith("kineograph."):
                yield module, node.lineno


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """Resolve a relative import."""
    if not node.level:
        return node.module or ""
    package = ["kineograph", *path.relative_to(SRC).parts[:-1]]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def wrong_imports(path: Path) -> list[str]:
    """List the imports of a file that the order of parts forbids."""
    part = part_of(path)
    base = set() if part in BASE else BASE
    allowed = ALLOWED[part] | base | {part, "__version__"}
    found = ((home(module.split(".")[1]), line) for module, line in own_imports(path))
    return [f"{path.relative_to(SRC)}:{line} imports {target}" for target, line in found if target not in allowed]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_follow_the_order_of_parts(path):
    if part_of(path) not in FACE:
        assert wrong_imports(path) == []


def test_the_order_of_parts_is_complete_and_has_no_cycle():
    assert {part_of(path) for path in FILES} - FACE - BASE <= set(ALLOWED)
    remaining = {part: set(below) for part, below in ALLOWED.items()}
    while remaining:
        lowest = [part for part, below in remaining.items() if not below & set(remaining)]
        assert lowest, f"cycle among {sorted(remaining)}"
        for part in lowest:
            del remaining[part]


def test_a_forbidden_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SRC", tmp_path)
    path = tmp_path / "temporal" / "layer.py"
    path.parent.mkdir()
    path.write_text("def f():\n    from ..systems import svd\n    from kineograph import cli, errors\n")
    assert wrong_imports(path) == ["temporal/layer.py:2 imports systems", "temporal/layer.py:3 imports cli"]


# Shared parts know no system -------------------------------------------------------------------------------------


def registry_names() -> set[str]:
    """Return the systems' names: the modules of the registry's folder that describe a paper."""
    files = (SRC / "systems").glob("*.py")
    return {path.stem for path in files if not path.stem.startswith("_") and "arXiv" in path.read_text()}


def squeezed(word: str) -> str:
    """Drop case and separators, so that `ModelScopeT2V` and `modelscope_t2v` are one word."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def system_tests(tree: ast.AST, names: set[str]) -> list[str]:
    """List what tells systems apart: a string that is a system's name, or a condition on an identifier with one in it.

    Docstrings and comments may cite any paper, and a function may be named after the paper its formula comes from.
    """
    conditions = (ast.If, ast.IfExp, ast.While, ast.Assert)
    tests = [node.test for node in ast.walk(tree) if isinstance(node, conditions)]
    tests += [node for node in ast.walk(tree) if isinstance(node, ast.Compare | ast.match_case)]
    words = {(n.id, n.lineno) for t in tests for n in ast.walk(t) if isinstance(n, ast.Name)}
    words |= {(n.attr, n.lineno) for t in tests for n in ast.walk(t) if isinstance(n, ast.Attribute)}
    found = [f"{line}: {word}" for word, line in sorted(words) if any(name in squeezed(word) for name in names)]
    strings = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return found + [f"{n.lineno}: {n.value!r}" for n in strings if squeezed(str(n.value)) in names]


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) in SHARED], ids=lambda p: str(p.relative_to(SRC)))
def test_shared_parts_test_no_systems_name(path):
    assert system_tests(ast.parse(path.read_text()), {squeezed(name) for name in registry_names()}) == []


def test_a_test_of_a_systems_name_is_found():
    code = "def lavie_norm(x):\n    'As in LaVie.'\n    return x\nif cfg.is_lavie: pass\nif kind == 'La-Vie': pass\n"
    assert system_tests(ast.parse(code), {"lavie"}) == ["4: is_lavie", "5: 'La-Vie'"]


# What no source file may contain ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_device_is_named_outside_one_file(path):
    if path.name in DEVICE_FILES:
        return
    nodes = list(ast.walk(ast.parse(path.read_text())))
    strings = [
        n.lineno for n in nodes if isinstance(n, ast.Constant) and re.fullmatch(r"(cuda|mps)(:\d+)?", str(n.value))
    ]
    modules = [n.lineno for n in nodes if isinstance(n, ast.Attribute) and n.attr in ("cuda", "mps")]
    assert strings + modules == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_pickle_no_torchvision(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torchvision"}
        assert not {module.split(".")[0] for module in modules} & banned, f"{path}:{node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.load",
            "load_file",
            "np.load",
            "numpy.load",
        ):
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = ast.unparse(node.func) == "torch.load" and told.get("weights_only") != "True"
            assert not unsafe, f"{path}:{node.lineno} torch.load without weights_only=True"
            assert told.get("allow_pickle", "False") == "False", f"{path}:{node.lineno} allows pickles"


def test_no_file_is_a_drawer():
    drawers = {"utils", "util", "misc", "helpers", "common", "tools"}
    assert [str(path) for path in FILES if path.stem.strip("_") in drawers] == []


# What importing costs --------------------------------------------------------------------------------------------


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    code = f"import sys; {statement}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "av", "PIL", "scipy"}


@pytest.mark.parametrize(
    "statement",
    [
        "import kineograph",
        "import kineograph; dir(kineograph); kineograph.__version__",
        "import kineograph.cli",
        "import kineograph.cli as c; c.main(['--help'])",
        "import kineograph.cli as c; c.main(['doctor', '--help'])",
    ],
)
def test_the_face_and_the_command_line_are_light(statement):
    assert loaded_after(statement) & HEAVY == set()


def optional_modules() -> set[str]:
    """Return the importable names of every package that only extras bring."""
    needs = requirements()
    optional = {name for extra, names in needs.items() if extra for name in names} - set(needs[""])
    return {module for module, owners in packages_distributions().items() if {o.lower() for o in owners} & optional}


def test_every_module_imports_without_extras():
    modules = sorted(
        ".".join(["kineograph", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py"
    )
    absent = sorted(optional_modules())
    assert {"pytest", "matplotlib", "emoji"} <= set(absent)
    code = (
        "import sys, importlib, warnings; warnings.simplefilter('ignore')\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "failed = []\n"
        f"for name in {modules}:\n"
        "    try: importlib.import_module(name)\n"
        "    except Exception as error: failed.append(f'{name}: {type(error).__name__}: {error}')\n"
        "print('\\n'.join(failed)); sys.exit(bool(failed))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
