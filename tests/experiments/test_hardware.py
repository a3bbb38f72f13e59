"""The hardware table: what follows from measurements, what is kept, variants of the machine, workers, pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pintac.errors import ResultsError, UsageError
from pintac.experiments.hardware import host, measure, model
from pintac.experiments.hardware.experiment import HardwareExperiment
from pintac.experiments.hardware.figures import (
    ad_seconds_per_step,
    best,
    best_of,
    joules_of,
    threads_of,
    tornado,
)
from pintac.experiments.hardware.measure import PARTS, Collector, load
from pintac.experiments.hardware.page import markdown
from pintac.experiments.hardware.plot import digest, draw, figure_path
from pintac.experiments.hardware.rows import (
    AD_METHODS,
    BATCHED,
    CONFIGURATIONS,
    FORWARD,
    METHOD_NAMES,
    NESTED,
    PAPER,
    SAMPLED,
    WORKLOADS,
    Configuration,
    HostRow,
    Workload,
    host_rows,
    overhead_rows,
)
from pintac.experiments.latency import measured_ad_seconds
from pintac.experiments.results import Results
from pintac.experiments.rows import Seeds
from pintac.experiments.store import Store
from pintac.frontend import trace
from pintac.ir import Graph
from pintac.machine import Machine
from pintac.passes import PassManager, parse_pipeline
from tests.cli.support import TINY
from tests.frontend.support import make_step

HOST = {
    "date": "2026-11-21", "cpu": "a processor", "processors": 4, "torch": "2", "python": "3", "gpu": False,
    "watts_per_core": 5.0, "watts_source": "assumed", "gpu_watts": None, "energy": "time x TDP",
}  # fmt: skip
DATA: dict[str, Any] = {
    "host": HOST,
    "torch": {
        "poisson2d": {
            "nested autograd, eager, 1 thread": {"seconds": [0.03, 0.02], "load": [1.0, 2.0], "peak_bytes": 9e6},
            "nested autograd, compiled, 4 threads": {"seconds": [0.01], "load": [1.0]},
            "nested autograd, vectorised, eager, 1 thread": {"seconds": [0.001], "load": [1.0]},
            "forward Laplacian, eager, 1 thread": {"seconds": [0.005], "joules": 0.5, "load": [1.0]},
            "forward Laplacian, compiled, 1 thread": {"note": "no step within 9 s"},
        }
    },
    "pinta": {
        "poisson2d": {
            "paper": {
                "cycles": 4_000_000, "seconds": 0.004, "joules": 0.01, "sram_bytes": 400_000, "psum_bytes": 32_768,
                "dram_bytes": 1_000_000,
            },
            "dense": {"note": "does not fit: too much"},
        }
    },
    "tornado": {
        "poisson2d": {
            "base": {"seconds": 0.004, "joules": 0.01},
            "dram_gb_per_s": {
                "low": {"value": 12.8, "seconds": 0.005, "joules": 0.01},
                "high": {"value": 51.2, "seconds": 0.002, "joules": 0.01},
            },
            "sram_kib": {
                "low": {"value": 192, "note": "no program: x"},
                "high": {"value": 768, "seconds": 0.004, "joules": 0.02, "recompiled": True},
            },
        }
    },
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- figures


def test_the_fastest_arrangement_counts() -> None:
    fastest, alone = best(DATA, "poisson2d", NESTED), best(DATA, "poisson2d", NESTED, threads=1)
    assert fastest is not None and alone is not None
    assert (fastest.seconds, fastest.arrangement) == (0.01, "compiled, 4 threads")
    assert (alone.seconds, alone.run_seconds) == (0.02, 20.0)  # the least of the rounds
    batched = best(DATA, "poisson2d", BATCHED)
    assert batched is not None and batched.seconds == 0.001
    assert best(DATA, "poisson2d", SAMPLED) is None and best(DATA, "hjb20", NESTED) is None
    winner = best_of(DATA, "poisson2d", (NESTED, FORWARD))
    assert winner is not None and winner[0] == FORWARD
    assert ad_seconds_per_step(DATA)["poisson2d"] == {
        "nested autograd": 0.01, "nested autograd, vectorised": 0.001, "forward Laplacian": 0.005,
    }  # fmt: skip


def test_joules_are_measured_or_time_by_watts() -> None:
    part = DATA["torch"]["poisson2d"]
    assert joules_of(HOST, "nested autograd, compiled, 4 threads", {"seconds": [0.01]}) == pytest.approx(4 * 5 * 0.01)
    assert joules_of(HOST, "forward Laplacian, eager, 1 thread", part["forward Laplacian, eager, 1 thread"]) == 0.5
    assert joules_of(HOST, "SE, fp32, eager, GPU", {"seconds": [0.01]}) is None
    assert joules_of({**HOST, "gpu_watts": 700.0}, "SE, fp32, eager, GPU", {"seconds": [0.01]}) == pytest.approx(7.0)
    assert threads_of("SE, fp32, eager, 12 threads, 4 points at a time") == 12


def test_tornado_bars() -> None:
    """Baseline 10 ms and 0.2 J a step against 4 ms and 10 mJ."""
    found = tornado(DATA, "poisson2d")
    assert found is not None
    assert (found.speed_up, found.energy) == (pytest.approx(2.5), pytest.approx(20.0))
    bars = {bar.name: bar for bar in found.bars}
    assert bars["dram_gb_per_s"].speed_up == (pytest.approx(2.0), pytest.approx(5.0))
    assert bars["dram_gb_per_s"].how == "same program"
    assert bars["sram_kib"].energy == (None, pytest.approx(10.0))
    assert bars["sram_kib"].how == "compiled again (no program: x)"
    assert bars["host watts a core"].energy == (pytest.approx(10.0), pytest.approx(40.0))
    # one watt of leakage for 4 ms: 4 mJ more
    assert bars["static power of PINTA"].energy == (None, pytest.approx(0.2 / 0.014))
    assert found.bars[0].name in ("dram_gb_per_s", "sram_kib", "host watts a core")
    assert tornado({**DATA, "torch": {}}, "poisson2d") is None


def test_the_page_says_what_is_there() -> None:
    text = markdown(DATA)
    assert "| forward Laplacian | eager, 1 thread | 5 | 5 | 500 | 1.25x | 50x | - | - |" in text
    assert "| dense, 8/8/8/12, K = 512 | does not fit: too much |" in text
    assert "no step within 9 s" in text and "load average 1.0 to 2.0" in text
    assert "9 (0), 6.28x" in text  # of 1.43 MB
    assert "Nothing has been measured" in markdown({})


def test_the_figure_follows_from_its_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [draw(DATA, tmp_path / name) for name in ("a.svg", "b.svg")]
    assert paths[0] is not None and paths[1] is not None
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert digest(DATA) in paths[0].read_text()
    other = {**DATA, "host": {**HOST, "watts_per_core": 6.0}}
    assert digest(other) != digest(DATA)
    assert draw({}, tmp_path / "c.svg") is None


# ---------------------------------------------------------------------------------------------- rows


def test_names_of_arrangements_are_unique() -> None:
    for rows in (host_rows(4), host_rows(4, gpu=True), host_rows(4, quick=True)):
        keys = [row.key(2) for row in rows]
        assert len(set(keys)) == len(keys)
    assert len(host_rows(4, quick=True)) == 3
    assert {METHOD_NAMES[method] for method in AD_METHODS} < set(METHOD_NAMES.values())


def test_workloads_divide_into_chunks() -> None:
    from pintac.frontend import builtin_step

    for workload in WORKLOADS:
        step = builtin_step(workload.problem)
        assert step.terms()[0].count % workload.chunk == 0
        improved = builtin_step(workload.problem, **workload.improved).estimator
        assert improved.K < step.estimator.K


def test_pipelines_of_the_overhead_are_pipelines() -> None:
    for row in overhead_rows(4).values():
        assert str(PassManager(parse_pipeline(row.passes))).startswith("expand-operators")


# ---------------------------------------------------------------------------------------------- the machine's side


def macs_a_row(graph: Graph) -> float:
    """Multiplications of the matrix products that have the rows of x, for one row."""
    rows = graph.of("input")[0].shape[0]
    total = 0
    for node in graph.of("matmul"):
        left, size = node.operands[0].shape, node.type.size
        if size % rows == 0 and left[0] % rows == 0:
            total += size * left[-1]
    return total / rows


@pytest.mark.parametrize("order", ["prs", "sequential"])
@pytest.mark.parametrize("ranks", [(2, 3, 5), (3, 2, 3)])
def test_macs_of_a_contraction(order: str, ranks: tuple[int, int, int]) -> None:
    """The formula against the matrix products that the pass makes."""
    from pintac.frontend import TTLinear

    layer = TTLinear(3 * 7, 4 * 5, ranks=ranks, in_factors=(3, 7), out_factors=(4, 5), bias=False)
    graph = trace(make_step(layer, dims=21), infer_rows=97).infer  # no factor is a multiple of 97
    graph = PassManager(parse_pipeline(f"reorder-tt{{order={order}}}")).run(graph)
    assert model.contraction_macs((3, 7), (4, 5), ranks, order) == macs_a_row(graph)


def test_prs_takes_half_the_macs_at_rank_16() -> None:
    counts = [model.contraction_macs((16, 16), (16, 16), (16, 16, 16), order) for order in ("prs", "sequential")]
    assert counts == [8192, 16384]


def test_every_assumed_constant_is_varied() -> None:
    machine = Machine.default()
    found = model.variations(machine)
    assumed = {key for key, p in machine.provenance.items() if p.tag == "assumed"}
    assert {v.key for v in found} == assumed | set(model.PUBLISHED)
    values = {(v.key, v.side): v.value for v in found}
    assert values["clock_ghz", "low"] == 0.5 and values["dram_gb_per_s", "high"] == 51.2
    assert values["vpu_philox", "low"] is False and ("vpu_max_micro_ops", "high") not in values


SMALL = Workload("poisson2d", "small", 2, {"estimator": "orthonormal", "K": 4}, "-")
TOY = Configuration(
    "toy", "toy", {"bits": "8/8/8/12"},
    settings={"width": 16, "hidden": 2, "rank": 2, "K": 4, "interior": 4, "boundary": 4},
)  # fmt: skip


def test_variants_of_a_program() -> None:
    base = model.program_of(SMALL, TOY)
    costs = model.costs_of(base)
    assert costs["cycles"] > 0 and costs["macs"] > 0 and costs["seconds"] == pytest.approx(costs["cycles"] * 1e-9)

    def with_(key: str, value: Any) -> dict[str, Any]:
        return model.varied(SMALL, TOY, base, model.Variation(key, "low", value))

    slow, fast = with_("dram_gb_per_s", 1.0), with_("clock_ghz", 2.0)
    assert slow["seconds"] > costs["seconds"] > fast["seconds"] and slow["joules"] == costs["joules"]
    dear = with_("energy_dram_pj_per_bit", 16.0)
    assert (dear["cycles"], dear["recompiled"]) == (costs["cycles"], False)
    assert dear["joules"] == pytest.approx(costs["joules"] + costs["energy_parts"]["dram"])
    one = with_("vpu_max_micro_ops", 1)
    assert one["recompiled"] and one["cycles"] > costs["cycles"]
    assert with_("sram_kib", 1)["note"].startswith("no program")


# ---------------------------------------------------------------------------------------------- measuring


def fake_row(problem: str, settings: Any, row: HostRow, budget: float, timeout: float) -> dict[str, Any]:
    if row.mode == "compiled":
        return {"note": "no step within 1 s"}
    return {
        "seconds": 0.01, "steps": 3, "first_seconds": 1.0, "joules": None, "peak_bytes": 7, "rss_bytes": 8, "load": 0.5,
    }  # fmt: skip


@pytest.fixture
def modelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No compilations: costs are asked for by name."""
    asked: list[str] = []

    def cost(workload: Workload, configuration: Configuration) -> dict[str, Any]:
        asked.append(f"{workload.problem} {configuration.name}")
        return {**DATA["pinta"]["poisson2d"]["paper"], "macs": 1}

    def varied(workload: Workload, configuration: Configuration, base: Any, variation: model.Variation) -> Any:
        asked.append(f"{workload.problem} {variation.key}")
        return {"value": variation.value, "seconds": 0.004, "joules": 0.01, "recompiled": False}

    monkeypatch.setattr(model, "cost_or_reason", cost)
    monkeypatch.setattr(model, "varied", varied)
    monkeypatch.setattr(model, "program_of", lambda *given: None)
    monkeypatch.setattr(model, "costs_of", lambda program: {"seconds": 0.004, "joules": 0.01})
    return asked


