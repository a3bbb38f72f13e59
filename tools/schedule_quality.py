"""How close compiled steps come to the lower bound: compiles the configurations of docs/PERFORMANCE.md, four tables.

    python tools/schedule_quality.py                        those that docs/results/schedule.json does not have yet
    python tools/schedule_quality.py --again --only 'poisson*'
    python tools/schedule_quality.py --write-docs           rewrites the tables of docs/PERFORMANCE.md, compiles nothing

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "schedule.json"
PAGE = ROOT / "docs" / "PERFORMANCE.md"
DEFAULT_TARGET, VARIANT_TARGET = 1.10, 1.15
TIMEOUT = 600
"""Seconds for one configuration."""


@dataclass(frozen=True)
class Configuration:
    """A built-in problem with its options and those of the compiler, on the default machine with some keys changed."""

    problem: str = "poisson2d"
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, int | float] = field(default_factory=dict)
    compiler: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> float:
        """Largest cycles / bound asked for."""
        return VARIANT_TARGET if self.keys else DEFAULT_TARGET


CONFIGURATIONS = {
    "poisson R=8": Configuration(options={"rank": 8}),
    "poisson R=16": Configuration(),
    "poisson R=32": Configuration(options={"rank": 32}),
    "poisson dense": Configuration(options={"scheme": "dense"}, compiler={"scheme": "dense"}),
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


def _few(problem: str, pairs: int, *, stein: bool = False, rank: int = 16, **compiler: str) -> Configuration:
    """A step of few evaluations: even/odd and orthonormal directions unless said otherwise."""
    options: dict[str, Any] = {"K": pairs, "rank": rank} | ({} if stein else {"estimator": "orthonormal", "lr": 0.003})
    options |= {"scheme": compiler["scheme"]} if "scheme" in compiler else {}  # dense layers are another model too
    return Configuration(problem, options, compiler={"quant": "even-odd", **compiler})


FEW = {
    "`poisson2d` K=4": _few("poisson2d", 4),
    "`poisson2d` K=4 `--rows packed`": _few("poisson2d", 4, rows="packed"),
    "`poisson2d` K=4 `--bits 8/16/4/12`": _few("poisson2d", 4, bits="8/16/4/12"),
    "`poisson2d` K=4 `--quant diff`": _few("poisson2d", 4, quant="diff"),
    "`poisson2d` K=4, R=32": _few("poisson2d", 4, rank=32),
    "`poisson2d` K=8": _few("poisson2d", 8),
    "`poisson2d` K=16": _few("poisson2d", 16),
    "`poisson2d` K=64": _few("poisson2d", 64),
    "`poisson2d` K=64, Stein, `--quant diff`": _few("poisson2d", 64, stein=True, quant="diff"),
    "`poisson2d` K=64, Stein, R=32": _few("poisson2d", 64, stein=True, rank=32),
    "`poisson2d` K=64, Stein, dense": _few("poisson2d", 64, stein=True, scheme="dense"),
    "the same `--bits 8/16/4/12`": _few("poisson2d", 64, stein=True, scheme="dense", bits="8/16/4/12"),
    "`heat100-wave` K=8": _few("heat100-wave", 8),
    "`heat100-wave` K=64": _few("heat100-wave", 64),
    "`hjb20` K=16, Stein": _few("hjb20", 16, stein=True),
    "`hjb20-wave` K=42": _few("hjb20-wave", 42),
    "`poisson2d` K=512, Stein": _few("poisson2d", 512, stein=True),
}

LONGER = {
    f"{name}, `--effort 4`": replace(CONFIGURATIONS[name], compiler={"effort": 4.0})
    for name in ("poisson R=8", "poisson R=16", "21 inputs, width 256", "SRAM 192 KiB", "half the DRAM bandwidth")
}


def _wide(width: int, hidden: int) -> Configuration:
    """Networks of more parameters than the paper's."""
    return Configuration(options={"width": width, "hidden": hidden, "scheme": "dense"}, compiler={"scheme": "dense"})


WIDE = {
    "dense, width 512, 2 hidden layers": _wide(512, 2),
    "dense, width 512, 3 hidden layers": _wide(512, 3),
    "dense, width 512, 4 hidden layers": _wide(512, 4),
    "dense, width 384, 8 hidden layers": _wide(384, 8),
    "dense, width 1024, 2 hidden layers": _wide(1024, 2),
}

ALL = {**CONFIGURATIONS, **LONGER, **FEW, **WIDE}
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
    machine = pintac.Machine.load("pinta").replace(**configuration.keys)
    step = load_step(configuration.problem, **configuration.options)
    try:
        start = time.perf_counter()
        compiled = build(step, machine=machine, **configuration.compiler)
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
        "streamed": decided["streamed"],
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
    """The rows of `CONFIGURATIONS` that there are, as Markdown."""
    columns = "configuration|cycles|bound|ratio|target|limit|TCU / VPU / load / store busy, %|SRAM, KiB|tiles|in DRAM"
    columns += "|compile, s|hazards (s)|model error"

    def cells(row: Row, configuration: Configuration) -> list[str]:
        return [
            f"{row['cycles']:,}",
            f"{row['bound']:,}",
            _ratio(row, configuration),
            f"{configuration.target:.2f}",
            row["limit"],
            " / ".join(f"{100 * row['busy'][queue]:.0f}" for queue in ("tcu", "vpu", "load", "store")),
            f"{row['sram_bytes'] / 1024:.0f}",
            f"{row['rows_per_tile']} x {row['tiles_interleaved']}",
            str(len(row["in_dram"])),
            f"{row['compile_seconds']:.1f}",
            f"{row['hazards']} ({row['hazards_seconds']:.1f})",
            f"{100 * (row['predicted_cycles'] / row['cycles'] - 1):+.1f} %",
        ]

    return _markdown(columns, CONFIGURATIONS, rows, cells)


