"""Where memory is short: what is kept between sweeps in DRAM, and weight gradients over the rows of several tiles."""

from __future__ import annotations

import functools

import pytest

from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.bodies.tiling import Tiling
from pintac.backend.grouping.prepare import prepare
from pintac.backend.scheduling import fit
from pintac.backend.tiles.tile import CopyOp, MatmulOp, TileOp, walk
from pintac.frontend import OrthonormalDirections
from pintac.hazards import check
from pintac.machine import Machine
from pintac.timeline import simulate
from tests.backend.test_fit import losses, program
from tests.end_to_end.test_bits import Case

MACHINE = Machine.default()


def operations(case: Case, machine: Machine = MACHINE) -> list[TileOp]:
    """Those of the step's tile schedule."""
    seen: list[TileOp] = []

    def watch(name: str, items: list[object]) -> None:
        if name == "step":
            seen.extend(op for op, _ in walk(items) if isinstance(op, TileOp))  # type: ignore[arg-type]

    emit(lower(case.step(), case.options()), machine, watch)
    return seen


CASES = {
    "diff": Case(width=16, points=(3, 2), K=128),
    "naive": Case(width=16, points=(3, 2), K=128, quant="naive"),
    "even-odd": Case(width=16, points=(3, 2), K=128, quant="even-odd"),
    "sequential": Case(width=16, points=(3, 2), K=128, scheme="sequential"),
    "dense": Case(width=24, points=(3, 2), K=128, scheme="dense", depth=2),
    "saved f32": Case(width=16, points=(3, 2), K=128, saved="f32"),
    "odd tiles": Case(width=10, rank=3, points=(3, 2), K=200, depth=2),
    "last tile of few rows": Case(width=10, rank=3, points=(3, 2), K=214),
    "gated": Case(width=12, points=(2, 2), K=128, gated=True),
    "several points together": Case(width=12, points=(7, 2), K=40),
    "few pairs": Case(width=12, points=(9, 3), K=4, estimator=OrthonormalDirections),
    "spilled": Case(width=32, points=(3, 2), K=256, depth=2, keys={"sram_kib": 40}),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_over_several_tiles_have_equal_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    machine = MACHINE.replace(**case.keys)
    plain = losses(program(case, machine))
    for tiles in (2, 4):
        chosen = functools.partial(Tiling, rows=16, gradient_tiles=tiles)
        monkeypatch.setattr("pintac.backend.lower.Tiling", chosen)
        assert losses(program(case, machine)) == plain


def test_gradients_are_folded_over_several_tiles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(width=16, points=(3, 2), K=128)
    products = []
    for tiles in (1, 2, 4):
        chosen = functools.partial(Tiling, rows=16, gradient_tiles=tiles, longer=False)
        monkeypatch.setattr("pintac.backend.lower.Tiling", chosen)
        ops = operations(case)
        products.append(sum(isinstance(op, MatmulOp) and op.ta and op.k == 16 * tiles for op in ops))
    assert products[0] == 2 * products[1] == 4 * products[2] > 0


def test_in_little_memory_what_sweeps_keep_goes_to_dram(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bytes stay between the sweeps of a point, tiles have more room, and the step takes fewer cycles."""
    case, machine = Case(width=64, points=(12, 4), K=512, depth=2), MACHINE.replace(sram_kib=64)
    made = program(case, machine)
    monkeypatch.setattr(fit, "_roomier", lambda fit, tilings: [])
    without = program(case, machine)
    assert set(made.meta["backend"]["step"]["in_dram"]) > set(without.meta["backend"]["step"]["in_dram"])
    assert simulate(made).cycles < simulate(without).cycles
    assert losses(made) == losses(without)


@pytest.mark.parametrize(
    "case", [Case(width=16, points=(2,), K=1024), Case(width=32, points=(3,), K=512, outputs=2)], ids=["K", "outputs"]
)
def test_sums_that_loops_fold_stay_in_little_memory(case: Case) -> None:
    """A sum over the signs, one for each pair, is as large as what goes to DRAM, and the loops add to it in SRAM."""
    lowered = lower(case.step(), case.options())
    graph = lowered.graphs["step"]
    pairs = {n.name for n in graph.of("sum") if n.type.rank == 3 and n.type.size * 4 >= n.shape[0] * fit.SMALL}
    over_signs = {n.name for n in graph.of("sum") if n.name in pairs and n.operands[0].shape[1] == 2}
    made = emit(lowered, MACHINE.replace(sram_kib=24), effort=0.02)
    in_dram = set(made.meta["backend"]["step"]["in_dram"])
    assert check(made).clean and in_dram
    assert over_signs and not in_dram & over_signs
    assert losses(made) == losses(emit(lowered, MACHINE, effort=0.02))


def test_base_activations_are_quantised_again() -> None:
    """Their fp32 values are kept for the later loops anyway: no quantised copy goes through DRAM."""
    case = Case(width=16, points=(6, 4), K=64)
    stored = {op.name for op in operations(case) if isinstance(op, CopyOp) and op.name.startswith("store")}
    graph = prepare(lower(case.step(), case.options()).graphs["step"])
    kept = [n for n in graph.of("tanh") if n.type.rank == 2 and f"store {n.name}" in stored]
    again = [n for n in graph.of("quantize") if n.operands[0] in kept]
    assert len(again) > len({n.operands[0] for n in again}) > 0
    assert not stored & {f"store {n.name}" for n in again}


def test_work_on_base_rows_is_done_before_the_nest_that_reads_it() -> None:
    """-2 t, read by the backward nest alone, is not copied from the forward stage."""
    ops = operations(Case(width=16, points=(6, 4), K=64))
    assert not [op.name for op in ops if op.name.startswith("hold")]
