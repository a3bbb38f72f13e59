"""How close compiled steps come to the lower bound: compiles the configurations of docs/PERFORMANCE.md.

    python tools/schedule_quality.py                        those that docs/results/schedule.json does not have yet
    python tools/schedule_quality.py --again --only 'poisson*'
    python tools/schedule_quality.py --write-docs           rewrites the table of docs/PERFORMANCE.md, compiles nothing

Every configuration is compiled in a process of its own, behind a small step that loads the compiled parts of the
compiler; then timed and checked for hazards. One that fails gives a row with its message.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "schedule.json"
PAGE = ROOT / "docs" / "PERFORMANCE.md"
BEGIN, END = "<!-- schedule: begin -->", "<!-- schedule: end -->"
DEFAULT_TARGET, VARIANT_TARGET = 1.10, 1.15
TIMEOUT = 300
"""Seconds for one configuration."""


@dataclass(frozen=True)
class Configuration:
    """A built-in problem with its options, on the default machine with some keys changed."""

    problem: str = "poisson2d"
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def target(self) -> float:
        """Largest cycles / bound asked for."""
        return VARIANT_TARGET if self.keys else DEFAULT_TARGET


CONFIGURATIONS = {
    "poisson R=8": Configuration(options={"rank": 8}),
    "poisson R=16": Configuration(),
    "poisson R=32": Configuration(options={"rank": 32}),
    "poisson dense": Configuration(options={"scheme": "dense"}),
    "21 inputs, width 256": Configuration("hjb20"),
    "21 inputs, width 512": Configuration("hjb20", {"width": 512}),
    "101 inputs, width 256": Configuration("heat100"),
    "101 inputs, width 512": Configuration("heat100", {"width": 512}),
    "1 M rows (1024 x 1024)": Configuration(options={"interior": 1024, "K": 1024}),
    "SRAM 192 KiB": Configuration(keys={"sram_kib": 192}),
    "SRAM 768 KiB": Configuration(keys={"sram_kib": 768}),
    "array 4x4": Configuration(keys={"bme_rows": 4, "bme_cols": 4}),
    "array 16x16": Configuration(keys={"bme_rows": 16, "bme_cols": 16}),
    "half the DRAM bandwidth": Configuration(keys={"dram_gb_per_s": 12.8}),
    "double DRAM bandwidth": Configuration(keys={"dram_gb_per_s": 51.2}),
    "psum write 32": Configuration(keys={"psum_write_fp32_per_cycle": 32}),
    "psum write 128": Configuration(keys={"psum_write_fp32_per_cycle": 128}),
    "1 micro-op": Configuration(keys={"vpu_max_micro_ops": 1}),
    "2 micro-ops": Configuration(keys={"vpu_max_micro_ops": 2}),
    "4 micro-ops": Configuration(keys={"vpu_max_micro_ops": 4}),
}

Row = dict[str, Any]


def measure(configuration: Configuration) -> Row:
    """Compile, time and check one configuration; a row with `error` when it cannot be compiled."""
    import pintac
    from pintac.api.compiling import build
    from pintac.errors import PintacError
    from pintac.frontend import load_step
    from pintac.hazards import check
    from pintac.timeline import simulate

    warm = build(load_step("poisson2d", width=8, rank=2, K=8, interior=4, boundary=4)).program
    simulate(warm)
    check(warm)
    scheme = configuration.options.get("scheme", "prs")
    machine = pintac.Machine.load("pinta").replace(**configuration.keys)
    step = load_step(configuration.problem, **configuration.options)
    try:
        start = time.perf_counter()
        compiled = build(step, machine=machine, scheme=scheme)
        program = compiled.program
        seconds = time.perf_counter() - start
    except PintacError as error:
        return {"error": str(error).splitlines()[0]}
    timing = simulate(program)
    start = time.perf_counter()
    verdict = check(program)
    checked = time.perf_counter() - start
    decided = program.meta["backend"]["step"]
    bound = decided["bound"]
    row: Row = {
        "cycles": timing.cycles,
        "bound": bound["cycles"],
        "ratio": round(timing.cycles / bound["cycles"], 4),
        "limit": bound["limit"],
        "busy": {queue: round(taken / timing.cycles, 4) for queue, taken in sorted(timing.busy.items())},
        "sram_bytes": decided["sram_bytes"],
        "in_dram": decided["in_dram"],
        "rows_per_tile": decided["rows_per_tile"],
        "tiles_interleaved": decided["tiles_interleaved"],
        "compile_seconds": round(seconds, 2),
        "instructions": len(program.instructions),
        "executed": timing.instructions,
        "semaphores": len(program.semaphores),
        "hazards": verdict.name,
        "hazards_seconds": round(checked, 2),
        "digest": program.digest[:12],
    }
    if "predicted_cycles" in decided:
        row["predicted_cycles"] = decided["predicted_cycles"]
    return row


def measured(name: str) -> Row:
    """`measure` in a process of its own; a crash gives a row as well."""
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled within {TIMEOUT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": f"crash: {lines[-1] if lines else done.returncode}", "traceback": lines[-12:]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def backend_digest() -> str:
    """Which compiler made a row: a digest of the sources of passes and backend."""
    digest = hashlib.sha256()
    for room in ("passes", "backend"):
        for path in sorted((ROOT / "pintac" / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def table(rows: Mapping[str, Row]) -> str:
    """The rows that there are, in the order of `CONFIGURATIONS`, as Markdown."""
    predicted = any("predicted_cycles" in row for row in rows.values())
    columns = "configuration|cycles|bound|ratio|target|limit|TCU / VPU / load / store busy, %|SRAM, KiB|tiles|in DRAM"
    columns += "|compile, s|hazards (s)" + "|model error" * predicted
    width = columns.count("|") + 1
    lines = [f"| {columns.replace('|', ' | ')} |", "|" + "---|" * width]
    for name, configuration in CONFIGURATIONS.items():
        row = rows.get(name)
        if row is None:
            continue
        target = f"{configuration.target:.2f}"
        if "error" in row:
            message = row["error"].replace("|", "/")
            cells = [name, "-", "-", "-", target, message]
            lines.append(f"| {' | '.join(cells)} |" + " |" * (width - len(cells)))
            continue
        ratio = f"{row['ratio']:.3f}"
        cells = [
            name,
            f"{row['cycles']:,}",
            f"{row['bound']:,}",
            f"**{ratio}**" if row["ratio"] <= configuration.target else ratio,
            target,
            row["limit"],
            " / ".join(f"{100 * row['busy'][queue]:.0f}" for queue in ("tcu", "vpu", "load", "store")),
            f"{row['sram_bytes'] / 1024:.0f}",
            f"{row['rows_per_tile']} x {row['tiles_interleaved']}",
            str(len(row["in_dram"])),
            f"{row['compile_seconds']:.1f}",
            f"{row['hazards']} ({row['hazards_seconds']:.1f})",
        ]
        if predicted:
            believed = row.get("predicted_cycles")
            cells.append("-" if believed is None else f"{100 * (believed / row['cycles'] - 1):+.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def filled(page: str, rows: Mapping[str, Row]) -> str:
    """The text of docs/PERFORMANCE.md with the table of these rows between its markers."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} lacks the markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{table(rows)}{END}{tail}"


