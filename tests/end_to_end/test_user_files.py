"""Files as users write them: the README's, and those in examples/, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pintac
from pintac.api.evaluator import EvaluatorSession
from pintac.api.lowering import lower
from pintac.frontend import load_step

ROOT = Path(pintac.__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}


def readme_file() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_the_readmes_file_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "my_pde.py"
    path.write_text(readme_file())
    assert len(readme_file().splitlines()) <= 22
    lowered = lower(load_step(f"{path}:step"))
    assert lowered.graphs["step"].outputs.keys() >= {"metric:loss", "state:0.weight", "state:2.cores.0"}
    files = {node.loc.file for node in lowered.graphs["step"].nodes}
    assert str(path) in files, "operations carry the user's lines"


@pytest.mark.parametrize("path", EXAMPLES.values(), ids=EXAMPLES)
def test_examples_lower(path: Path) -> None:
    lowered = lower(load_step(f"{path}:step"))
    assert lowered.test is not None and "metric:loss" in lowered.graphs["step"].outputs


@pytest.mark.parametrize("name", ["allen_cahn_1d", "helmholtz2d"])
def test_the_loss_of_examples_falls(name: str) -> None:
    """A few steps on the evaluator, in the machine's arithmetic."""
    session = EvaluatorSession(lower(load_step(f"{EXAMPLES[name]}:step")), seed=0)
    losses = []
    for _ in range(8):
        session.step()
        losses.append(session.metrics()["loss"])
    assert losses[-1] < losses[0]


def test_an_example_is_solved_on_the_simulator() -> None:
    """Allen-Cahn, not built in: compiled, executed for a hundred steps, close to its exact solution and its twin."""
    result = pintac.train(load_step(f"{EXAMPLES['allen_cahn_1d']}:step"), 100, progress=False, twin=True)
    assert result.l2 < 0.02
    assert result.l2 < 2 * result.l2_twin
    assert result.cycles == 100 * result.cost.cycles_per_step


CODE = """
import sys
from pintac.api.compiling import build
from pintac.frontend import load_step
sys.stdout.write(build(load_step(sys.argv[1])).ir())
"""


def test_equal_text_under_another_hash_seed() -> None:
    """Lowering does not depend on the order of sets: `--emit=ir` twice, under two seeds of `hash`."""
    spec = f"{ROOT / 'examples' / 'helmholtz2d.py'}:step"

    def text(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CODE, spec], capture_output=True, text=True, env=environment, check=True, cwd=ROOT
        )
        return done.stdout

    first = text("1")
    assert len(first) > 10_000
    assert first == text("2")
