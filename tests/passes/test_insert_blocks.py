"""Blocks of other shapes in the IR: along what is contracted, verified, kept by the text form; refused by programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pintac
from pintac import blocks
from pintac.errors import IRError, PassError, UsageError
from pintac.frontend import load_step
from pintac.ir import Builder, Graph, Node
from pintac.ir.evaluate import evaluate
from pintac.ir.graph import Location, print_graph
from pintac.ir.text import graphs_equal, parse_graph
from pintac.ir.verify import verify
from pintac.passes import parse_pipeline
from pintac.passes.insert_smx import InsertSMX
from tests.cli.support import TINY
from tests.passes.models import poisson, run
from tests.passes.networks import NETWORKS

BEFORE = "expand-operators,split-stein{form=%s},reorder-tt,differentiate,lower-delta"
ROWS = ("1x16", "1x32")


def smx(network: str, form: str, block: str) -> Graph:
    graph = run(poisson(NETWORKS[network], points=3), *parse_pipeline(BEFORE % form))
    return verify(InsertSMX(block=block).run(graph))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["plus-minus", "even-odd", "none"])
@pytest.mark.parametrize("block", ["8x8", *ROWS])
@pytest.mark.parametrize("network", ["mlp", "gated"])
def test_products_read_blocks_of_the_contracted_dimension(network: str, block: str, form: str) -> None:
    graph = smx(network, form, block)
    extent = blocks.SHAPES[block][1]
    for node in graph.of("matmul"):
        a, b = node.operands[:2]
        assert a.type.block[1] == b.type.block[1 if node.attrs["transpose_b"] else 0] == extent
    for node in graph.of("matmul_tn"):
        assert [operand.type.block[0] for operand in node.operands[:2]] == [extent] * 2
    assert all(node.type.bits in (8, 12, 16) for node in graph.of("quantize"))
    assert graphs_equal(parse_graph(print_graph(graph)), graph)


def test_one_copy_of_square_blocks_two_of_others() -> None:
    def copies(block: str) -> list[int]:
        made: dict[Node, int] = {}
        for node in smx("mlp", "plus-minus", block).of("quantize"):
            made[node.operands[0]] = made.get(node.operands[0], 0) + 1
        return sorted(set(made.values()))

    assert copies("4x4") == copies("8x8") == [1]
    assert copies("1x32") == [1, 2]


@pytest.mark.parametrize("block", ROWS)
def test_backward_reads_the_copy_that_was_kept_for_it(block: str) -> None:
    """Elementwise ops of backward decode what the weight gradient reads, so the forward copy is not kept."""
    graph = smx("mlp", "plus-minus", block)
    kept = {node.operands[0] for node in graph.of("matmul_tn")}
    decoded = {node.operands[0] for node in graph.of("decode")}
    assert decoded and decoded <= kept


def test_the_default_is_not_written() -> None:
    text = print_graph(smx("mlp", "plus-minus", "4x4"))
    assert "block" not in text and "smx8_" not in text
    assert 'quantize(%x) {bits=8, block="1x32"}' in print_graph(one_quantize("1x32"))


def one_quantize(block: str) -> Graph:
    b = Builder("g")
    with b.at(Location("a.py", 3)):
        x = b.input("x", (5, 40))
        b.output("y", b.decode(b.quantize(x, 8, block=block)))
    return b.finish()


def test_the_evaluator_rounds_as_the_format_says() -> None:
    x = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    for block in ("8x8", "1x16", "16x1", "1x32", "32x1"):
        extents = tuple(map(int, block.split("x")))
        mant, code, _ = blocks.quantize(x, 8, (extents[0], extents[1]))
        wanted = blocks.decode(mant, code, (extents[0], extents[1]))[:5, :40]
        np.testing.assert_array_equal(evaluate(one_quantize(block), {"x": x}, mode="smx")["y"], wanted)


def test_blocks_that_do_not_fit_together_are_refused() -> None:
    b = Builder("g")
    with b.at(Location("a.py", 3)):
        x, w = b.input("x", (5, 40)), b.input("w", (40, 3))
        with pytest.raises(IRError, match=r"contracts blocks of 32 with blocks of 1: smx8_1x32\[5,40\]"):
            b.matmul(b.quantize(x, 8, block="1x32"), b.quantize(w, 8, block="1x32"))
        with pytest.raises(IRError, match="cannot be '2x8'"):
            b.quantize(x, 8, block="2x8")
        parts = b.concat([x, x], axis=0)
        b.output("y", b.decode(b.quantize(parts, 8, block="16x1")))
    with pytest.raises(IRError, match="spans row groups, a group starts at row 5"):
        verify(b.finish())


def test_only_the_evaluator_has_them(tmp_path: Path) -> None:
    (tmp_path / "tiny_pde.py").write_text(TINY)
    step = load_step(f"{tmp_path}/tiny_pde.py:step")
    refusal = r"blocks of .*x.*, the machine and its simulator have 4x4\n.*--engine evaluator"
    with pytest.raises(PassError, match=refusal):
        pintac.compile(step, block="1x32")
    with pytest.raises(UsageError, match="4x4 blocks, not 8x8"):
        pintac.train(step, 1, block="8x8", progress=False)
    default = pintac.train(step, 2, engine="evaluator", progress=False)
    losses = {default.history[-1][1]}
    for block in ("8x8", "1x16", "1x32"):
        result = pintac.train(step, 2, engine="evaluator", block=block, progress=False)
        assert result.as_dict()["block"] == block and result.l2 is not None and result.l2 < 3
        losses.add(result.history[-1][1])
    assert len(losses) >= 3