def write_docs(rows: Mapping[str, Row]) -> None:
    """Put the table between the markers of docs/PERFORMANCE.md."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(f"wrote the table of {PAGE.relative_to(ROOT)}")


def read() -> dict[str, Row]:
    """The rows kept so far."""
    rows: dict[str, Row] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return rows


def keep(rows: Mapping[str, Row]) -> None:
    """Write all rows; the file appears whole or not at all."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    fresh = RESULTS.with_suffix(".tmp")
    ordered = {name: rows[name] for name in CONFIGURATIONS if name in rows}
    fresh.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    fresh.replace(RESULTS)


def main() -> None:
    """Compile what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="configurations whose name matches")
    parser.add_argument("--again", action="store_true", help="also those that are already there")
    parser.add_argument("--list", action="store_true", help="name the configurations and stop")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the table of docs/PERFORMANCE.md and stop")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(CONFIGURATIONS[options.one])))
        return
    if options.list:
        print("\n".join(CONFIGURATIONS))
        return
    rows = read()
    if options.write_docs:
        write_docs(rows)
        return
    chosen = [name for name in CONFIGURATIONS if fnmatch.fnmatch(name, options.only)]
    if not chosen:
        parser.error(f"no configuration matches {options.only!r}; --list names them")
    for number, name in enumerate(chosen, 1):
        if name in rows and not options.again:
            continue
        print(f"[{number}/{len(chosen)}] {name}: ", end="", flush=True)
        row = {**measured(name), "compiler": backend_digest()}
        print(row.get("error") or f"{row['ratio']:.3f} x {row['bound']:,}, {row['compile_seconds']} s", flush=True)
        rows = {**read(), name: row}
        keep(rows)
    print(table(rows))
    compilers = {row.get("compiler") for row in rows.values()}
    if len(compilers) > 1:
        print(f"Rows come from {len(compilers)} versions of the compiler: --again makes them anew.")


if __name__ == "__main__":
    main()