def test_an_interrupted_measurement_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modelled: list[str]
) -> None:
    calls: list[str] = []

    def run_row(problem: str, settings: Any, row: HostRow, budget: float, timeout: float) -> dict[str, Any]:
        if len(calls) == 5:
            calls.append("stop")
            raise KeyboardInterrupt
        calls.append(f"{problem} {row.key(2)} {row.passes}")
        return fake_row(problem, settings, row, budget, timeout)

    monkeypatch.setattr(host, "run_row", run_row)
    with pytest.raises(KeyboardInterrupt):
        Collector(tmp_path, False, lambda text: None).run()
    first = list(modelled)
    assert set(first) >= {f"{w.problem} {c.name}" for w in WORKLOADS for c in CONFIGURATIONS}
    Collector(tmp_path, False, lambda text: None).run()
    assert modelled == first  # nothing is compiled twice
    data = load(tmp_path)
    rows = [row for w in WORKLOADS for row in host_rows(w.chunk)]
    compiled = [row for row in rows if row.mode == "compiled"]
    once = sum(row.threads == 1 for row in compiled)  # what fails with one thread is not tried with more
    others = len(rows) - len(compiled) + len(overhead_rows(4))
    assert len(calls) - 1 == others * measure.ROUNDS + once
    entry = data["torch"]["hjb20"]["nested autograd, eager, 1 thread"]
    assert entry == {
        "seconds": [0.01] * measure.ROUNDS, "load": [0.5] * measure.ROUNDS, "first_seconds": 1.0, "peak_bytes": 7,
        "rss_bytes": 8,
    }  # fmt: skip
    assert measured_ad_seconds(tmp_path, "hjb20") is None  # published with the tables
    rendered = HardwareExperiment().render(Results(Store(tmp_path)))
    assert rendered.data["ad_seconds_per_step"]["hjb20"]["nested autograd"] == 0.01
    again = Collector(tmp_path, False, lambda text: None, again="host")
    assert not set(PARTS["host"]) & set(again.data) and "pinta" in again.data


