"""Tile IR: buffers, strided views of them, operations on tiles, hardware loops.

This is the level between the graph and instructions: one operation here becomes one instruction (an SMX transfer two,
one a plane). Buffers have a space and a size but no address until `allocate`. A loop body may hold the work of
several tiles, or of two iterations: what an operation touches is said by its views, not by its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pintac.ir import Location, Node
from pintac.isa import MicroOp, Queue, Sink, Space


@dataclass(eq=False)
class Buffer:
    """A piece of memory: `size` fp32 elements (bits 0) or `size` 4x4 SMX blocks, `ring` copies of it."""

    name: str
    size: int
    bits: int = 0
    space: Space = Space.SRAM
    ring: int = 1
    ring_level: int = 0
    addr: int | None = None
    eaddr: int = 0
    owner: Node | None = None  # the matmul whose result it holds (PSUM)
    arena: tuple[Buffer, int] | None = None  # the buffer that holds it, and where (bytes)
    padded: bool = False  # fp32 whose rows are padded to whole blocks at every leading index, as those of SMX are

    @property
    def mantissa_bytes(self) -> int:
        """Bytes of one ring slot: fp32 data or the mantissa plane."""
        return self.size * (2 * self.bits if self.bits else 4)

    @property
    def exponent_bytes(self) -> int:
        return self.size if self.bits else 0

    @property
    def bytes(self) -> int:
        """Bytes of all ring slots, both planes."""
        return self.ring * (self.mantissa_bytes + self.exponent_bytes)

    def __str__(self) -> str:
        kind = f"smx{self.bits}" if self.bits else "f32"
        ring = f" ring {self.ring}@{self.ring_level}" if self.ring > 1 else ""
        at = "" if self.addr is None else f" @{self.addr:#x}" + (f"/{self.eaddr:#x}" if self.bits else "")
        return f"{self.name}: {self.space.name.lower()} {kind}[{self.size}]{ring}{at}"


@dataclass(frozen=True)
class View:
    """A strided tensor in a buffer.

    `shape` and `strides` have one entry an axis. fp32: strides and offset count elements. SMX: they count blocks, the
    second to last stride is that of a row of *blocks* (four rows) and the last axis is contiguous. `steps` maps a loop
    level to the offset one iteration adds.
    """

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    steps: tuple[tuple[int, int], ...] = ()

    @property
    def bits(self) -> int:
        return self.buffer.bits

    def __str__(self) -> str:
        return f"{self.buffer.name}{_place(self)}"


@dataclass(frozen=True)
class IndexView:
    """Element numbers of a tensor, the counter of the random generator: strides count elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    steps: tuple[tuple[int, int], ...] = ()

    @property
    def bits(self) -> int:
        """0, as for fp32: nothing here counts blocks."""
        return 0

    def __str__(self) -> str:
        return f"index{_place(self)}"


def _place(view: View | IndexView) -> str:
    """[offset and steps](shape:strides)."""
    steps = "".join(f"+i{level}*{step}" for level, step in view.steps)
    return f"[{view.offset}{steps}]({'x'.join(map(str, view.shape))}:{','.join(map(str, view.strides))})"


Arg = tuple[Literal["reg", "src", "imm", "scalar"], int]
"""A value inside a VPU kernel: a register, a source, an immediate or a parameter, by number."""


@dataclass(frozen=True)
class KernelSink:
    """Where one value of a kernel goes. `group`: rows a row reduction folds into one (0: all)."""

    kind: Sink
    value: Arg
    accumulate: bool = False
    group: int = 0


@dataclass(frozen=True)
class Kernel:
    """The program of a VPU instruction: micro-ops over sources, and sinks."""

    ops: tuple[tuple[MicroOp, tuple[Arg, ...]], ...]
    sources: int
    immediates: tuple[int, ...]  # fp32 bits
    scalars: tuple[str, ...]  # names in the parameter block
    sinks: tuple[KernelSink, ...]


@dataclass(eq=False)
class TileOp(ABC):
    """Base of everything that becomes an instruction."""

    name: str
    loc: Location

    @property
    @abstractmethod
    def queue(self) -> Queue:
        """The queue it runs in."""

    @abstractmethod
    def reads(self) -> list[View]:
        """Views read."""

    @abstractmethod
    def writes(self) -> list[View]:
        """Views written."""


