"""The lower bound: the independent script against docs/MACHINE.md section 5, the compiler's against the script."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pintac.api.lowering import lower
from pintac.backend.bound import Bound, lower_bound
from pintac.backend.simplex import maximise
from pintac.errors import PintacError
from pintac.frontend import (
    Adam,
    Problem,
    SecondDifference,
    Term,
    TrainStep,
    TTLinear,
    Uniform,
    laplacian,
    linear_decay,
)  # fmt: skip
from pintac.machine import Machine
from pintac.passes import PipelineOptions

PATH = Path(__file__).parents[2] / "tools" / "lower_bound.py"
PINTA = Machine.default()


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lower_bound_script", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def golden(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert SCRIPT.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_script_imports_nothing_of_ours() -> None:
    assert "import pintac" not in PATH.read_text() and "from pintac" not in PATH.read_text()


@pytest.mark.parametrize(
    ("rank", "tcu", "vpu"), [(16, 36_096, 25_600), (8, 19_712, 25_088), (32, 68_864, 26_624), (0, 265_472, 24_576)]
)
def test_golden_values(rank: int, tcu: float, vpu: float, capsys: pytest.CaptureFixture[str]) -> None:
    out = golden(capsys, "--rank", str(rank))
    assert (out["tcu"], out["vpu"]) == (tcu, vpu)
    assert out["cycles"] == pytest.approx(max(tcu, vpu), rel=1e-6)


@pytest.mark.parametrize(
    ("rate", "cycles"), [(64, 36_096 + 1_536 + 1_280), (32, 36_096 + 3_584 + 4_096 + 3_328 + 2_048)]
)
def test_matmuls_one_by_one(rate: int, cycles: float) -> None:
    """Results last longer than products in the first layer and before the last one; at 32 in every expansion, too."""
    machine = SCRIPT.read_machine("pinta") | {"psum_write_fp32_per_cycle": rate}
    sizes = {"inputs": 2, "width": 256, "hidden": 3, "outputs": 1, "rank": 16, "evaluations": 512}
    out = SCRIPT.bound(machine, **sizes)
    assert out["tcu_each_alone"] == cycles
    assert out["tcu"] == 36_096


def test_golden_parts(capsys: pytest.CaptureFixture[str]) -> None:
    out = golden(capsys)
    assert [out[f"macs_{part}"] for part in ("forward", "dx", "dw")] == [18_432, 17_408, 18_432]
    assert (out["tcu_forward"], out["tcu_backward"]) == (9_216, 26_880)
    assert out["cycles_all_points"] == pytest.approx(3_609_600)
    # 3 x 136 KB of activations, 17 KB between the matmuls, a first input of one block column
    assert out["crossing_bytes"] == 3 * 136 * 1024 + 17 * 1024 + 128 * 17
    assert out["weight_bytes"] == pytest.approx(19 * 1024, rel=0.02)


def test_recomputing_everything_costs_what_the_specification_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a bus and without room, the forward pass runs twice: (36,096 + 9,216) / 36,096 = 1.26 at most."""
    machine = SCRIPT.read_machine("pinta") | {"dram_gb_per_s": 1e-6, "sram_kib": 64}
    shape = {"inputs": 2, "width": 256, "hidden": 3, "outputs": 1, "rank": 16, "evaluations": 512}
    ratio = SCRIPT.bound(machine, **shape)["cycles"] / 36_096
    assert 1.15 < ratio < 1.26


class _Poisson(Problem):
    def terms(self):  # type: ignore[no-untyped-def]
        return [Term("interior", Uniform([(0.0, 1.0)] * 2), self.pde, points=25)]

    def pde(self, u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))


def graph_bound(rank: int, machine: Machine = PINTA, evaluations: int = 512, **options: str) -> Bound:
    def hidden() -> torch.nn.Module:
        return TTLinear(256, 256, rank=rank) if rank else torch.nn.Linear(256, 256)

    net = torch.nn.Sequential(
        torch.nn.Linear(2, 256), torch.nn.Tanh(), hidden(), torch.nn.Tanh(), hidden(), torch.nn.Tanh(),
        torch.nn.Linear(256, 1),
    )  # fmt: skip
    estimator = SecondDifference(K=evaluations, sigma=0.01)
    step = TrainStep(net, _Poisson(), Adam(1e-3, schedule=linear_decay(10)), estimator)
    return lower_bound(lower(step, PipelineOptions(**options)).graphs["step"], machine)


