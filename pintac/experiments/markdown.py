"""Tables, claims and the commands behind them as Markdown and as data for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pintac.experiments.results import EXACT, L2_REACHED, Results, Summary
from pintac.experiments.rows import QUICK_SETTINGS, Row
from pintac.experiments.tables import Claim, Rendered, Table, Tables

NOT_RUN = "not run"

Cell = Callable[[Summary], str]


def render_experiment(experiment: Tables, results: Results) -> Rendered:
    """An experiment's tables, those with the fewer points of `--quick` behind each, its claims, its commands.

    A table of fewer points is left out where every row has as many seeds at full size.
    """
    sizes = [results] if results.quick else [results, results.smaller()]
    parts = [experiment.intro]
    commands: dict[str, None] = {}
    for table in experiment.tables:
        title = table.title if len(experiment.tables) > 1 else ""
        shown = [size for size in sizes if size is results or _adds(table, size, results)]
        parts += _sections(table, title, shown)
        commands |= _commands(table.rows, shown)
    parts += [claims_text(experiment.claims, sizes)] if experiment.claims else []
    commands |= _commands(experiment.more_rows, sizes)
    parts.append(commands_text(commands))
    data = {
        "experiment": experiment.name,
        "title": experiment.title,
        "tables": [
            {"title": table.title, "quick": size.quick, "rows": [row_data(size[row]) for row in table.rows]}
            for table in experiment.tables
            for size in sizes
        ],
        "claims": [
            claim_data(claim, size) for claim in experiment.claims for size in sizes if _comparable(claim, size)
        ],
    }
    return Rendered("\n\n".join(part for part in parts if part) + "\n", data, experiment.figures)


# --- tables ------------------------------------------------------------------------------------------------------


def _adds(table: Table, smaller: Results, full: Results) -> bool:
    """Whether a row with fewer points says something that its full size does not: more seeds, or more float twins."""
    rows = [row for row in table.rows if row.quick() != row]
    return any(
        len(smaller[row].seeds) > len(full[row].seeds) or len(smaller[row].twin_seeds) > len(full[row].twin_seeds)
        for row in rows
    )


def _sections(table: Table, title: str, sizes: list[Results]) -> list[str]:
    """A table in every size that has finished runs, then what is missing. Small sizes follow under a heading."""
    parts: list[str] = []
    for results in sizes:
        second = results is not sizes[0]
        text = table_text(table, results, only_smaller=second)
        if text:
            name = ", ".join(filter(None, [title, "fewer points" if second else ""]))
            parts += [f"### {name[0].upper() if not title else name[0]}{name[1:]}" if name else ""]
            parts += [fewer_points(table) if results.quick else "", text]
    if not parts:
        parts = [f"### {title}" if title else ""]
    return [*parts, table.note, missing_text(table, sizes)]


def table_text(table: Table, results: Results, only_smaller: bool = False) -> str:
    """The rows of a table that have a finished run (that are smaller in quick results); empty without one."""
    rows = [row for row in table.rows if results[row].finished and not (only_smaller and row.quick() == row)]
    if not rows:
        return ""
    headers = [COLUMNS[name][0] for name in table.columns]
    lines = [f"| configuration | {' | '.join(headers)} |", "|---" * (len(headers) + 1) + "|"]
    for row in rows:
        summary = results[row]
        lines.append(f"| {row.label} | {' | '.join(COLUMNS[name][1](summary) for name in table.columns)} |")
    old = [row.label for row in rows if results[row].programs > 1]
    if old:
        lines += [
            "",
            f"Programs of different days in {', '.join(old)}: the mean of their costs (`--costs` renews them).",
        ]
    return "\n".join(lines)


def fewer_points(table: Table) -> str:
    """Which points those are."""
    sizes = dict.fromkeys(
        ", ".join(f"{key}={value}" for key, value in QUICK_SETTINGS[row.run.problem].items())
        for row in table.rows
        if row.quick() != row
    )
    return f"`--quick`: {' or '.join(f'`--set {size}`' for size in sizes)}, everything else as above."


def missing_text(table: Table, sizes: list[Results]) -> str:
    """The rows that have no finished run in any size."""
    labels = [row.label for row in table.rows if not any(size[row].finished for size in sizes)]
    return f"Not run: {'; '.join(labels)}." if labels else ""


def _commands(rows: tuple[Row, ...], sizes: list[Results]) -> dict[str, None]:
    """A line with the command of every row that was run, and its days."""
    lines: dict[str, None] = {}
    for row in rows:
        for results in sizes:
            summary = results[row]
            if summary.finished:
                command = summary.row.run.command.rpartition(" --seed ")[0]
                seeds = seeds_text(summary.seeds)
                lines[f"- {row.label}: `{command} --seed` {seeds}, {' and '.join(summary.dates)}"] = None
    return lines


def commands_text(lines: Collection[str]) -> str:
    """The commands, folded away."""
    if not lines:
        return ""
    return "<details><summary>Commands, seeds, dates</summary>\n\n" + "\n".join(lines) + "\n\n</details>"


def seeds_text(seeds: tuple[int, ...]) -> str:
    """`0-4`, `3`, `1, 3, 5`."""
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def row_data(summary: Summary) -> dict[str, Any]:
    """A row for JSON: everything a column may show, unrounded."""
    reached, count = summary.steps_to()
    figures = {
        "l2": summary.l2,
        "l2_spread": summary.spread,
        "l2_twin": summary.twin,
        "ratio_to_twin": summary.ratio,
        "l2_masters": summary.masters,
        "l2_constant": summary.constant,
        "l2_affine": summary.affine,
        "skill": summary.skill,
        "mse": summary.mse,
        "cycles_per_step": summary.cycles,
        "cycles_over_bound": summary.over_bound,
        "energy_j_per_step": summary.joules_step,
        "energy_j": summary.joules,
        "steps": summary.steps,
        "macs_per_step": summary.of_step("macs_per_step"),
        f"steps_to_l2_{L2_REACHED:g}": reached,
    }
    return {
        "label": summary.row.label,
        "run": summary.row.run.label,
        "command": summary.row.run.command.rpartition(" --seed ")[0],
        "paper": summary.row.paper,
        "seeds": list(summary.seeds),
        "twin_seeds": list(summary.twin_seeds),
        "dates": list(summary.dates),
        "l2_by_seed": [_finite(error) for error in summary.errors],
        f"seeds_that_reached_l2_{L2_REACHED:g}": count,
        **{key: _finite(value) for key, value in figures.items()},
    }


# --- claims ------------------------------------------------------------------------------------------------------


def claims_text(claims: tuple[Claim, ...], sizes: list[Results]) -> str:
    """Claims as a table: limit, measured value, verdict; with fewer points where only those were run."""
    lines = ["| claim | said by | limit | measured | seeds | verdict |", "|---|---|---|---|---|---|"]
    for claim in claims:
        measured = [(claim.measure(size), size) for size in sizes if _comparable(claim, size)]
        value, results = next(((value, size) for value, size in measured if value is not None), (None, sizes[0]))
        verdict = f"**{claim.verdict(value)}**" + (" with fewer points" if results is not sizes[0] else "")
        counsel = claim.counsel(value)
        cells = [
            claim.text,
            claim.source or "-",
            f"{'<' if claim.better == 'below' else '>='} {figure(claim.limit)}",
            figure(value) if value is not None else "-",
            _fewest_seeds(claim, results) if value is not None else "-",
            verdict + (f": {counsel}" if counsel else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _comparable(claim: Claim, results: Results) -> bool:
    """Whether its rows have one size: a full one says nothing about one with fewer points."""
    return not results.quick or len({row.quick() == row for row in claim.rows}) < 2


def claim_data(claim: Claim, results: Results) -> dict[str, Any]:
    """A claim for JSON."""
    value = claim.measure(results)
    return {
        "claim": claim.text,
        "source": claim.source,
        "quick": results.quick,
        "limit": claim.limit,
        "better": claim.better,
        "measured": _finite(value),
        "verdict": claim.verdict(value),
    }


def _fewest_seeds(claim: Claim, results: Results) -> str:
    counts = [len(results[row].twin_seeds if claim.with_twins else results[row].seeds) for row in claim.rows]
    return str(min(counts)) if counts else "-"


# --- cells -------------------------------------------------------------------------------------------------------


def figure(value: float | None) -> str:
    """Three digits, as a reader of a table wants them."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "diverged"
    if value == 0:
        return "0"
    return f"{value:.3g}" if 0.1 <= abs(value) < 1e4 else f"{value:.2e}"


