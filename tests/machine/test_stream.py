"""Unrolling a listing."""

import itertools

import numpy as np
import pytest

from pintac import isa
from pintac.errors import ExecutionError
from pintac.isa import Opcode, Queue, make
from pintac.isa.encoding import decode_table
from pintac.stream import dynamic_stream, executions, queues

PARAMS = np.zeros(isa.PARAMS, np.uint32)


def wait(sem: int) -> isa.Instruction:
    return make(Opcode.WAIT, queue=Queue.VPU, sem=sem)


def loop(level: int, count: int, param: int = isa.NO_PARAM) -> isa.Instruction:
    return make(Opcode.LOOP, level=level, count=count, param=param)


def end(level: int) -> isa.Instruction:
    return make(Opcode.ENDLOOP, level=level)


LISTING = [wait(9), loop(0, 3), wait(0), loop(1, 4, param=5), wait(1), wait(2), end(1), wait(3), end(0), wait(4)]


@pytest.mark.parametrize("inner", [0, 1, 2, 4])
def test_nested_loops_expand_in_order(inner: int) -> None:
    table = decode_table(LISTING)
    params = PARAMS.copy()
    params[5] = inner
    expected: list[tuple[int, tuple[int, int]]] = []
    for i in range(3):
        expected.append((2, (i, 0)))
        for j, pc in itertools.product(range(inner), (4, 5)):
            expected.append((pc, (i, j)))
        expected.append((7, (i, 0)))
    expected.append((9, (0, 0)))
    pc, index = dynamic_stream(table, 1, len(LISTING), params)
    assert [(int(p), (int(i[0]), int(i[1]))) for p, i in zip(pc, index, strict=True)] == expected
    assert not index[:, 2:].any()
    assert executions(table, 1, len(LISTING), params).tolist() == [1, 3, 3, 3 * inner, 3 * inner, 3, 3, 1, 1]


def test_a_parameter_above_its_maximum_is_refused() -> None:
    params = PARAMS.copy()
    params[5] = 5
    with pytest.raises(ExecutionError, match=r"instruction 3 \(loop\): parameter 5 is 5, the loop runs at most 4"):
        dynamic_stream(decode_table(LISTING), 0, len(LISTING), params)


@pytest.mark.parametrize(("listing", "message"), [([loop(0, 2)], "0 .loop. is not closed"), ([end(0)], "closes no")])
def test_unbalanced_loops_are_refused(listing: list[isa.Instruction], message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        dynamic_stream(decode_table(listing), 0, 1, PARAMS)


def test_queues_follow_from_opcode_or_field() -> None:
    listing = [
        loop(0, 1), make(Opcode.SIGNAL, queue=Queue.STORE), make(Opcode.LOAD), make(Opcode.STORE), make(Opcode.MATMUL),
        make(Opcode.VPU), wait(1), end(0),
    ]  # fmt: skip
    assert queues(decode_table(listing)).tolist() == [-1, 3, 0, 3, 1, 2, 2, -1]
