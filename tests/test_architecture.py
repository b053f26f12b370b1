"""Imports run one way, the library draws and prints nothing on its own, and the two names of the project agree."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import sdot
from sdot import _conflict

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"_checks", "_files", "_conflict"},
    {"kernels"},
    {"_random"},
    {"measures"},
    {"semidual", "maps", "barycentric"},
    {"certificate", "solvers", "cells", "simplicial"},
    {"checkpoint", "stars", "budget"},
    {"blending", "solution"},
    {"affine", "triangulation"},
    {"extension"},
    {"serialization"},
    {"plot", "cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "sdot").rglob("*.py"))


def module_of(path):
    """The layer's name: kernels and solvers are packages."""
    parts = path.relative_to(ROOT / "sdot").with_suffix("").parts
    return parts[0]


def imports(path):
    """Names of the library's own modules that a file imports, packages counted as one."""
    depth = len(path.relative_to(ROOT / "sdot").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:  # reaches up to sdot/
            yield from [node.module.split(".")[0]] if node.module else [a.name for a in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = module_of(path)
    for name in imports(path):
        if name not in LEVEL:
            continue  # a name that __init__ defines, not a module
        allowed = LEVEL[name] < LEVEL[own] or (own == "certificate" and name in ("maps", "semidual"))
        assert allowed, f"{path.name} imports {name}, which is not below it"


def test_every_module_has_its_place():
    assert {module_of(p) for p in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_seeds_nor_prints_nor_unpickles(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    forbidden = {"torch.manual_seed", "np.random.seed", "torch.load", "pickle.load", "pickle.loads"}
    if path.name != "cli.py":
        forbidden.add("print")
    assert not calls & forbidden


@pytest.mark.parametrize(
    "path", [p for p in ROOT.rglob("*.py") if not {".venv", "_build"} & set(p.parts)], ids=lambda p: p.name
)
def test_files_are_of_a_size_to_read(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400 or path.parent.name == "tests", f"{path} has {lines} lines and wants splitting"


@pytest.mark.parametrize("folder", ["examples", "benchmarks", "docs/tutorials"])
def test_examples_benchmarks_and_tutorials_use_public_names(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sdot."):
                raise AssertionError(f"{path} imports from {node.module}")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sdot":
                assert node.attr in (*sdot.__all__, "__version__"), f"{path} uses sdot.{node.attr}"


def test_pyproject_agrees_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == sdot.__version__
    assert project["description"] == _conflict.SUMMARY
    for name in sdot.__all__:
        assert getattr(sdot, name).__doc__, f"sdot.{name} has no docstring"


def test_the_documentation_has_every_public_name():
    listed = {line.strip() for line in (ROOT / "docs" / "api.md").read_text().splitlines() if line.startswith("   ")}
    assert set(sdot.__all__) <= listed


def test_the_documentation_has_every_page_and_tutorial():
    docs = ROOT / "docs"
    trees = "".join("".join(re.findall(r"```{toctree}(.*?)```", page.read_text(), re.S)) for page in docs.glob("*.md"))
    assert {page.stem for page in docs.glob("*.md")} <= {"index", "api", *trees.split()}
    order = ast.literal_eval(re.search(r"TUTORIALS = (\(.*?\))", (docs / "conf.py").read_text()).group(1))
    assert {f"plot_{name}" for name in order} == {path.stem for path in (docs / "tutorials").glob("*.py")}


def test_another_distribution_of_the_same_name_is_said(tmp_path, monkeypatch):
    folder = tmp_path / "sdot-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sdot\nVersion: 0.1.0\nSummary: another\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(RuntimeWarning, match=r"another distribution called sdot is installed: 0.1.0 \(another\)"):
        _conflict.warn_of_other_distribution()
