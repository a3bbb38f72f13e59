"""Running one program on both engines and comparing what they leave."""

from __future__ import annotations

import numpy as np

from pintac.isa import Space
from pintac.program import Program
from pintac.runtime.jit import JitEngine
from pintac.runtime.jit.compiler import ISAS, lowering
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from tests.runtime.programs import assert_same_memory

# On a processor without AVX-512 only the portable code can run.
AVAILABLE = [name for name in ISAS if name != "auto" and (name == "portable" or lowering().name == name)]


def run_jit(program: Program, isa: str, entry: str = "step", threads: int = 1) -> MachineState:
    """The state that the jit engine leaves."""
    state = MachineState(program)
    JitEngine(program, state, threads=threads, isa=isa).run(entry)
    return state


def run_both(program: Program, isa: str, entry: str = "step", threads: int = 1) -> MachineState:
    """Run both engines, require equal memory, give the jit engine's state."""
    expected = MachineState(program)
    ReferenceEngine(program, expected).run(entry)
    actual = run_jit(program, isa, entry, threads)
    assert_same_memory(actual, expected)
    return actual


def words(state: MachineState, space: Space, addr: int, count: int) -> np.ndarray:
    """fp32 words of a state."""
    return state.padded(space).view(np.float32)[addr // 4 : addr // 4 + count]
