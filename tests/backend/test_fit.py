"""Which way to fit is taken: wide tiles in fewer rows, large values out of the way of tiles; sums that lie apart."""

from __future__ import annotations

import gc
import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pintac.api.emitting import emit
from pintac.api.lowering import lower
from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.tiling import Tiling
from pintac.backend.scheduling import fit, regions, remedies
from pintac.backend.scheduling.schedule import TileSchedule
from pintac.backend.tiles.tile import Item, Loop, VpuOp, walk
from pintac.backend.tiles.vpu import folded_axes, instructions
from pintac.backend.ways import WayError
from pintac.errors import DoesNotFitError
from pintac.frontend import OrthonormalDirections
from pintac.hazards import check
from pintac.machine import Machine
from pintac.program import Program
from pintac.runtime.session import Session
from pintac.timeline import simulate
from tests.end_to_end.test_bits import Case

MACHINE = Machine.default()


def program(case: Case, machine: Machine) -> Program:
    """The step, compiled; nothing in it races."""
    made = emit(lower(case.step(), case.options()), machine)
    assert check(made).name == "clean"
    return made


def losses(made: Program, steps: int = 2) -> list[float]:
    session = Session(made, "jit")
    found = []
    for _ in range(steps):
        session.step()
        found.append(session.metrics()["loss"])
    return found


def test_wide_tiles_also_have_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of 32 rows of 64 fp32 is twice a PSUM of 4 KiB: both ways are made, and have equal bits."""
    case, machine = Case(width=64, points=(3, 4), K=128), MACHINE.replace(psum_kib=4)
    tried: list[int] = []
    fits = fit._fits

    def noted(entry: fit.Entry, tiling: Tiling) -> list[TileSchedule]:
        tried.append(tiling.rows)
        return fits(entry, tiling)

    monkeypatch.setattr(fit, "_fits", noted)
    made = program(case, machine)
    assert set(tried) == {32, 16}
    assert losses(made) == losses(program(case, MACHINE))


def test_in_little_memory_saved_activations_leave_before_tiles_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the saved values is large by itself: without the last way, tiles of four rows, one at a time."""
    case, machine = Case(width=64, points=(4, 4), K=256), MACHINE.replace(sram_kib=48)
    made = program(case, machine)
    chosen = made.meta["backend"]["step"]
    assert chosen["rows_per_tile"] == 32 and chosen["in_dram"]
    one_fit = fit._fit
    monkeypatch.setattr(fit, "_fit", lambda entry, tiling, limits=fit.DEFAULT_LIMITS: one_fit(entry, tiling))
    shrunk = program(case, machine)
    assert shrunk.meta["backend"]["step"]["rows_per_tile"] < 32
    assert simulate(made).cycles < simulate(shrunk).cycles / 2
    assert losses(made) == losses(shrunk)


def test_a_way_that_does_not_work_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an optional way asks for may be more than an instruction holds: that is no error of the entry."""
    case, machine = Case(width=64, points=(4, 4), K=256), MACHINE.replace(sram_kib=48)
    asked, greedy = [], fit._greedy

    def only_the_first(entry: Entry, choices: Choices, *rest: Any) -> TileSchedule:
        asked.append(choices.tiling)
        if choices.tiling.tight or choices.tiling.rows < 32:
            raise WayError("a tile is larger than an instruction")
        return greedy(entry, choices, *rest)

    monkeypatch.setattr(fit, "_greedy", only_the_first)
    emit(lower(case.step(), case.options()), machine, effort=0.01)
    assert any(tiling.tight for tiling in asked)


def test_of_equal_schedules_the_first_stays_in_its_place() -> None:
    best, other, same = (cast(TileSchedule, SimpleNamespace(items=[Loop(0, n, [])])) for n in (2, 3, 2))
    assert fit._different([best, other, same]) == [best, other]
    assert fit._different([other, best, same]) == [other, best]


def test_instructions_that_add_to_the_same_sum_keep_their_order_and_lie_apart() -> None:
    seen: list[Item] = []
    case = Case(points=(8, 4), K=4)
    emit(
        lower(case.step(), case.options()), MACHINE, lambda name, items: seen.extend(items) if name == "step" else None
    )
    checked = 0
    for op, _ in walk(seen):
        if not isinstance(op, VpuOp) or not folded_axes(op):
            continue
        folded = folded_axes(op)
        strides = [v.strides for v in op.sinks]
        parts = list(instructions(op))
        plain = list(itertools.product(*(range(n) for n in op.shape[: op.unrolled])))
        wanted = [
            tuple(v.offset + int(np.dot(i, s[: op.unrolled])) for v, s in zip(op.sinks, strides, strict=True))
            for i in plain
        ]
        made = [tuple(v.offset for v in part.sinks) for part in parts]
        assert sorted(made) == sorted(wanted)
        sources = [tuple(v.offset for v in part.sources) for part in parts]
        in_order = [tuple(v.offset + int(np.dot(i, v.strides[: op.unrolled])) for v in op.sources) for i in plain]
        for k in range(len(op.sinks)):
            for offset in {m[k] for m in made}:
                assert [s for s, m in zip(sources, made, strict=True) if m[k] == offset] == [
                    s for s, m in zip(in_order, wanted, strict=True) if m[k] == offset
                ]
        others = math.prod(op.shape[: op.unrolled]) // math.prod(op.shape[a] for a in folded)
        sums = [k for k, s in enumerate(strides) if any(s[a] == 0 for a in folded)]
        for k in sums:
            if others > 1:
                assert all(a[k] != b[k] for a, b in itertools.pairwise(made))
                checked += 1
    assert checked


def test_straight_code_is_ordered_by_its_time_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What few points leave to do before and behind their loop takes less time after a search, with equal bits."""
    case = Case(
        width=128, rank=16, depth=2, points=(96, 64), K=4, estimator=OrthonormalDirections, quant="even-odd"
    )
    made = program(case, MACHINE)
    monkeypatch.setattr(regions, "WARM", math.inf)
    without = program(case, MACHINE)
    assert losses(made) == losses(without)
    assert simulate(made).cycles < simulate(without).cycles


def test_compiling_leaves_garbage_collection_as_it_was() -> None:
    before = gc.get_threshold()
    program(Case(points=(2,)), MACHINE)
    assert gc.get_threshold() == before
    with pytest.raises(DoesNotFitError):
        program(Case(points=(2,)), MACHINE.replace(sram_kib=1))
    assert gc.get_threshold() == before


def test_deep_networks_fit() -> None:
    """Parameters and moments of 256-wide layers do not all lie in SRAM at once: the optimizer takes them in loops."""
    lowered = lower(Case(width=256, rank=16, depth=6, K=4, points=(4, 4)).step())
    assert check(emit(lowered, MACHINE, effort=0)).clean


def test_parameters_in_loops_have_equal_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    case, machine = Case(width=64, rank=8, depth=6, K=4, points=(3, 2)), MACHINE.replace(sram_kib=80)
    whole = losses(program(case, MACHINE))
    assert losses(program(case, machine)) == whole
    monkeypatch.setattr(remedies, "CROWDED", math.inf)
    with pytest.raises(DoesNotFitError):
        program(case, machine)