@dataclass(eq=False)
class VpuOp(TileOp):
    """A VPU instruction over `shape`: two or three axes (row groups, rows, columns) after collapsing.

    Before them there may be `unrolled` axes that an instruction cannot address: one instruction for each index.
    """

    kernel: Kernel
    shape: tuple[int, ...]
    sources: tuple[View | IndexView, ...]
    sinks: tuple[View, ...]
    unrolled: int = 0

    @property
    def queue(self) -> Queue:
        return Queue.VPU

    def reads(self) -> list[View]:
        out = [v for v in self.sources if isinstance(v, View)]
        out += [v for v, s in zip(self.sinks, self.kernel.sinks, strict=True) if s.accumulate]
        return out

    def writes(self) -> list[View]:
        return list(self.sinks)


@dataclass(eq=False)
class MatmulOp(TileOp):
    """d[m, n] (+)= a . b; `ta`/`tb`: the view holds the transpose."""

    a: View
    b: View
    d: View
    m: int
    n: int
    k: int
    ta: bool = False
    tb: bool = False
    accumulate: bool = False

    @property
    def queue(self) -> Queue:
        return Queue.TCU

    def reads(self) -> list[View]:
        return [self.a, self.b] + ([self.d] if self.accumulate else [])

    def writes(self) -> list[View]:
        return [self.d]


@dataclass(eq=False)
class CopyOp(TileOp):
    """A transfer between DRAM and SRAM of views of the same shape, `source` to `target`."""

    source: View
    target: View

    @property
    def queue(self) -> Queue:
        return Queue.LOAD if self.source.buffer.space == Space.DRAM else Queue.STORE

    def reads(self) -> list[View]:
        return [self.source]

    def writes(self) -> list[View]:
        return [self.target]


@dataclass(eq=False)
class Loop:
    """A hardware loop; `level` is its nesting depth."""

    level: int
    count: int
    body: list[Item] = field(default_factory=list)
    name: str = ""


@dataclass(eq=False)
class Sync:
    """A signal or a wait, placed by `sync`."""

    queue: Queue
    semaphore: int
    signal: bool


Item = TileOp | Loop | Sync


def walk(items: list[Item], loops: tuple[Loop, ...] = ()) -> Iterator[tuple[TileOp | Sync, tuple[Loop, ...]]]:
    """Operations in listing order with the loops around each."""
    for item in items:
        if isinstance(item, Loop):
            yield from walk(item.body, (*loops, item))
        else:
            yield item, loops


def to_text(items: list[Item], indent: str = "") -> str:
    """The tile schedule as text (`--emit=tiles`)."""
    lines: list[str] = []
    for item in items:
        if isinstance(item, Loop):
            lines += [
                f"{indent}loop i{item.level} < {item.count} {{  ; {item.name}",
                to_text(item.body, indent + "  "),
                indent + "}",
            ]
        elif isinstance(item, Sync):
            lines.append(f"{indent}{'signal' if item.signal else 'wait'} {item.queue.name.lower()} s{item.semaphore}")
        elif isinstance(item, MatmulOp):
            flags = "".join(f" {f}" for f, on in (("ta", item.ta), ("tb", item.tb), ("acc", item.accumulate)) if on)
            lines.append(
                f"{indent}matmul{flags} {item.m}x{item.k}x{item.n} {item.d} <- {item.a} . {item.b}  ; {item.name}"
            )
        elif isinstance(item, CopyOp):
            lines.append(f"{indent}{item.queue.name.lower()} {item.target} <- {item.source}  ; {item.name}")
        elif isinstance(item, VpuOp):
            sinks = ", ".join(
                f"{s.kind.name.lower()}{'+' if s.accumulate else ''}({s.value[0]}{s.value[1]}) {v}"
                for s, v in zip(item.kernel.sinks, item.sinks, strict=True)
            )
            ops = "; ".join(
                f"r{i}={op.name.lower()}({','.join(f'{k}{n}' for k, n in args)})"
                for i, (op, args) in enumerate(item.kernel.ops)
            )
            over = "x".join(map(str, item.shape))
            sources = ", ".join(map(str, item.sources))
            lines.append(f"{indent}vpu {over} {sinks} <- {sources} [{ops}]  ; {item.name}")
    return "\n".join(line for line in lines if line)
