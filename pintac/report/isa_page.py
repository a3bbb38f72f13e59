"""docs/ISA.md, generated from the tables of `pintac.isa`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType

from pintac import isa
from pintac.isa import ARITY, DEFS, Dataflow, Gather, Kind, MicroOp, Opcode, Queue, Sink, Space, fields, operands


def isa_page() -> str:
    """The whole page, Markdown."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield "# The instruction set"
    yield ""
    yield "<!-- Generated from pintac/isa/ by `make docs`; do not edit. -->"
    yield ""
    yield f"ISA hash `{isa.isa_hash()}`. A program carries this hash and runs only where it agrees."
    yield ""
    yield "## Words and addresses"
    yield ""
    yield from _explanation(fields)
    yield ""
    yield from _explanation(operands)
    yield ""
    yield f"The parameter block has {isa.PARAMS} words of 32 bits: word {isa.PARAM_SEED} is the seed, word"
    yield f"{isa.PARAM_STEP} the step, the program names the others. Loops nest {isa.LOOP_LEVELS} deep."
    yield ""
    yield "## Queues"
    yield ""
    yield (
        "Four in-order queues run their own projection of the listing: "
        + ", ".join(f"`{q.name.lower()}`" for q in Queue)
        + "."
    )
    yield "The listing with its loops expanded, read in order, is what a program means; semaphores order the queues in"
    yield "time: the k-th wait on a semaphore (from 0) matches its signal k - credit."
    yield ""
    yield "## Instructions"
    yield ""
    yield "Bits count from the low end of the 32-bit word named; a micro-operation may run on into the next word."
    for opcode, definition in DEFS.items():
        yield ""
        yield f"### `{definition.mnemonic}` ({opcode.value})"
        yield ""
        yield _where(opcode) + definition.meaning
        yield ""
        yield from (f"- {p}" for p in definition.preconditions)
        yield ""
        yield from _table(
            ("field", "word", "bits", "meaning"),
            ((f"`{f.name}`", f.lo // 32, _bits(f), f.doc) for f in definition.header),
        )
        if definition.groups:
            yield ""
            yield "Operand groups: " + ", ".join(f"`{g}`" for g in definition.groups) + "."
    yield ""
    yield "## Operand groups"
    yield ""
    yield (
        "Twelve words each; `s0` starts at word 12, "
        + ", ".join(f"`{g}` at {12 * (n + 1)}" for n, g in enumerate(isa.GROUPS) if n)
        + "."
    )
    yield ""
    of_group = [(name, DEFS[Opcode.VPU].fields[f"s0.{name}"]) for name, *_ in isa.OPERAND_FIELDS]
    yield from _table(
        ("field", "word of the group", "bits", "meaning"),
        ((f"`{name}`", f.lo // 32 - 12, _bits(f), f.doc) for name, f in of_group),
    )
    yield ""
    yield "## Micro-operations"
    yield ""
    yield f"At most {isa.MAX_MICRO_OPS} an instruction; number n writes register `r<n>`. Operands are selectors:"
    yield ", ".join(f"`{name}` = {number}" for number, name in enumerate(isa.SELECTORS) if name != "-") + "."
    yield ""
    yield from _table(("code", "name", "operands"), ((m.value, f"`{m.name.lower()}`", ARITY[m]) for m in MicroOp))
    for title, names in (
        ("Sinks", Sink),
        ("Source kinds", Kind),
        ("Address spaces", Space),
        ("Dataflows", Dataflow),
        ("Row addressing of transfers", Gather),
    ):
        yield ""
        yield f"## {title}"
        yield ""
        yield ", ".join(f"`{m.name.lower()}` = {m.value}" for m in names) + "."


def _explanation(module: ModuleType) -> list[str]:
    """What a module's text says below its first line."""
    return (module.__doc__ or "").strip().splitlines()[2:]


def _where(opcode: Opcode) -> str:
    queue = isa.QUEUE_OF.get(opcode)
    return f"Queue `{queue.name.lower()}`. " if queue is not None else ""


def _bits(field: isa.Field) -> str:
    low = field.lo % 32
    text = f"{low}" if field.bits == 1 else f"{low}-{low + field.bits - 1}"
    return text + (" signed" if field.signed else "")


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