def test_quick_measures_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modelled: list[str]) -> None:
    monkeypatch.setattr(host, "run_row", fake_row)
    HardwareExperiment().measure(tmp_path, quick=True)
    data = load(tmp_path, quick=True)
    assert sum(len(part) for part in data["torch"].values()) == 9 and "tornado" not in data
    assert modelled == [f"{w.problem} {PAPER.name}" for w in WORKLOADS]
    assert HardwareExperiment().runs(Seeds()) == []


def test_damaged_results(tmp_path: Path) -> None:
    (tmp_path / "hardware.json").write_text("{")
    with pytest.raises(ResultsError, match="cannot be read"):
        load(tmp_path)


def test_a_worker_measures_a_users_step(tmp_path: Path) -> None:
    """One process: a file, its own chunk of points, gradients by autograd; and what a worker that fails says."""
    (tmp_path / "tiny.py").write_text(TINY)
    spec = f"{tmp_path}/tiny.py:step"
    found = host.run_row(spec, {}, HostRow(NESTED, chunk=2), 0.05, 120)
    assert 0 < found["seconds"] < 1 and found["steps"] >= 1 and found["peak_bytes"] > 1000
    assert host.run_row(spec, {}, HostRow(NESTED, passes="nonsense"), 0.05, 120)["note"].startswith("failed:")
    assert host.run_row(spec, {}, HostRow(NESTED), 0.05, 0.1) == {"note": "no step within 0 s"}


def test_energy_counters(tmp_path: Path) -> None:
    assert host.joules_counter(tmp_path) is None and host.joules_counter(tmp_path / "none") is None
    for number, joules in enumerate((3_000_000, 500_000)):
        folder = tmp_path / f"intel-rapl:{number}"
        folder.mkdir()
        (folder / "energy_uj").write_text(f"{joules}\n")
    counter = host.joules_counter(tmp_path)
    assert counter is not None and counter() == pytest.approx(3.5)


def test_watts_are_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    described = host.describe()
    assert described["watts_per_core"] == pytest.approx(350 / 64) and "350 W" in described["watts_source"]
    monkeypatch.setenv(host.WATTS_VARIABLE, "12.5")
    assert (host.describe()["watts_per_core"], host.describe()["watts_source"]) == (12.5, host.WATTS_VARIABLE)
    monkeypatch.setenv(host.WATTS_VARIABLE, "many")
    with pytest.raises(UsageError, match="expected watts"):
        host.describe()
    json.dumps(described)


def test_the_committed_figure_shows_the_committed_measurements() -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    assert f"data {digest(load(results))}" in figure_path(results).read_text(), "pintac reproduce hardware"