@pytest.mark.parametrize("rank", [8, 16, 0])
def test_compilers_bound_agrees_with_the_script(rank: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Base rows, reconstruction and the optimiser are in the compiler's only: a fixed part, spread over 25 points."""
    script = golden(capsys, "--rank", str(rank))
    ours = graph_bound(rank)
    assert 1.0 <= ours.cycles / (25 * script["cycles"]) < 1.06
    assert 1.0 <= ours.tcu / (25 * script["tcu"]) < 1.06
    assert 1.0 <= ours.vpu / (25 * script["vpu"]) < 1.06
    assert ours.limit == ("vpu" if rank == 8 else "tcu")
    assert sum(c.bytes_per_point for c in ours.crossing) == script["crossing_bytes"]


def test_packed_rows_leave_no_row_of_a_block_empty() -> None:
    """Two pairs have two odd and two even rows, each padded to four: 36,096 / 512 cycles a row that is not there.

    (A little less: the first layer has no even half, and the last one needs no odd one.)
    """
    apart, packed = (graph_bound(16, evaluations=4, quant="even-odd", rows=rows) for rows in ("apart", "packed"))
    padding = (apart.products - packed.products) / 25
    assert 0.9 < padding / (4 * 36_096 / 512) <= 1.0
    assert packed.vpu <= apart.vpu


def test_bound_reacts_to_the_machine() -> None:
    base = graph_bound(16)
    assert graph_bound(16, PINTA.replace(bme_rows=16, bme_cols=16)).tcu == pytest.approx(base.tcu / 4, rel=0.45)
    assert graph_bound(16, PINTA.replace(vpu_max_micro_ops=1)).vpu > 4 * base.vpu
    starved = graph_bound(16, PINTA.replace(dram_gb_per_s=0.1, sram_kib=128))
    assert starved.cycles > 1.1 * base.cycles  # neither room nor bus: recompute
    assert any(c.recomputed > 0.5 for c in starved.crossing)
    roomy = graph_bound(16, PINTA.replace(dram_gb_per_s=0.1, sram_kib=1024))
    assert roomy.cycles == base.cycles
    assert json.loads(json.dumps(base.to_dict()))["cycles"] == base.cycles


@pytest.mark.parametrize(
    ("psum", "sram", "rate"), [(2, 128, 32), (32, 128, 32), (128, 128, 128), (2, 4, 2), (8, 256, 64)]
)
def test_results_leave_by_the_faster_way(psum: int, sram: int, rate: int) -> None:
    """A schedule may send every result to SRAM: a slow partial-sum port alone bounds nothing."""
    keys = {"psum_write_fp32_per_cycle": psum, "tcu_sram_write_bytes_per_cycle": sram}
    sizes = {"inputs": 2, "width": 256, "hidden": 3, "outputs": 1, "rank": 16, "evaluations": 512}
    script = SCRIPT.bound(SCRIPT.read_machine("pinta"), **sizes)["results"]
    assert SCRIPT.bound(SCRIPT.read_machine("pinta") | keys, **sizes)["results"] == script * 64 / rate
    base = graph_bound(16)
    ours = graph_bound(16, PINTA.replace(**keys))
    assert ours.results == pytest.approx(base.results * 64 / rate)
    assert ours.tcu == pytest.approx(max(base.products, ours.results))


@given(st.integers(0, 10_000))
def test_simplex_against_enumeration_of_corners(seed: int) -> None:
    """Every vertex of a bounded program is the solution of n of its constraints."""
    from itertools import combinations

    rng = np.random.default_rng(seed)
    n, m = 3, 4
    a = np.vstack([rng.uniform(-1, 2, (m, n)), np.eye(n)])
    b = np.concatenate([rng.uniform(0, 3, m), np.full(n, 5.0)])  # bounded by x <= 5
    c = rng.uniform(-1, 1, n)
    rows, limits = np.vstack([a, -np.eye(n)]), np.concatenate([b, np.zeros(n)])
    best = 0.0
    for chosen in combinations(range(len(rows)), n):
        square = rows[list(chosen)]
        if abs(np.linalg.det(square)) > 1e-9:
            x = np.linalg.solve(square, limits[list(chosen)])
            if (rows @ x <= limits + 1e-9).all():
                best = max(best, float(c @ x))
    x = np.array(maximise(list(c), a.tolist(), b.tolist()))
    assert (a @ x <= b + 1e-7).all() and (x >= -1e-9).all()
    assert float(c @ x) == pytest.approx(best, abs=1e-6)


def test_simplex_refusals() -> None:
    with pytest.raises(PintacError, match="without a maximum"):
        maximise([1.0], [[-1.0]], [1.0])
    with pytest.raises(ValueError, match="origin"):
        maximise([1.0], [[1.0]], [-1.0])
