"""An explanation as text, for a terminal of 120 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pintac.report.explain.choices import MatmulChoice, Memory
from pintac.report.explain.facts import BUS, UNITS, Facts, Unit
from pintac.report.explain.ledger import Group
from pintac.report.explain.whatif import IDEAL, WhatIf
from pintac.report.precision import precision_line, precision_table
from pintac.report.purpose import NO_LAYER

SHADES = " .:-=+*#%@"
LABELS = {"layer": ("layer", "phase"), "op": ("op",), "line": ("source line",), "unit": ()}
LABEL_WIDTH = 34
FULL_NAMES = {"tcu": "the tensor unit", "vpu": "the vector unit", "dram": "the DRAM bus"}


def render(e: Facts, top: int) -> str:
    """The whole report; `top` lines of each long table. Ends in a newline."""
    parts = [
        _head(e),
        _units(e),
        _gap(e),
        _path(e, top),
        _groups(e, top),
        _waits(e, top),
        _picture(e),
        _choices(e, top),
        _precision(e),
        _helps(e),
    ]
    return "\n".join(part for part in parts if part)


def table(heads: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned to the left (`l`) or right (`r`); no spaces at the ends of lines."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    out = []
    for line in lines:
        cells = zip(line, widths, align, strict=True)
        out.append("  ".join(c.ljust(w) if a == "l" else c.rjust(w) for c, w, a in cells).rstrip())
    return "\n".join(out) + "\n"


def count(value: float) -> str:
    """A number of cycles, whole."""
    return f"{round(value):,}"


def percent(part: float, whole: float) -> str:
    """One digit behind the point."""
    return f"{100 * part / whole:.1f}" if whole else "-"


def kib(size: float) -> str:
    """KiB, whole from ten on; `-` for nothing."""
    return f"{size / 1024:,.0f}" if size >= 10240 else f"{size / 1024:.1f}" if size else "-"


def size(amount: float) -> str:
    """`500`, `1.5K`, `141.7M`: bytes, KiB, MiB; `-` for nothing."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if amount >= unit:
            return f"{amount / unit:,.1f}{name}"
    return f"{amount:.0f}" if amount else "-"


def short(text: str, width: int = LABEL_WIDTH) -> str:
    """The end of a long name: that is where names differ."""
    return text if len(text) <= width else "..." + text[3 - width :]


def more(shown: int, of: int, what: str) -> str:
    """`(10 of 38 pairs)`, or nothing."""
    return f" (the first {shown} of {of} {what})" if shown < of else ""


def _precision(e: Facts) -> str:
    described = {"precision": e.precision}
    line = precision_line(described)
    return f"bits {line}\n{precision_table(described)}" if line else ""


def _head(e: Facts) -> str:
    t, m = e.timing, e.machine
    chip = f"{m.bmes} engines, {m.vpu_lanes} lanes, {m.sram_kib} KiB SRAM, {m.psum_kib} KiB PSUM"
    rows = [
        ("program", f"{e.title}; entry {e.entry}"),
        ("machine", f"{m.name} ({m.hash}): {chip}, {m.dram_gb_per_s:g} GB/s, {m.clock_ghz:g} GHz"),
        ("cycles", f"{t.cycles:,} = {m.seconds(t.cycles) * 1e3:.4g} ms; all model values (docs/MACHINE.md)"),
    ]
    if e.bound is not None:
        gap = f"a gap of {t.cycles - e.bound.cycles:,} cycles"
        limit = FULL_NAMES.get(e.bound.limit, e.bound.limit)
        rows.append(("bound", f"{e.bound.cycles:,}, set by {limit}; {e.bound.ratio:.3f} x, {gap}"))
    elif e.same_machine:
        rows.append(("bound", "none: the program was not compiled from a graph"))
    else:
        rows.append(("bound", "none: the program was compiled for another machine, and its bound is of that one"))
    if e.predicted_cycles is not None and e.prediction_error is not None:
        error = f"{100 * e.prediction_error:+.2f} % off"
        rows.append(("predicted", f"{e.predicted_cycles:,} cycles by the schedule's cost model, {error}"))
    work = f"{t.macs:,} MACs, {t.instructions:,} instructions, {kib(t.dram_bytes)} KiB of DRAM"
    rows.append(("work", f"{work}, {t.joules * 1e3:.4g} mJ"))
    rows += [("in short" if i == 0 else "", line) for i, line in enumerate(_short(e))]
    return "".join(f"{name:<10}{text}\n" for name, text in rows)


