"""Views and their collapse against NumPy's strides: every element that emitted operands address."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac.backend.listing.emit import tensor, transfers
from pintac.backend.tiles import vpu
from pintac.backend.tiles.tile import Buffer, CopyOp, VpuOp
from pintac.backend.tiles.transfer import transfer_cycles
from pintac.backend.tiles.views import apply, compact_size, compact_view, narrow, reshape_strides
from pintac.cost import cost
from pintac.ir import Builder, Location
from pintac.isa import Operand, Space
from pintac.machine import Machine

HERE = Location("net.py", 12)


@st.composite
def strided(draw: st.DrawFn) -> tuple[Any, np.ndarray]:
    """A view and the NumPy array of the element numbers it should address."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    buffer = Buffer("x", math.prod(shape), addr=0)
    view, array = compact_view(buffer, shape), np.arange(buffer.size).reshape(shape)
    b = Builder("g")
    node = b.input("x", shape, loc=HERE)
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["permute", "slice", "broadcast", "reshape"]))
        if kind == "permute":
            perm = tuple(draw(st.permutations(range(array.ndim))))
            node, array = b.permute(node, perm, loc=HERE), array.transpose(perm)
        elif kind == "slice":
            axis = draw(st.integers(0, array.ndim - 1))
            start = draw(st.integers(0, array.shape[axis] - 1))
            stop = draw(st.integers(start + 1, array.shape[axis]))
            node, array = b.slice(node, axis, start, stop, loc=HERE), array.take(range(start, stop), axis)
        elif kind == "broadcast":
            wide = tuple(n if n > 1 else draw(st.integers(1, 3)) for n in array.shape)
            node, array = b.broadcast(node, wide, loc=HERE), np.broadcast_to(array, wide)
        else:
            flat = (1, *array.shape[:-2], math.prod(array.shape[-2:]))
            if reshape_strides(view, flat) is None:
                continue
            node, array = b.reshape(node, flat, loc=HERE), array.reshape(flat)
        view = apply(node, view, node.shape)
    return view, array


def addresses(o: Operand, rows: int, cols: int) -> np.ndarray:
    """Byte addresses of the elements (r, c) of an fp32 operand, by the rule of the instruction set."""
    r, c = np.arange(rows)[:, None], np.arange(cols)
    at = r // o.inner * o.hi + r % o.inner * o.lo if o.inner else r * o.hi
    return o.addr + 4 * (at + c * o.cstep)


def execute(op: VpuOp, memory: np.ndarray, out: np.ndarray) -> None:
    rows, cols = math.prod(op.shape[:-1]), op.shape[-1]
    inner = op.shape[1] if len(op.shape) == 3 else 0
    (source,), (sink,) = op.sources, op.sinks
    read = addresses(tensor(source, source.strides, inner=inner), rows, cols)  # type: ignore[arg-type]
    write = addresses(tensor(sink, sink.strides, inner=inner), rows, cols)
    assert len(set(write.ravel().tolist())) == write.size
    out[write // 4] = memory[read // 4]


@given(strided())
@settings(max_examples=300)
def test_every_element_is_numpys(drawn: tuple[Any, np.ndarray]) -> None:
    view, array = drawn
    target = Buffer("y", array.size, addr=0)
    out = np.full(array.size, -1)
    for op in vpu.instructions(vpu.copy(view, compact_view(target, array.shape), "copy", HERE)):
        assert len(op.shape) <= 3
        execute(op, np.arange(view.buffer.size), out)
    np.testing.assert_array_equal(out, array.ravel())


@given(strided(), st.booleans())
@settings(max_examples=200)
def test_transfers_move_every_element(drawn: tuple[Any, np.ndarray], load: bool) -> None:
    view, array = drawn
    target = Buffer("y", array.size, addr=0)
    (view.buffer if load else target).space = Space.DRAM
    out = np.full(array.size, -1)
    op = CopyOp("copy", HERE, view, compact_view(target, array.shape))
    machine = Machine.default()
    assert sum(transfer_cycles(op, machine)) == sum(cost(i, machine).busy for i in transfers(op))
    for i in transfers(op):
        s, d = i.operand("s0"), i.operand("d0")
        for o in range(i["outer"]):
            for c in range(i["count"]):
                for n in range(0, i["size"], 4):
                    out[(d.addr + o * d.lo + c * d.hi + n) // 4] = (s.addr + o * s.lo + c * s.hi + n) // 4
    np.testing.assert_array_equal(out, array.ravel())


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.sampled_from([0, 4, 8, 12, 16]))
def test_compact_views_fill_their_buffer(shape: list[int], bits: int) -> None:
    view = compact_view(Buffer("x", compact_size(shape, bits), bits), shape)
    units = list(shape) if not bits else [*shape[:-2], -(-shape[-2] // 4), -(-shape[-1] // 4)]
    index = np.indices(units).reshape(len(units), -1)
    assert sorted((np.array(view.strides) @ index).tolist()) == list(range(view.buffer.size))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_narrowed_rows_move_with_the_loop(tiles: int, cols: int, rows: int, index: int) -> None:
    view = compact_view(Buffer("x", 8 * tiles * rows * cols, addr=0), (8 * tiles * rows, cols))
    part = narrow(view, 0, rows, rows, (2, rows))
    array = np.arange(view.buffer.size).reshape(view.shape)
    o = tensor(part, part.strides)
    at = addresses(o, rows, cols) + index * o.steps[2]
    np.testing.assert_array_equal(at // 4, array[rows * (1 + index) : rows * (2 + index)])


@pytest.mark.parametrize(("start", "size"), [(-1, 2), (3, 2), (0, 5)])
def test_rows_that_a_view_does_not_have_are_no_view(start: int, size: int) -> None:
    with pytest.raises(AssertionError, match="axis 0"):
        narrow(compact_view(Buffer("x", 8), (4, 2)), 0, start, size)
