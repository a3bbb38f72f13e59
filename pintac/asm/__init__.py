"""Assembly text: `disassemble` prints everything a program file holds, `assemble` reads it back to the same bytes.

One instruction a line, `; comments`, directives for the rest:

    .memory dram=4096 sram=1024 psum=64
    .params "seed" "step" "lr"
    .semaphore 3 load -> vpu credit=0 capacity=2 "x.tiles"
    .symbol "w" f32[4,8] state addr=128
    .begin "step"
    vpu rows=4 cols=8 uops=1 uop0=mul(s0,i0) imm0=2.0 s0{kind=tensor space=sram hi=8 cstep=1} d0{...} @ "mul" "m.py":12
    .end "step"
    .array init "w" f32[4,8]
    |AACAPwAAgD8...
"""

from pintac.asm.parser import assemble
from pintac.asm.printer import disassemble

__all__ = ["assemble", "disassemble"]
