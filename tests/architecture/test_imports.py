"""Who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

import pintac
from tests.architecture.support import BLOCK_TORCH

ROOT = Path(pintac.__file__).parents[1]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300
    )


def test_import_contract() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout


def test_the_contract_notices_torch_outside_the_frontend() -> None:
    """The scan below sees an import of torch wherever it hides; the frontend proves that it can."""
    found = {
        path.relative_to(ROOT / "pintac").parts[0] for path in (ROOT / "pintac").rglob("*.py") if imports_torch(path)
    }
    assert found == {"frontend"}


def imports_torch(path: Path) -> bool:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return any(name.split(".")[0] == "torch" for name in names)


def imported(path: Path) -> set[Path]:
    """The files of pintac that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pintac."):
            module = ROOT.joinpath(*node.module.split("."))
            files = [file_of(module / alias.name) or file_of(module) for alias in node.names]
            found |= {file for file in files if file is not None}
    return found


def file_of(module: Path) -> Path | None:
    files = (module.with_suffix(".py"), module / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@pytest.mark.parametrize("room", ["frontend", "ir"])
def test_files_of_a_room_import_one_way(room: str) -> None:
    """No circles, not even in functions or for types alone."""
    graph = networkx.DiGraph()
    for path in (ROOT / "pintac" / room).rglob("*.py"):
        graph.add_edges_from((path, other) for other in imported(path))
    circles = [sorted(map(str, group)) for group in networkx.strongly_connected_components(graph) if len(group) > 1]
    assert not circles


def test_import_pintac_loads_nothing() -> None:
    done = run_python("import sys, pintac; print(sorted({m.split('.')[0] for m in sys.modules}))")
    assert done.returncode == 0, done.stderr
    loaded = ast.literal_eval(done.stdout)
    assert not {"torch", "numpy", "numba", "rich", "safetensors", "lark"} & set(loaded)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_no_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom pintac.cli import main\ncode = main(sys.argv[1:])\n"
        "print(code, [m for m in ('torch', 'numpy', 'numba', 'rich') if m in sys.modules])"
    )
    done = run_python(code, *arguments)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


def test_exports_are_the_same_for_type_checkers() -> None:
    """The table that `__getattr__` reads and the imports that mypy reads name the same things."""
    tree = ast.parse((ROOT / "pintac/__init__.py").read_text())
    guarded = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == pintac._EXPORTS


def test_every_export_resolves() -> None:
    for name in pintac.__all__:
        assert getattr(pintac, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pintac.nonsense


def test_runtime_without_torch() -> None:
    code = BLOCK_TORCH + (
        "import pintac.program, pintac.machine, pintac.timeline, pintac.hazards, pintac.asm\n"
        "import pintac.runtime.session, pintac.runtime.reference, pintac.runtime.jit, pintac.api, pintac.cli\n"
        "assert pintac.load and pintac.run and pintac.predict\n"
        "try:\n    import torch\nexcept ImportError:\n    print('blocked')\n"
    )
    done = run_python(code)
    assert done.stdout.strip() == "blocked", done.stderr