def _short(e: Facts) -> list[str]:
    """What the tables below say first."""
    cycles, lines = e.timing.cycles, []
    if e.bound is not None and cycles > e.bound.cycles:
        what, part = max(e.bound.gap.items(), key=lambda x: x[1])
        lines.append(f"most of the gap: {what} ({percent(part, cycles - e.bound.cycles)} %)")
    if e.path is not None and cycles:
        parts = ", ".join(f"{p.unit} {p.kind} {percent(p.cycles, cycles)} %" for p in e.path.by_unit[:3])
        lines.append(f"on the critical path: {parts}")
    best = next((w for w in e.what_if if w.kind != IDEAL and w.saved > 0), None)
    if best is not None:
        lines.append(f"would help most: {best.name} (-{percent(best.saved, cycles)} %)")
    return lines


def _units(e: Facts) -> str:
    cycles = e.timing.cycles

    def idle(u: Unit) -> str:
        return ", ".join(f"{cause} {percent(c, cycles)}" for cause, c in list(u.stalls.items())[:4])

    def row(u: Unit) -> tuple[str, ...]:
        bound = "-" if u.bound is None else count(u.bound)
        return u.name, count(u.busy), percent(u.busy, cycles), count(u.ideal), bound, idle(u)

    rows = [row(u) for u in e.units]
    return table(("unit", "busy", "%", "ideal", "bound", "idle, in % of all cycles"), "lrrrrl", rows)


def _gap(e: Facts) -> str:
    if e.bound is None:
        return ""
    total = e.timing.cycles - e.bound.cycles
    rows = [(what, count(cycles), percent(cycles, total)) for what, cycles in e.bound.gap.items()]
    rows.append(("sum", count(total), percent(total, total)))
    return table((f"the gap, on {FULL_NAMES.get(e.bound.limit, e.bound.limit)}", "cycles", "%"), "lrr", rows)


def _path(e: Facts, top: int) -> str:
    """The units on the left, the longest groups beside them."""
    if e.path is None or not e.path.by_unit:
        return ""
    cycles = e.timing.cycles
    rows = [(p.unit, p.kind, count(p.cycles), percent(p.cycles, cycles)) for p in e.path.by_unit]
    parts = e.path.by_labels[:top] if e.by != "unit" else ()
    title = "the critical path: what the last cycle waited for, back to the first\n"
    text = title + table(("unit", "", "cycles", "%"), "llrr", rows)
    if parts:
        rest = more(len(parts), len(e.path.by_labels), "parts")
        heads = (*LABELS[e.by], "unit", "", "cycles", "%")
        lines = [(*map(short, p.labels), p.unit, p.kind, count(p.cycles), percent(p.cycles, cycles)) for p in parts]
        text += f"\nof which by {e.by}{rest}\n" + table(heads, "l" * len(LABELS[e.by]) + "llrr", lines)
    return text


# ------------------------------------------------------------------------------------------------- groups


def _groups(e: Facts, top: int) -> str:
    labels = LABELS[e.by]
    columns = ["unit", "busy", "%", "use%", "pad%", "ideal", "bound%", "gap", "waited", "SRAM", "PSUM", "DRAM", "mJ"]
    rows = [_row(e, g) for g in e.groups[:top]]
    rest = e.groups[top:]
    if rest:
        rows.append(_rest(rest, len(labels)))
    title = f"by {e.by}, the longest first{more(min(top, len(e.groups)), len(e.groups), 'groups')}\n"
    tails = ", ".join(f"{unit} {count(cycles)}" for unit, cycles in e.tails.items() if cycles)
    note = (
        "Bytes of SRAM, PSUM, DRAM. Busy and waited of all groups of a unit and its tail are all cycles; tails: "
        f"{tails or 'none'}\n"
    )
    return title + table((*labels, *columns), "l" * len(labels) + "l" + "r" * 12, rows) + note