def error_text(value: float | None) -> str:
    """`4.31e-03`."""
    if value is None:
        return ""
    return f"{value:.2e}" if math.isfinite(value) else "diverged"


def _l2(s: Summary) -> str:
    if s.diverged and s.diverged < len(s.errors):
        return f"diverged ({s.diverged} of {len(s.errors)})"
    return error_text(s.l2)


def _twin(s: Summary) -> str:
    if s.row.run.twin is None or not s.row.twin:
        return "-"
    return f"{error_text(s.twin)} ({len(s.twin_seeds)})" if s.twins else NOT_RUN


def _bits(s: Summary) -> str:
    return "fp32" if s.row.run.quant == "none" else s.row.run.bits


def _trivial(s: Summary) -> str:
    if s.constant is None or s.affine is None:
        return "-"
    return f"{error_text(s.constant)} / {error_text(s.affine) if s.affine > EXACT else '0'}"


def _steps_to(s: Summary) -> str:
    mean, count = s.steps_to()
    if mean is None:
        return "never" if s.finished else ""
    return f"{mean:.0f}" + (f" ({count} of {len(s.finished)})" if count < len(s.finished) else "")


def _units(s: Summary) -> str:
    tcu, vpu = s.busy("tcu"), s.busy("vpu")
    return "" if tcu is None or vpu is None else f"{tcu:.0%} / {vpu:.0%}"


