"""The jit engine on the instruction mix of a PINN training step, next to the same matrix products in eager PyTorch.

    python benchmarks/bench_engine.py [--rows 32] [--points 100] [--evaluations 512] [--isa auto] [--repeat 3]

The program has the shape of the Poisson step (2-256-256-256-256-1, three TT layers of rank 16, W8 D8 G12): forward and
backward of every perturbed row, weight gradients accumulated in SRAM. Base rows, Adam and transfers are left out. The
baseline does the products and element-wise work of the same rows in fp32, one thread, in chunks that fit the cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from pintac import isa
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.isa.encoding import encode_program
from pintac.program import Program
from pintac.runtime.jit import JitEngine
from pintac.runtime.state import MachineState

WIDTH, RANK, LAYERS = 256, 16, 3
REG, SRC, IMM = isa.SELECT_REG, isa.SELECT_SOURCE, isa.SELECT_IMM


class Builder:
    """Instructions and memory of the benchmark program."""

    def __init__(self) -> None:
        self.instructions: list[isa.Instruction] = []
        self.used = dict.fromkeys(Space, 0)

    def allocate(self, size: int, space: Space = Space.SRAM) -> int:
        start = -(-self.used[space] // 64) * 64
        self.used[space] = start + size
        return start

    def smx(self, rows: int, cols: int, bits: int) -> Operand:
        blocks = -(-rows // 4) * -(-cols // 4)
        return Operand(
            Kind.TENSOR,
            Space.SRAM,
            bits,
            self.allocate(2 * bits * blocks),
            self.allocate(blocks),
            hi=-(-cols // 4),
            cstep=1,
        )

    def fp32(self, rows: int, cols: int, space: Space = Space.SRAM) -> Operand:
        return Operand(Kind.TENSOR, space, 0, self.allocate(4 * rows * cols, space), hi=cols, cstep=1)

    def matmul(self, m: int, n: int, k: int, a: Operand, b: Operand, d: Operand, **header: int) -> None:
        self.instructions.append(isa.make(Opcode.MATMUL, {"s0": a, "s1": b, "d0": d}, m=m, n=n, k=k, **header))

    def vpu(
        self, rows: int, cols: int, sources: Sequence[Operand], uops: Sequence[int],
        sinks: Sequence[tuple[Operand, int]], kinds: Sequence[Sink] = (Sink.WRITE, Sink.SUM_ROWS), **header: int,
    ) -> None:  # fmt: skip
        operands = {f"s{i}": o for i, o in enumerate(sources)}
        for i, (o, selector) in enumerate(sinks):
            group = {f: getattr(o, f) for f in ("space", "bits", "addr", "eaddr", "hi", "cstep")}
            operands[f"d{i}"] = Operand(kinds[i], **group)
            header[f"sel{i}"] = selector
        header |= {f"uop{i}": u for i, u in enumerate(uops)}
        self.instructions.append(isa.make(Opcode.VPU, operands, rows=rows, cols=cols, uops=len(uops), **header))


def build(rows: int, tiles: int) -> Program:
    """One entry `step`: `tiles` times forward and backward of `rows` rows; `weights` fills the operands first."""
    b, op = Builder(), isa.micro_op
    w0, out = b.smx(4, WIDTH, 8), b.smx(WIDTH, 1, 8)
    left = [b.smx(WIDTH, RANK, 8) for _ in range(LAYERS)]
    right = [b.smx(RANK, WIDTH, 8) for _ in range(LAYERS)]
    x = b.smx(rows, 4, 8)
    base = [b.fp32(1, WIDTH) for _ in range(LAYERS + 1)]
    h = [b.smx(rows, WIDTH, 8) for _ in range(LAYERS + 1)]
    z = [b.smx(rows, RANK, 8) for _ in range(LAYERS)]
    g, gz, gy = b.smx(rows, WIDTH, 12), b.smx(rows, RANK, 12), b.smx(rows, 1, 12)
    wide, narrow = b.fp32(rows, WIDTH, Space.PSUM), b.fp32(rows, RANK, Space.PSUM)
    grads = [(b.fp32(WIDTH, RANK), b.fp32(RANK, WIDTH)) for _ in range(LAYERS)]
    grad_0, grad_out, grad_y = b.fp32(4, WIDTH), b.fp32(WIDTH, 1), [b.fp32(1, WIDTH) for _ in range(LAYERS + 1)]
    one = isa.float_bits(1.0)

    def row(o: Operand) -> Operand:
        return Operand(o.kind, o.space, 0, o.addr, hi=0, cstep=1)

    def draw(o: Operand, m: int, n: int, scale: float, stream: int) -> None:
        index = Operand(kind=Kind.INDEX, hi=n, cstep=1)
        uops = [op(MicroOp.PHILOX_U, SRC, IMM + 3), op(MicroOp.SUB, REG, IMM), op(MicroOp.MUL, REG + 1, IMM + 1)]
        b.vpu(m, n, [index], uops, [(o, REG + 2)], imm0=isa.float_bits(0.5), imm1=isa.float_bits(scale), imm3=stream)

    targets = [(w0, 4, WIDTH, 2.0), (out, WIDTH, 1, 0.2), (x, rows, 4, 0.1)]
    targets += [(o, WIDTH, RANK, 0.3) for o in left] + [(o, RANK, WIDTH, 0.9) for o in right]
    targets += [(o, 1, WIDTH, 1.0) for o in base]
    for i, (o, m, n, scale) in enumerate(targets):
        draw(o, m, n, scale, i)
    weights = len(b.instructions)

    delta_tanh = [
        op(MicroOp.TANH, SRC), op(MicroOp.MUL, SRC + 1, SRC + 1), op(MicroOp.SUB, IMM, REG + 1),
        op(MicroOp.MUL, REG, REG + 2), op(MicroOp.MUL, SRC + 1, REG), op(MicroOp.ADD, IMM, REG + 4),
        op(MicroOp.DIV, REG + 3, REG + 5),
    ]  # fmt: skip
    backward = [
        op(MicroOp.ADD, SRC + 1, SRC + 2), op(MicroOp.MUL, REG, REG), op(MicroOp.SUB, IMM, REG + 1),
        op(MicroOp.MUL, SRC, REG + 2), op(MicroOp.ADD, REG, SRC + 2), op(MicroOp.MUL, SRC, SRC + 1),
        op(MicroOp.MUL, REG + 5, REG + 4), op(MicroOp.NEG, REG + 6),
    ]  # fmt: skip
    b.instructions.append(isa.make(Opcode.LOOP, level=0, count=tiles, param=isa.NO_PARAM))
    b.matmul(rows, WIDTH, 4, x, w0, wide)
    b.vpu(rows, WIDTH, [wide, row(base[0])], delta_tanh, [(h[0], REG + 6)], imm0=one)
    for i in range(LAYERS):
        b.matmul(rows, RANK, WIDTH, h[i], left[i], narrow)
        b.vpu(rows, RANK, [narrow], [], [(z[i], SRC)])
        b.matmul(rows, WIDTH, RANK, z[i], right[i], wide)
        b.vpu(rows, WIDTH, [wide, row(base[i + 1])], delta_tanh, [(h[i + 1], REG + 6)], imm0=one)
    b.matmul(rows, 1, WIDTH, h[LAYERS], out, narrow)
    b.vpu(rows, 1, [narrow], [op(MicroOp.MUL, SRC, IMM)], [(gy, REG)], imm0=isa.float_bits(1e-3))
    b.matmul(WIDTH, 1, rows, h[LAYERS], gy, grad_out, ta=1, acc=1)
    b.matmul(rows, WIDTH, 1, gy, out, wide, tb=1)
    for i in reversed(range(LAYERS + 1)):
        sinks = [(g, REG + 3), (grad_y[i], REG + 7)]
        b.vpu(rows, WIDTH, [wide, h[i], row(base[i])], backward, sinks, imm0=one, acc1=1)
        if not i:
            b.matmul(4, WIDTH, rows, x, g, grad_0, ta=1, acc=1)
            continue
        b.matmul(RANK, WIDTH, rows, z[i - 1], g, grads[i - 1][1], ta=1, acc=1)
        b.matmul(rows, RANK, WIDTH, g, right[i - 1], narrow, tb=1)
        b.vpu(rows, RANK, [narrow], [], [(gz, SRC)])
        b.matmul(WIDTH, RANK, rows, h[i - 1], gz, grads[i - 1][0], ta=1, acc=1)
        b.matmul(rows, WIDTH, RANK, gz, left[i - 1], wide, tb=1)
    b.instructions.append(isa.make(Opcode.ENDLOOP, level=0))
    stop = len(b.instructions)
    return Program(
        code=encode_program(b.instructions), entries={"weights": (0, weights), "step": (weights, stop)},
        dram_bytes=64, sram_bytes=b.used[Space.SRAM], psum_bytes=b.used[Space.PSUM],
    )  # fmt: skip


def seconds_of_torch(rows: int, chunk: int) -> float:
    """The same products and element-wise work in eager fp32 PyTorch, forward and backward written out."""
    import torch

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    w0, out = torch.randn(4, WIDTH, generator=draw), torch.randn(WIDTH, 1, generator=draw) / 16
    left = [torch.randn(WIDTH, RANK, generator=draw) / 16 for _ in range(LAYERS)]
    right = [torch.randn(RANK, WIDTH, generator=draw) / 4 for _ in range(LAYERS)]
    x = torch.randn(chunk, 4, generator=draw) * 0.1

    def once() -> None:
        h, z = [torch.tanh(x @ w0)], []
        for i in range(LAYERS):
            z.append(h[i] @ left[i])
            h.append(torch.tanh(z[i] @ right[i]))
        gradient = (h[-1] @ out) @ out.T
        for i in reversed(range(LAYERS + 1)):
            gradient = gradient * (1 - h[i] * h[i])
            gradient.sum(0)
            if i:
                z[i - 1].T @ gradient
                narrow = gradient @ right[i - 1].T
                h[i - 1].T @ narrow
                gradient = narrow @ left[i - 1].T
        x.T @ gradient

    once()
    start = time.perf_counter()
    for _ in range(rows // chunk):
        once()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="rows of a tile")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--evaluations", type=int, default=512)
    parser.add_argument("--isa", default="auto", choices=("auto", "avx512", "portable"))
    parser.add_argument("--repeat", type=int, default=3)
    a = parser.parse_args()
    total = a.points * a.evaluations
    program = build(a.rows, total // a.rows)
    state = MachineState(program)
    start = time.perf_counter()
    engine = JitEngine(program, state, isa=a.isa)
    engine.run("weights")
    plan = engine.prepare("step")
    print(f"compile (or load): {time.perf_counter() - start:.2f} s, isa {engine.instruction_set}")
    best = {"engine": float("inf"), "torch": float("inf")}
    for _ in range(a.repeat):
        start = time.perf_counter()
        engine.run("step")
        best["engine"] = min(best["engine"], time.perf_counter() - start)
        best["torch"] = min(best["torch"], *(seconds_of_torch(total, chunk) for chunk in (512, 2048)))
    print(f"{plan.executed} instructions, {plan.macs / 1e9:.2f} GMAC")
    print(f"engine {best['engine']:.3f} s ({plan.macs / best['engine'] / 1e9:.1f} GMAC/s), torch {best['torch']:.3f} s")
    print(f"engine / torch {best['engine'] / best['torch']:.2f}")
    gradient = state.padded(Space.SRAM).view(np.float32)
    print(f"finite: {bool(np.isfinite(gradient[-64:]).all())}, status {int(state.status[0])}")


if __name__ == "__main__":
    main()
