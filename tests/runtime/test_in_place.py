"""In-place writes: an instruction reads its sources before it writes, whatever the other sink does with them."""

from __future__ import annotations

import numpy as np
import pytest

from pintac import isa, vmath
from pintac.isa import MicroOp, Operand, Sink
from pintac.runtime import ENGINES, MachineState, make_engine
from tests.runtime.execute import normal
from tests.runtime.listing import REG, SRC, Listing, uop
from tests.runtime.programs import assert_same_memory


@pytest.mark.parametrize("shape", [(8, 4), (3, 17), (5, 16)])
@pytest.mark.parametrize("kind", [*list(Sink)[1:], "smx8", "smx12"], ids=str)
@pytest.mark.parametrize("first", [0, 1])
def test_the_other_sink_sees_the_source_as_it_was(shape: tuple[int, int], kind: Sink | str, first: int) -> None:
    listing = Listing()
    x = listing.source(normal(*shape))
    in_place = (Operand(Sink.WRITE, addr=x.addr, hi=shape[1], cstep=1), REG)
    if isinstance(kind, str):
        other = listing.sink(shape, bits=int(kind[3:]))
    else:
        other = listing.sink(isa.sink_shape(kind, *shape, 0), kind)
    sinks = [in_place, (other, SRC)]
    listing.vpu(shape, [x], [uop(MicroOp.TANH, SRC)], sinks if first == 0 else sinks[::-1])
    before = listing.data["c0"]
    states = []
    program = listing.program()
    for engine in ENGINES:
        state = MachineState(program)
        make_engine(engine, program, state).run("step")
        states.append(state)
    assert_same_memory(states[1], states[0])
    tanh = states[0].sram[x.addr :][: before.nbytes].view(np.float32).reshape(shape)
    np.testing.assert_array_equal(tanh, vmath.tanh(before))
    if kind is Sink.WRITE:
        copy = states[1].sram[other.addr :][: before.nbytes].view(np.float32).reshape(shape)
        np.testing.assert_array_equal(copy, before)
    if kind is Sink.MAX_ALL:
        assert states[1].sram[other.addr :][:4].view(np.float32)[0] == before.max()
