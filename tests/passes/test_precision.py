"""Bits of single tensors: their names, by hand, and chosen under a budget."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pintac.api import calibration
from pintac.api.calibration import Calibration, calibration_states
from pintac.api.lowering import lower
from pintac.api.precision import before_budget, candidates, choose, explicit, search, uniform
from pintac.api.precision_cost import Costs
from pintac.errors import PassError
from pintac.frontend.tracing import trace_step
from pintac.ir import Graph
from pintac.ir.verify import verify
from pintac.machine import Machine
from pintac.passes import Pass, PipelineOptions, default_pipeline, parse_pipeline, print_pipeline
from pintac.passes.insert_smx import InsertSMX
from pintac.passes.tensors import WIDTHS, TensorNames, parse_bits, print_bits, resolve_bits, role_of, split_name
from pintac.report.precision import precision_line, precision_table
from tests.passes import precision_step

MACHINE = Machine.load("pinta")


def passes_of(bits: str = "8/16/8/12", quant: str = "even-odd", scheme: str = "prs") -> tuple[Pass, ...]:
    return default_pipeline(PipelineOptions.from_bits(bits, quant=quant, scheme=scheme))


def before(quant: str = "even-odd", scheme: str = "prs") -> Graph:
    graph = trace_step(precision_step.make())[0]
    for pass_ in passes_of(quant=quant, scheme=scheme):
        if isinstance(pass_, InsertSMX):
            return graph
        graph = pass_.run(graph)
    raise AssertionError


# ---------------------------------------------------------------------------------------------- names

EVEN_ODD = (
    *("0.weight", "0.base", "0.delta", "0.grad.base", "0.grad.delta"),
    *("4.weight", "4.base", "4.delta", "4.grad.base", "4.grad.delta"),
    *("2.weight.0", "2.weight.1", "2.base.0", "2.base.1", "2.grad.base.0", "2.grad.base.1"),
    *("2.delta.odd.0", "2.delta.odd.1", "2.delta.even.0", "2.delta.even.1"),
    *("2.grad.delta.odd.0", "2.grad.delta.odd.1", "2.grad.delta.even.0", "2.grad.delta.even.1"),
    *("2.core.0", "2.core.1", "2.core.2", "2.core.3", "2.grad.core.0", "2.grad.core.1", "2.saved"),
)


def test_names_of_even_odd_prs() -> None:
    assert {*InsertSMX().insert(before())[1].values()} == {*EVEN_ODD}


@pytest.mark.parametrize("quant", ["diff", "even-odd", "naive"])
@pytest.mark.parametrize("scheme", ["prs", "sequential", "dense"])
def test_every_tensor_has_a_name_with_the_role_of_its_operands(quant: str, scheme: str) -> None:
    graph, names = InsertSMX(weight=4, base=16, delta=8, grad=12).insert(before(quant, scheme))
    bits = {"weight": 4, "base": 16, "delta": 8, "grad": 12}
    assert {node.name for node in graph.of("quantize")} == {*names}
    for node in graph.of("quantize"):
        assert node.type.bits == bits[role_of(names[node.name])]
        assert split_name(names[node.name])[0] in {"0", "2", "4"}
    weights = {name for name in names.values() if role_of(name) == "weight"}
    cores = {name for name in weights if ".core." in name}
    factors = {"prs": 2, "sequential": 4, "dense": 1}[scheme]
    assert len(weights - cores) == 2 + factors
    assert len(cores) == {"prs": 4, "sequential": 0, "dense": 6}[scheme]


def test_a_module_may_be_called_like_a_role() -> None:
    assert split_name("net.base_.weight.0") == ("net.base_", "weight")
    assert split_name("trunk.0.grad.delta.even.1") == ("trunk.0", "grad.delta.even")
    assert role_of("2.grad.core.0") == "grad" and role_of("2.core.1") == "weight" and role_of("2.saved") == "delta"


# ---------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("seed", range(3))
def test_an_assignment_is_what_the_types_say_and_pipelines_carry_it(seed: int) -> None:
    draw = random.Random(seed)
    bits = {name: draw.choice(WIDTHS) for name in EVEN_ODD}
    chosen = explicit(InsertSMX(), bits)
    again = parse_pipeline(print_pipeline([chosen]))
    assert again == (chosen,)
    graph, names = again[0].insert(before())  # type: ignore[attr-defined]
    verify(graph)
    assert {names[node.name]: node.type.bits for node in graph.of("quantize")} == bits
    assert set(Counter(node.operands[0] for node in graph.of("quantize")).values()) == {1}  # one quantisation a tensor


def test_patterns_and_the_evaluation_of_the_solution() -> None:
    options = PipelineOptions.from_bits(
        "8/16/8/12, *.delta.even*=4, 2.weight.0=12, *.base*=8, 2.base.1=16", quant="even-odd"
    )
    assert PipelineOptions.from_bits(options.bits, quant="even-odd") == options
    lowered = lower(precision_step.make(), options, verify="each")
    graph, names = default_pipeline(options)[6].insert(before())  # type: ignore[attr-defined]
    bits = {names[node.name]: node.type.bits for node in graph.of("quantize")}
    assert bits["2.delta.even.0"] == bits["2.delta.even.1"] == 4 and bits["2.delta.odd.0"] == 8
    assert bits["0.base"] == 8 and bits["2.base.1"] == 16 and bits["2.weight.0"] == 12 and bits["2.weight.1"] == 8
    rows = [
        node.operands[0].type.bits for node in lowered.graphs["infer"].of("matmul") if node.attrs["lhs_role"] == "base"
    ]
    assert rows == [8, 8, 16, 8]


@pytest.mark.parametrize(
    ("bits", "message", "hint"),
    [
        ("2.delta.evn.0=4", "no tensor is called '2.delta.evn.0'", "2.delta.even.0"),
        ("9.*=4", "no tensor is called '9.*'", "known: 0.base"),
        ("2.delta=7", "cannot read '2.delta=7'", "4, 8, 12 or 16"),
        ("2.delta", "cannot read '2.delta'", "NAME=4"),
        ("0.base=4,0.base=8", "given twice", None),
    ],
)
def test_bits_that_cannot_be(bits: str, message: str, hint: str | None) -> None:
    with pytest.raises(PassError, match="insert-smx") as error:
        InsertSMX(bits=bits).run(before())
    assert message in str(error.value) and (hint is None or hint in (error.value.hint or ""))


def test_text_of_bits() -> None:
    bits = {"2.delta.0": 4, "*.base": 16}
    assert parse_bits(print_bits(bits)) == bits and parse_bits("") == {}
    assert resolve_bits(bits, ["0.base", "2.delta.0", "2.base"], strict=True) == {
        "2.delta.0": 4,
        "0.base": 16,
        "2.base": 16,
    }


def test_auto_is_for_those_who_have_weights() -> None:
    with pytest.raises(PassError, match="policy=auto") as error:
        InsertSMX(policy="auto").run(before())
    assert "pintac compile" in (error.value.hint or "")


@pytest.mark.parametrize("text", ["8/16/8", "auto:", "auto:x", "8/16/8/x", "auto"])
def test_precisions_that_cannot_be_read(text: str) -> None:
    with pytest.raises(PassError, match="precisions"):
        PipelineOptions.from_bits(text)


# ---------------------------------------------------------------------------------------------- chosen


@pytest.fixture(scope="module")
def states() -> tuple[calibration.State, ...]:
    return calibration_states(precision_step.make())


class Search:
    def __init__(self, quant: str, states: tuple[calibration.State, ...]) -> None:
        self.passes = passes_of(quant=quant)
        self.calibration = Calibration(precision_step.make(), self.passes, states)
        graph, names = before_budget(trace_step(precision_step.make())[0], self.passes)
        self.costs = Costs(graph, names, MACHINE)

    def __call__(self, budget: float, objective: str = "cycles", **pinned: int) -> object:
        options = InsertSMX(policy="auto", budget=budget, objective=objective)  # type: ignore[arg-type]
        return search(self.calibration, self.costs, options, {name.replace("_", "."): b for name, b in pinned.items()})


@pytest.fixture(scope="module", params=["diff", "even-odd"])
def chooser(request: pytest.FixtureRequest, states: tuple[calibration.State, ...]) -> Search:
    return Search(request.param, states)


BUDGETS = (0.01, 0.05, 0.3)


def test_a_budget_is_kept_and_a_looser_one_costs_no_more(chooser: Search) -> None:
    for objective in ("cycles", "energy"):
        choices = [chooser(budget, objective) for budget in BUDGETS]
        for budget, choice in zip(BUDGETS, choices, strict=True):
            assert max(choice.observed.values()) <= budget
        again = chooser.calibration.on_machine(choices[1].bits)
        assert max(again.values.values()) == max(choices[1].observed.values())
        costs = [choice.cost for choice in choices]
        assert costs == sorted(costs, reverse=True)
        assert objective == "cycles" or costs[0] > 1.5 * costs[-1]  # so small a step waits for its vector unit
    assert choices[0].predicted.keys() == {
        f"{s}/{t}" for s in ("initial", "trained") for t in ("interior", "boundary", "gradient")
    }


def test_prediction_is_near_observation(chooser: Search) -> None:
    for budget in BUDGETS:
        choice = chooser(budget)
        predicted, observed = (max(values.values()) for values in (choice.predicted, choice.observed))
        assert 1 / 3 < predicted / observed < 3


def test_candidates_go_from_16_bits_to_few(chooser: Search) -> None:
    found = candidates(chooser.calibration, chooser.costs, "energy", {})
    assert set(found[0].bits.values()) == {16} and len(found) > 20
    assert all(a.cost > b.cost for a, b in pairwise(found))
    assert found[-1].predicted.largest > 10 * found[0].predicted.largest
    assert Counter(found[-1].bits.values())[4] > len(found[-1].bits) // 2


def test_rounding_in_numpy_is_rounding_on_the_machine(chooser: Search) -> None:
    bits = {name: (4, 8, 12)[i % 3] for i, name in enumerate(chooser.calibration.tensors)}
    near, exact = chooser.calibration.observed(bits), chooser.calibration.on_machine(bits)
    for key, value in exact.values.items():
        assert near.values[key] == pytest.approx(value, rel=2e-3)


def test_pinned_tensors_keep_their_bits(chooser: Search) -> None:
    choice = chooser(0.1, **{"0_base": 16, "2_weight_0": 12})
    assert choice.bits["0.base"] == 16 and choice.bits["2.weight.0"] == 12


def test_budgets_that_cannot_be(chooser: Search) -> None:
    with pytest.raises(PassError, match="no bits keep residual and gradient within 1e-09") as error:
        chooser(1e-9)
    assert "larger budget" in (error.value.hint or "")
    step = precision_step.make()
    for budget in ("0", "1", "7"):
        with pytest.raises(PassError, match="is no relative error"):
            choose(step, trace_step(step)[0], passes_of(f"auto:{budget}"), MACHINE)


def test_the_cost_of_a_tensor_is_its_part_of_the_whole(chooser: Search) -> None:
    costs = chooser.costs
    bits = dict.fromkeys(costs.blocks, 8)
    for name in costs.blocks:
        fewer = {**bits, name: 4}
        parts = costs.parts(bits).changed(costs.part(name, bits), costs.part(name, fewer))
        assert parts == pytest.approx(costs.parts(fewer))
        assert costs.cost(fewer, "energy") < costs.cost(bits, "energy")
        assert costs.cost(fewer) <= costs.cost(bits)


def test_a_choice_is_no_worse_than_bits_by_role(chooser: Search) -> None:
    for objective in ("cycles", "energy"):
        choice = chooser(0.1, objective)
        for candidate in uniform(chooser.calibration, chooser.costs, objective, {}):
            assert candidate.cost >= choice.cost or chooser.calibration.on_machine(candidate.bits).largest > 0.1


def test_compiling_writes_the_choice_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "TRAINED", 20)
    step = precision_step.make()
    lowered = lower(step, PipelineOptions.from_bits("auto:0.05,0.base=16", quant="even-odd"))
    meta = lowered.meta
    assert meta["bits"] == "auto:0.05,0.base=16" and meta["precision"]["bits"]["0.base"] == 16
    assert "policy" not in meta["passes"] and 'bits="' in meta["passes"]
    assert max(meta["precision"]["observed"].values()) <= 0.05
    by_hand = lower(step, PipelineOptions(quant="even-odd"), passes=meta["passes"])  # reproduced without a search
    for name, graph in lowered.graphs.items():
        assert str(graph) == str(by_hand.graphs[name])
    monkeypatch.setattr(calibration.Calibration, "__init__", None)  # the second time nothing is measured
    again = lower(step, PipelineOptions.from_bits("auto:0.05,0.base=16", quant="even-odd"))
    assert again.meta["precision"] == meta["precision"] and again.meta["passes"] == meta["passes"]
    line, table = precision_line(meta), precision_table(meta)
    assert line is not None and line.startswith("chosen for errors up to 0.05: residual")
    assert "trained/gradient" in table and "delta.even" in table
    assert precision_line({}) is None and precision_table({}) == ""


def test_the_choice_does_not_depend_on_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "TRAINED", 5)
    options = PipelineOptions.from_bits("auto:0.1", quant="diff")
    one, other = (lower(precision_step.make(), options, seed=seed) for seed in (0, 1))
    assert one.meta["passes"] == other.meta["passes"]
    assert any((one.init[name] != other.init[name]).any() for name in one.init)


def test_same_choice_under_any_hash_seed(states: tuple[calibration.State, ...], tmp_path: Path) -> None:
    """This process and one with another seed of hashes."""
    command = [sys.executable, "-m", "pintac", "compile", f"{precision_step.__file__}:step", "--bits", "auto:0.05"]
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "XDG_CACHE_HOME": str(tmp_path)}
    ran = subprocess.run([*command, "--print-pipeline"], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    passes = passes_of("auto:0.05", quant="diff")
    graph, names = before_budget(trace_step(precision_step.make())[0], passes)
    found = Search("diff", states)
    choice = search(found.calibration, Costs(graph, names, MACHINE), passes[6], {})  # type: ignore[arg-type]
    here = [explicit(p, choice.bits) if isinstance(p, InsertSMX) else p for p in passes]
    assert ran.stdout.strip() == print_pipeline(here) and "bits=" in ran.stdout and "auto" not in ran.stdout


def test_every_problem_has_named_tensors() -> None:
    """A tensor that the search measures is one that the pass gives bits to, by the same name."""
    passes = passes_of()
    graph, names = before_budget(trace_step(precision_step.make())[0], passes)
    assert {names[node.name] for node in graph.of("quantize")} <= {*TensorNames(before()).known}
    assert np.isfinite(list(Costs(graph, names, MACHINE).blocks.values())).all()


def test_same_choice_on_another_processor(tmp_path: Path) -> None:
    """Other kernels of torch, MKL and NumPy give other last bits; training must not make other weights of them."""
    code = (
        "import sys, numpy as np\n"
        "from pintac.api.calibration import calibration_states\n"
        "from pintac.frontend import builtin_step\n"
        "step = builtin_step('poisson2d', K=4, estimator='orthonormal', lr=0.003, width=64)\n"
        "np.savez(sys.argv[1], **calibration_states(step)[1].arrays)\n"
    )
    plain = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem"}
    found = []
    for name, kernels in (("own", {}), ("plain", plain)):
        path = tmp_path / f"{name}.npz"
        subprocess.run([sys.executable, "-c", code, str(path)], env={**os.environ, **kernels}, check=True)
        found.append(dict(np.load(path)))
    for name, array in found[0].items():
        assert np.abs(array - found[1][name]).max() <= 2e-7 * np.abs(array).max(), name
