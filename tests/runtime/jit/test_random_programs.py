"""Both engines leave the same bits on random programs: every opcode, operand form, micro-op and sink."""

import pytest

from tests.runtime.jit.engines import AVAILABLE, run_both
from tests.runtime.programs import random_program


@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("seed", range(12))
def test_random_program(seed: int, isa: str) -> None:
    run_both(random_program(1000 + seed, 1 + seed % 6), isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("seed", range(300))
def test_many_random_programs(seed: int, isa: str) -> None:
    run_both(random_program(seed, 1 + seed % 8), isa)
