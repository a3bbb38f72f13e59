"""Costs of block shapes: against hand counts, and what must hold whatever the program."""

from __future__ import annotations

import pytest

from pintac import blocks
from pintac.api.compilation import as_machine
from pintac.api.lowering import Lowered, lower
from pintac.api.reuse import emit_or_reuse
from pintac.experiments.blocks import bytes_per_element, contracted, shape_cost, traffic
from pintac.experiments.catalogue import load_experiment
from pintac.experiments.rows import Seeds
from pintac.frontend import load_step
from pintac.passes import PipelineOptions
from pintac.program import Program
from pintac.timeline import Timing, simulate

SMALL = {"interior": 8, "boundary": 4, "width": 16, "rank": 4, "K": 8}


@pytest.fixture(scope="module")
def compiled() -> tuple[Lowered, Program, Timing]:
    lowered = lower(load_step("poisson2d", **SMALL), PipelineOptions())
    program = emit_or_reuse(lowered, as_machine("pinta"))
    return lowered, program, simulate(program)


def test_bytes_of_an_element() -> None:
    assert bytes_per_element(8, "4x4") == 1 + 1 / 16 and bytes_per_element(4, "1x32") == 0.5 + 1 / 32
    assert bytes_per_element(12, "1x16", 2) == 2 * (1.5 + 1 / 16) and bytes_per_element(16, "8x8") == 2 + 1 / 64


def test_what_is_contracted_twice_is_what_the_pass_quantises_twice(compiled: tuple[Lowered, Program, Timing]) -> None:
    smx = contracted(compiled[0].graphs["step"])
    rows = lower(load_step("poisson2d", **SMALL), PipelineOptions(block="1x32")).graphs["step"]
    assert sum(len(axes) for axes in smx.values() if axes) <= len(rows.of("quantize"))
    assert sum(len(axes) == 2 for axes in smx.values()) >= 10


def test_4x4_is_the_program_itself(compiled: tuple[Lowered, Program, Timing]) -> None:
    lowered, program, timing = compiled
    cost = shape_cost("4x4", program, lowered.graphs["step"], timing, traffic(program, lowered.graphs["step"], timing))
    assert cost.cycles == cost.cycles_most == timing.cycles and cost.vpu_cycles == timing.busy["vpu"]
    assert cost.dram_bytes == timing.dram_bytes and cost.joules == timing.joules and cost.weights_bytes == 0


def test_other_shapes_have_fewer_exponents_and_more_copies(compiled: tuple[Lowered, Program, Timing]) -> None:
    lowered, program, timing = compiled
    graph = lowered.graphs["step"]
    moved = traffic(program, graph, timing)
    assert 0 < moved.twice < moved.written and moved.exponents_tcu > 0 and moved.exponents_vpu > 0
    cost = {shape: shape_cost(shape, program, graph, timing, moved) for shape in blocks.SHAPES}
    assert cost["8x8"].sram_bytes < cost["4x4"].sram_bytes < cost["1x16"].sram_bytes
    assert cost["8x8"].cycles_most == timing.cycles and cost["8x8"].joules < timing.joules
    for shape in ("1x16", "1x32"):
        assert cost[shape].cycles <= cost[shape].cycles_most and cost[shape].vpu_cycles > timing.busy["vpu"]
        assert cost[shape].weights_bytes > 0 and 0 < cost[shape].copies_share < 1


def test_every_shape_is_run() -> None:
    runs = load_experiment("blocks").runs(Seeds(count=1))
    assert {run.block for run in runs} == set(blocks.SHAPES)
    assert all(("evaluator" in run.arguments) == (run.block != "4x4") for run in runs)