def _row(e: Facts, g: Group) -> tuple[str, ...]:
    return (
        *(short(label) for label in g.labels),
        g.unit,
        count(g.busy),
        percent(g.busy, e.timing.cycles),
        percent(g.utilisation, 1),
        percent(g.padding, 1) if g.macs else "-",
        count(g.ideal),
        percent(g.ideal, e.bound.cycles if e.bound else 0),
        count(g.gap),
        count(g.stalled),
        *(size(amount) for amount in (g.sram_bytes, g.psum_bytes, g.dram_bytes)),
        f"{1e3 * g.joules:.3g}",
    )


def _rest(groups: Sequence[Group], labels: int) -> tuple[str, ...]:
    def total(name: str) -> float:
        return float(sum(getattr(g, name) for g in groups))

    return (
        *("others", *[""] * labels)[: labels + 1],
        *(count(total("busy")), "", "", "", count(total("ideal")), "", count(total("gap")), count(total("stalled"))),
        *(size(total(name)) for name in ("sram_bytes", "psum_bytes", "dram_bytes")),
        f"{1e3 * total('joules'):.3g}",
    )


# ------------------------------------------------------------------------------------------------- waits, picture


def _waits(e: Facts, top: int) -> str:
    units = ("tcu", "vpu") if e.bound is None or e.bound.limit != BUS else UNITS
    waits = [w for w in e.waits if w.unit in units]
    if not waits:
        return ""
    rows = []
    for w in waits[:top]:
        before, finish = _named(w.op, w.layer, w.phase), _named(w.source_op, w.source_layer, w.source_phase)
        share = percent(w.cycles, e.timing.cycles)
        rows.append((count(w.cycles), share, w.unit, short(before, 48), w.source, short(finish, 48)))
    title = f"who waited for whom{more(min(top, len(waits)), len(waits), 'pairs')}\n"
    return title + table(("cycles", "%", "unit", "before", "for", "to finish"), "rrllll", rows)


def _named(op: str, layer: str, phase: str) -> str:
    """`matmul_13 (2, forward delta)`."""
    inside = ", ".join(part for part in (layer, phase) if part not in ("", NO_LAYER))
    return f"{op} ({inside})" if inside else op


