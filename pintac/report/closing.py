"""The closing report of a compilation: ten lines."""

from __future__ import annotations

from pintac.program import Program
from pintac.report.step_cost import StepWork, machine_of


def closing_report(
    program: Program, work: StepWork, cycles: int, bound: int | None, seconds: float, path: str | None = None
) -> str:
    """What was compiled, what it takes on the machine, and how far from the bound; ends in a newline."""
    machine, meta = machine_of(program), program.meta
    backend = meta.get("backend", {}).get("step", {})
    spilled = len(backend.get("in_dram", []))
    busy = "  ".join(f"{queue} {100 * taken / cycles:.0f} %" for queue, taken in sorted(work.queue_cycles.items()))
    pj = sum(work.energy_pj.values())
    parts = "  ".join(f"{name} {100 * part / pj:.0f} %" for name, part in sorted(work.energy_pj.items())) if pj else ""
    entries = ", ".join(f"{name} {stop - start}" for name, (start, stop) in sorted(program.entries.items()))
    rows = [
        ("program", f"{meta.get('problem', '?')}, {meta.get('quant')} {meta.get('scheme')}, bits {meta.get('bits')}"),
        ("file", f"{path or '(not written)'}, {len(program.to_bytes()):,} bytes, digest {program.digest[:12]}"),
        ("machine", f"{machine.name} ({machine.hash}), {machine.clock_ghz:g} GHz, {machine.bmes} engines"),
        ("code", f"{len(program.instructions):,} instructions ({entries}); {work.instructions:,} executed a step"),
        ("memory", f"SRAM {_kib(backend.get('sram_bytes', program.sram_bytes))} of {machine.sram_kib} KiB, {spilled} "
                   f"values in DRAM; DRAM {_kib(program.dram_bytes)} KiB"),
        ("cycles", f"{cycles:,} a step = {machine.seconds(cycles) * 1e3:.3f} ms"
                   + (f"; {cycles / bound:.3f} x the lower bound of {bound:,}" if bound else "")),
        ("busy", busy),
        ("traffic", f"{_kib(work.dram_bytes)} KiB of DRAM a step; {work.macs:,} MACs a step"),
        ("energy", f"{pj * 1e-9:.4g} mJ a step  ({parts})"),
        ("compiled", f"in {seconds:.2f} s; cycles and joules are model values (docs/MACHINE.md)"),
    ]  # fmt: skip
    return "".join(f"{name:<9} {text}\n" for name, text in rows)


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f}"
