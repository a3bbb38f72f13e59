"""Running a hand-written listing on the reference engine and looking at its memory."""

from __future__ import annotations

import numpy as np

from pintac import smx
from pintac.isa import Operand, Space
from pintac.runtime.reference import ReferenceEngine
from pintac.runtime.state import MachineState
from tests.runtime.listing import Listing

F32 = np.float32
_random = np.random.RandomState(1)


def run(listing: Listing, step: int = 0, seed: int = 0) -> MachineState:
    """The state after the listing, started at a step."""
    program = listing.program()
    state = MachineState(program)
    state.set_step(step, seed)
    ReferenceEngine(program, state).run("step")
    return state


def words(state: MachineState, operand: Operand, shape: tuple[int, int]) -> np.ndarray:
    """The dense fp32 tensor at a sink's address."""
    memory = state.padded(Space(operand.space)).view(F32)
    return memory[operand.addr // 4 : operand.addr // 4 + shape[0] * shape[1]].reshape(shape)


def smx_at(state: MachineState, operand: Operand, shape: tuple[int, int]) -> smx.Smx:
    """The dense SMX tensor at a sink's address."""
    size = smx.mantissa_bytes(shape, operand.bits)
    mplane = state.sram[operand.addr : operand.addr + size]
    eplane = state.sram[operand.eaddr : operand.eaddr + smx.exponent_bytes(shape)]
    return smx.from_bytes(mplane, eplane, operand.bits, smx.padded(shape))


def normal(*shape: int) -> np.ndarray:
    """fp32 normals."""
    return _random.standard_normal(shape).astype(F32)