def _picture(e: Facts) -> str:
    width = e.timing.bucket_cycles
    if not width:
        return ""
    lines = [
        f"busy over time, {width:,} cycle{'s' if width > 1 else ''} a column; the shades '{SHADES}' are 0 to 100 %\n"
    ]
    for u in e.units:
        full = len(SHADES) - 1
        shades = "".join(SHADES[min(full, -(-b * full // width))] for b in u.busy_by_bucket)
        lines.append(f"{u.name:<6}|{shades}|\n")
    return "".join(lines)


# ------------------------------------------------------------------------------------------------- choices


def _choices(e: Facts, top: int) -> str:
    c = e.choices
    lines = ["what was chosen\n"]
    for key, value in c.settings.items():
        lines.append(f"  {key.replace('_', ' ')}: {_setting(value)}\n")
    for name, memory in c.memory.items():
        lines.append(f"  {name.upper()}: {_memory(memory)}\n")
    if c.micro_ops:
        busy = sum(c.micro_ops.values())
        parts = ", ".join(f"{ops}: {percent(cycles, busy)} %" for ops, cycles in c.micro_ops.items())
        lines.append(f"  VPU cycles by micro-ops an instruction: {parts}\n")
    if c.peak:
        held = sum(h.bytes for h in c.peak)
        shown = more(min(top, len(c.peak)), len(c.peak), "values")
        lines.append(f"\nin SRAM at its fullest, cycle {c.peak_cycle:,}, {kib(held)} KiB alive{shown}\n")
        rows = [(f"  {short(h.value)}", h.layer, str(h.copies), kib(h.bytes)) for h in c.peak[:top]]
        lines.append(table(("  value", "layer", "tiles", "KiB"), "llrr", rows))
    if c.spilled:
        rows = [(f"  {short(t.value)}", t.layer, kib(t.stored), kib(t.loaded)) for t in c.spilled[:top]]
        lines.append(f"\nvalues that go through DRAM{more(min(top, len(c.spilled)), len(c.spilled), 'values')}\n")
        lines.append(table(("  value", "layer", "stored KiB", "loaded KiB"), "llrr", rows))
    if c.crossing:
        lines.append("\nvalues that live across the residual, as the lower bound has them\n")
        heads = ("  value", "kept %", "spilled %", "recomputed %", "KiB a point")
        lines.append(table(heads, "lrrrr", [_crossing(x) for x in c.crossing]))
    if c.matmuls:
        lines.append(f"\nmatmuls{more(min(top, len(c.matmuls)), len(c.matmuls), 'shapes')}; ")
        lines.append("cycles of one in each dataflow are why it has its own\n")
        lines.append(table(_MATMUL_HEADS, "llllllrrrr", [_matmul(m) for m in c.matmuls[:top]]))
    return "".join(lines)


_MATMUL_HEADS = (
    "  op", "layer", "m x k x n", "bits", "to", "dataflow", "output/weight/input", "busy", "of peak %", "limit",
)  # fmt: skip


def _matmul(m: MatmulChoice) -> tuple[str, ...]:
    return (
        f"  {short(m.op, 24)}",
        m.layer,
        f"{m.m}x{m.k}x{m.n}",
        f"{m.bits_a}x{m.bits_b}",
        f"{'+' if m.accumulate else ''}{m.result}",
        f"{m.dataflow} {m.rectangle[0]}x{m.rectangle[1]}",
        "/".join(str(cycles) for cycles in m.cycles_by_dataflow.values()),
        count(m.busy),
        percent(m.efficiency, 1),
        m.limit,
    )


def _memory(m: Memory) -> str:
    return f"{kib(m.touched)} of {kib(m.bytes)} KiB in use, the highest byte at {kib(m.top)} KiB"


def _crossing(crossing: Mapping[str, object]) -> tuple[str, ...]:
    amount = crossing.get("bytes_per_point")
    point = kib(amount) if isinstance(amount, (int, float)) else "-"
    fractions = (_fraction(crossing, key) for key in ("kept", "spilled", "recomputed"))
    return (f"  {short(str(crossing.get('name')))}", *fractions, point)


def _fraction(crossing: Mapping[str, object], key: str) -> str:
    value = crossing.get(key)
    if value is None and key == "spilled":
        kept, again = crossing.get("kept"), crossing.get("recomputed")
        if isinstance(kept, (int, float)) and isinstance(again, (int, float)):
            value = 1.0 - kept - again
    return f"{100 * value:.0f}" if isinstance(value, (int, float)) else "-"


def _setting(value: object) -> str:
    """A value of `meta["backend"]`, whatever it is, on one line."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return short(f"{len(value)}: " + ", ".join(_setting(v) for v in value), 100) if value else "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(v)}" for key, v in value.items()) or "none"
    return str(value)


def _helps(e: Facts) -> str:
    def row(w: WhatIf) -> tuple[str, ...]:
        name = f"  {w.name}" + (" (no machine is)" if w.kind == IDEAL else "")
        return name, count(w.cycles), count(w.saved), percent(w.saved, e.timing.cycles)

    note = (
        "SRAM, PSUM and micro-ops an instruction decide which program there is: compile for them to see\n"
        "(pintac compile ... --machine-key sram_kib=768).\n"
    )
    rows = [row(w) for w in e.what_if]
    head = "what would help: same program, no recompilation\n"
    return head + table(("  variant", "cycles", "saved", "%"), "lrrr", rows) + note
