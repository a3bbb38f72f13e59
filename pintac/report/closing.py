"""The closing report of a compilation: ten lines."""

from __future__ import annotations

from pintac.program import Program
from pintac.report.precision import precision_line, precision_table
from pintac.report.step_cost import lower_bound
from pintac.timeline import Timing, program_machine


def closing_report(program: Program, timing: Timing, seconds: float, path: str | None = None) -> str:
    """What was compiled, what it takes on the machine, and how far that is from the bound; ends in a newline."""
    machine, meta, cycles, bound = program_machine(program), program.meta, timing.cycles, lower_bound(program)
    backend = meta.get("backend", {}).get("step", {})
    busy = "  ".join(f"{queue} {_share(taken, cycles)}" for queue, taken in sorted(timing.busy.items()))
    parts = "  ".join(f"{name} {_share(part, timing.joules)}" for name, part in sorted(timing.energy_j.items()))
    entries = ", ".join(f"{name} {stop - start}" for name, (start, stop) in sorted(program.entries.items()))
    over = f"; {cycles / bound:.3f} x the lower bound of {bound:,}" if bound else ""
    sram = f"{_kib(backend.get('sram_bytes', program.sram_bytes))} of {machine.sram_kib} KiB"
    rows = [
        ("program", f"{meta.get('problem')}, {meta.get('quant')} {meta.get('scheme')}, bits {meta.get('bits')}"),
        ("file", f"{path or '(not written)'}, {len(program.to_bytes()):,} bytes, digest {program.digest[:12]}"),
        ("machine", f"{machine.name} ({machine.hash}), {machine.clock_ghz:g} GHz, {machine.bmes} engines"),
        ("code", f"{len(program.instructions):,} instructions ({entries}); {timing.instructions:,} executed a step"),
        (
            "memory",
            f"SRAM {sram}, {len(backend.get('in_dram', []))} values in DRAM; DRAM {_kib(program.dram_bytes)} KiB",
        ),
        ("cycles", f"{cycles:,} a step = {machine.seconds(cycles) * 1e3:.3f} ms{over}"),
        *([("precision", chosen)] if (chosen := precision_line(meta)) else []),
        ("busy", busy),
        ("traffic", f"{_kib(timing.dram_bytes)} KiB of DRAM a step; {timing.macs:,} MACs a step"),
        ("energy", f"{timing.joules * 1e3:.4g} mJ a step  ({parts})"),
        ("compiled", f"in {seconds:.2f} s; cycles and joules are model values (docs/MACHINE.md)"),
    ]
    return "".join(f"{name:<9} {text}\n" for name, text in rows) + precision_table(meta)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f}"
