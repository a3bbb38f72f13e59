"""Programs edited by hand: `asm` refuses what depends on timing, `check` says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import Cli

TEXT = """
.memory dram=64 sram=64 psum=0
.params "seed" "step"
.symbol "x" f32[4] input addr=0
.symbol "y" f32[4] output addr=16
.semaphore 0 load -> vpu credit=0 capacity=1
.semaphore 1 vpu -> store credit=0 capacity=1
.array table u32[1,2]
|AAAAAAAAAAA=
.begin "step"
load size=16 count=1 outer=1 s0{space=dram} d0{space=sram}
signal queue=load sem=0
wait queue=vpu sem=0
vpu rows=1 cols=4 uops=1 uop0=mul(s0,i0) imm0=2.0 s0{kind=tensor space=sram hi=4 cstep=1} \
d0{kind=write space=sram addr=16 hi=4 cstep=1}
signal queue=vpu sem=1
wait queue=store sem=1
store size=16 count=1 outer=1 s0{space=sram addr=16} d0{space=dram addr=16}
.end "step"
"""

WRONG = {
    "a race": ("signal queue=load sem=0\nwait queue=vpu sem=0\n", "", "read before its write: nothing makes"),
    "a wait without a signal": ("signal queue=load sem=0\n", "", "wait without a signal: semaphore 0"),
    "a wait before its signal": (
        "signal queue=vpu sem=1\nwait queue=store sem=1\n",
        "wait queue=store sem=1\nsignal queue=vpu sem=1\n",
        "wait without a signal: semaphore 1",
    ),
    "a semaphore over its capacity": ("sem=0\nwait", "sem=0\nsignal queue=load sem=0\nwait", "over its capacity"),
    "out of bounds": ("addr=16} d0", "addr=52} d0", "out of bounds"),
    "read of nothing": ("sram hi=4 cstep=1}", "sram addr=32 hi=4 cstep=1}", "uninitialised read"),
}


def test_a_clean_program_is_assembled_and_checked(cli: Cli) -> None:
    assert cli("asm", "-", "-o", "p.pinta", stdin=TEXT).code == 0
    done = cli("check", "p.pinta")
    assert (done.code, done.out) == (0, "step: clean, 7 instructions executed\n")


@pytest.mark.parametrize("case", WRONG)
def test_what_depends_on_timing_is_refused(cli: Cli, tmp_path: Path, case: str) -> None:
    old, new, message = WRONG[case]
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    done = cli("asm", "-", "-o", "p.pinta", stdin=text)
    assert done.code == 1 and message in done.err and "in the entry step" in done.err, done.err
    assert list(tmp_path.iterdir()) == []
    assert cli("asm", "-", "-o", "p.pinta", "--unchecked", stdin=text).code == 0
    done = cli("check", "p.pinta")
    assert done.code == 1 and message in done.out and done.err == ""


def test_a_long_entry_is_written_with_a_note(cli: Cli) -> None:
    text = TEXT.replace("wait queue=store", "loop count=600000 param=255\nload size=16 count=1 outer=1 s0{space=dram} "
                        "d0{space=sram addr=32}\nendloop\nwait queue=store")  # fmt: skip
    done = cli("asm", "-", "-o", "p.pinta", stdin=text)
    assert done.code == 0 and "the entry step executes 600,007 instructions and is not checked here" in done.err