def longer_table(rows: Mapping[str, Row]) -> str:
    """The rows of `LONGER` that there are, as Markdown."""

    def cells(row: Row, configuration: Configuration) -> list[str]:
        target, seconds = f"{configuration.target:.2f}", f"{row['compile_seconds']:.1f}"
        return [f"{row['cycles']:,}", _ratio(row, configuration), target, seconds]

    return _markdown("configuration|cycles|ratio|target|compile, s", LONGER, rows, cells)


def few_table(rows: Mapping[str, Row]) -> str:
    """The rows of `FEW` that there are, as Markdown, beside the default step."""
    default = rows["poisson R=16"]["cycles"]

    def cells(row: Row, configuration: Configuration) -> list[str]:
        alike = configuration.problem == "poisson2d" and "scheme" not in configuration.compiler
        return [
            f"{row['cycles']:,}",
            f"{row['bound']:,}",
            f"{row['ratio']:.2f}",
            " / ".join(f"{row['busy'][queue] * row['cycles']:,.0f}" for queue in ("tcu", "vpu")),
            f"{default / row['cycles']:.1f}" if alike else "",
            f"{row['compile_seconds']:.1f}",
        ]

    columns = "configuration|cycles|bound|ratio|TCU / VPU busy, cycles|default step / this|compile, s"
    return _markdown(columns, FEW, rows, cells)


def wide_table(rows: Mapping[str, Row]) -> str:
    """The rows of `WIDE` that there are, as Markdown."""

    def cells(row: Row, configuration: Configuration) -> list[str]:
        return [
            f"{row['cycles']:,}",
            _ratio(row, configuration),
            " / ".join(f"{100 * row['busy'][queue]:.0f}" for queue in ("tcu", "vpu", "load", "store")),
            f"{row['rows_per_tile']} x {row['tiles_interleaved']}",
            str(len(row["streamed"])),
            f"{row['compile_seconds']:.1f}",
        ]

    columns = "configuration|cycles|ratio|TCU / VPU / load / store busy, %|tiles|weights that stream|compile, s"
    return _markdown(columns, WIDE, rows, cells)


def _markdown(
    columns: str,
    configurations: Mapping[str, Configuration],
    rows: Mapping[str, Row],
    cells: Callable[[Row, Configuration], list[str]],
) -> str:
    """A table of the rows that there are; one that failed has its message behind ratio and target."""
    names = columns.split("|")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for name, configuration in configurations.items():
        if name in rows:
            row = rows[name]
            if "error" in row:
                target = [f"{configuration.target:.2f}"] if "target" in names else []
                found = [name, *["-"] * names.index("ratio"), *target, row["error"].replace("|", "/")]
            else:
                found = [name, *cells(row, configuration)]
            lines.append(f"| {' | '.join(found)} |" + " |" * (len(names) - len(found)))
    return "\n".join(lines) + "\n"


def _ratio(row: Row, configuration: Configuration) -> str:
    """Cycles over bound, bold where the target is met."""
    return f"**{row['ratio']:.3f}**" if row["ratio"] <= configuration.target else f"{row['ratio']:.3f}"


TABLES = {"schedule": table, "longer": longer_table, "few": few_table, "wide": wide_table}


def filled(page: str, rows: Mapping[str, Row]) -> str:
    """The text of docs/PERFORMANCE.md with the tables of these rows between their markers."""
    for name, make in TABLES.items():
        head, begin, rest = page.partition(f"<!-- {name}: begin -->")
        _, end, tail = rest.partition(f"<!-- {name}: end -->")
        if not begin or not end:
            raise SystemExit(f"{PAGE} lacks the markers of {name!r}")
        page = f"{head}{begin}\n{make(rows)}{end}{tail}"
    return page


def write_docs(rows: Mapping[str, Row]) -> None:
    """Put the tables between the markers of docs/PERFORMANCE.md."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(f"wrote the tables of {PAGE.relative_to(ROOT)}")


def read() -> dict[str, Row]:
    """The rows kept so far."""
    rows: dict[str, Row] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return rows


def keep(rows: Mapping[str, Row]) -> None:
    """Write all rows; the file appears whole or not at all."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    fresh = RESULTS.with_suffix(".tmp")
    ordered = {name: rows[name] for name in ALL if name in rows}
    fresh.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    fresh.replace(RESULTS)


def main() -> None:
    """Compile what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="configurations whose name matches")
    parser.add_argument("--again", action="store_true", help="also those that are already there")
    parser.add_argument("--list", action="store_true", help="name the configurations and stop")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the tables of docs/PERFORMANCE.md and stop")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(ALL[options.one])))
        return
    if options.list:
        print("\n".join(ALL))
        return
    rows = read()
    if options.write_docs:
        write_docs(rows)
        return
    chosen = [name for name in ALL if fnmatch.fnmatch(name, options.only)]
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
    print("\n".join(make(rows) for make in TABLES.values()))
    compilers = {row.get("compiler") for row in rows.values()}
    if len(compilers) > 1:
        print(f"Rows come from {len(compilers)} versions of the compiler: --again makes them anew.")


if __name__ == "__main__":
    main()