def _macs(s: Summary) -> str:
    macs = s.of_step("macs_per_step")
    return "" if macs is None else f"{macs:,.0f}"


def _no_program(text: Callable[[Summary], str]) -> Cell:
    """A cell of the program's cost; what runs without a program has none."""
    return lambda s: text(s) if s.row.run.has_program else "-"


COLUMNS: Mapping[str, tuple[str, Cell]] = {
    "problem": ("problem", lambda s: f"`{s.row.run.problem}`"),
    "bits": ("bits", _bits),
    "seeds": ("seeds", lambda s: seeds_text(s.seeds)),
    "l2": ("l2", _l2),
    "spread": ("spread", lambda s: "" if s.spread is None else f"x{s.spread:.2f}"),
    "twin": ("float twin (seeds)", _twin),
    "masters": ("fp32 masters", _no_program(lambda s: error_text(s.masters))),
    "ratio": ("ratio", lambda s: "" if s.ratio is None else figure(s.ratio)),
    "skill": ("skill", lambda s: "-" if s.skill is None else figure(s.skill)),
    "trivial": ("constant / affine", _trivial),
    "mse": ("MSE", lambda s: error_text(s.mse)),
    "cycles": ("cycles a step", _no_program(lambda s: "" if s.cycles is None else f"{s.cycles:,.0f}")),
    "bound": ("/ bound", _no_program(lambda s: "" if s.over_bound is None else f"{s.over_bound:.3f}")),
    "units": ("TCU / VPU taken", _no_program(_units)),
    "mj": ("mJ a step", _no_program(lambda s: "" if s.joules_step is None else f"{s.joules_step * 1e3:.3f}")),
    "joules": ("J a run", _no_program(lambda s: "" if s.joules is None else figure(s.joules))),
    "macs": ("MAC a step", _no_program(_macs)),
    "parameters": ("parameters", lambda s: f"{s.parameters:,}"),
    "compression": ("compression", lambda s: f"{s.compression:.1f}x"),
    "steps_to": (f"steps to l2 <= {L2_REACHED:g}", _steps_to),
    "paper": ("paper", lambda s: s.row.paper),
}  # fmt: skip
"""Columns by the name that a table asks for: heading, and the cell of a row."""


def _finite(value: float | None) -> float | None:
    """A figure for JSON: 12 digits, so that the last bit of a logarithm changes no file; null if it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.12g}")
