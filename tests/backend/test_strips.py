"""Matrices that lie in strips of columns: every block once, and the same blocks whichever way they are asked for."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pintac.backend.bodies.strips import Strips, in_strips
from pintac.backend.tiles.tile import Buffer, CopyOp, View
from pintac.backend.tiles.transfer import runs, transfer_cycles
from pintac.backend.tiles.views import compact_size, compact_view, narrow
from pintac.ir import Location
from pintac.isa import Space
from pintac.machine import Machine

HERE = Location("net.py", 12)


def blocks(view: View) -> np.ndarray:
    """Numbers of the blocks of a view, in its shape."""
    shape = [*view.shape[:-2], -(-view.shape[-2] // 4), -(-view.shape[-1] // 4)]
    index = np.indices(shape).reshape(len(shape), -1)
    return (view.offset + np.array(view.strides) @ index).reshape(shape)


@st.composite
def matrices(draw: st.DrawFn) -> Strips:
    rows, columns, width = draw(st.integers(1, 40)), draw(st.integers(1, 70)), 4 * draw(st.integers(1, 8))
    return Strips(Buffer("w", compact_size((rows, columns), 8), 8, Space.DRAM), rows, columns, width)


def matrix_of(strips: Strips) -> np.ndarray:
    """Where each block of the matrix lies, [rows of blocks, columns of blocks], by the strips as a whole."""
    local = compact_view(Buffer("l", strips.buffer.size, 8), (strips.rows, strips.columns))
    lies = np.full(strips.buffer.size, -1)
    for first, remote in strips.of_all_columns():
        part = in_strips(local, first, remote)
        assert part.shape == remote.shape
        lies[blocks(part).ravel()] = blocks(remote).ravel()
    return lies.reshape(-(-strips.rows // 4), -(-strips.columns // 4))


@given(matrices())
def test_every_block_has_a_place(strips: Strips) -> None:
    assert sorted(matrix_of(strips).ravel().tolist()) == list(range(strips.buffer.size))


@given(matrices(), st.data())
def test_some_columns_are_those_of_the_whole(strips: Strips, data: st.DataObject) -> None:
    start = 4 * data.draw(st.integers(0, (strips.columns - 1) // 4))
    columns = min(strips.columns - start, 4 * data.draw(st.integers(1, 20)))
    found = np.concatenate([blocks(view)[0] for _, view in strips.of_columns(start, columns)], axis=1)
    np.testing.assert_array_equal(found, matrix_of(strips)[:, start // 4 : start // 4 + found.shape[1]])
    places = [first for first, _ in strips.of_columns(start, columns)]
    widths = [view.shape[2] for _, view in strips.of_columns(start, columns)]
    assert places == [0, *itertools.accumulate(widths[:-1])] and sum(widths) == columns


@given(matrices(), st.data())
def test_some_rows_are_those_of_the_whole(strips: Strips, data: st.DataObject) -> None:
    start = 4 * data.draw(st.integers(0, (strips.rows - 1) // 4))
    rows = min(strips.rows - start, 4 * data.draw(st.integers(1, 10)))
    cut = [blocks(narrow(view, 1, start, rows)) for _, view in strips.of_all_columns()]
    found = np.concatenate([strip for view in cut for strip in view], axis=1)
    np.testing.assert_array_equal(found, matrix_of(strips)[start // 4 : start // 4 + found.shape[0]])


def test_a_strip_is_one_run_and_costs_its_bytes() -> None:
    """16 columns of 1024 rows: 1,024 blocks of 33 bytes in INT16, 16 of them lie row by row in runs of 4 blocks."""
    machine = Machine.default()
    local = compact_view(Buffer("l", 1024, 16), (1024, 16))
    strips = Strips(Buffer("w", 65536, 16, Space.DRAM), 1024, 1024, 16)
    ((_, remote),) = strips.of_columns(32, 16)
    lying = CopyOp("strip", HERE, remote, in_strips(local, 0, remote))
    row_by_row = CopyOp("rows", HERE, narrow(compact_view(strips.buffer, (1024, 1024)), 1, 32, 16), local)
    assert (runs(lying).size, runs(row_by_row).size) == (1024, 4)
    per_cycle = machine.dram_bytes_per_cycle
    assert transfer_cycles(lying, machine) == (1024 * 32 / per_cycle, 1024 / per_cycle)
    assert transfer_cycles(row_by_row, machine) == (1024 * 32 / per_cycle, 256 * machine.dram_burst_bytes / per_cycle)
