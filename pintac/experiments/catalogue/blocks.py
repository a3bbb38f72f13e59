"""Shapes of the blocks that share an exponent: error of each on the evaluator, cost derived from 4x4 programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pintac.blocks import copies
from pintac.container import write_atomically
from pintac.experiments.blocks import bytes_per_element, measure
from pintac.experiments.catalogue.recipes import improved
from pintac.experiments.claims import error_ratio
from pintac.experiments.experiment import TableExperiment
from pintac.experiments.files import read_json
from pintac.experiments.results import Results
from pintac.experiments.rows import Row, Seeds
from pintac.experiments.runs import Run
from pintac.experiments.tables import Rendered, Table
from pintac.json_kinds import each, having, items, number, text

SHAPES = ("4x4", "8x8", "1x16", "1x32")
COLUMNS = ("bits", "seeds", "l2", "spread", "twin", "ratio", "masters", "skill")
BITS = (4, 8, 12, 16)
COSTS = "blocks-costs.json"
_FIGURES = (
    "copies_share", "dram_bytes", "sram_bytes", "weights_bytes", "vpu_cycles", "cycles", "cycles_most", "joules",
)  # fmt: skip
_KIND = each(having({"shapes": items(having({"shape": text, **dict.fromkeys(_FIGURES, number)}))}))

CONFIGURATIONS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "Stein K = 512, DiffQuant": ({}, {}),
    "improved recipe, K = 4": (
        {"K": 4, "estimator": "orthonormal", "lr": 0.003},
        {"quant": "even-odd"},
    ),
}
"""What costs are derived for: settings and flags."""


def _improved(bits: str) -> tuple[Row, ...]:
    return tuple(improved("poisson2d", shape, block=shape, bits=bits) for shape in SHAPES)


def _stein(bits: str) -> tuple[Row, ...]:
    return tuple(Row(shape, Run.of("poisson2d", interior=8, block=shape, bits=bits)) for shape in SHAPES)


IMPROVED, INT4, STEIN = _improved("8/16/8/12"), _improved("8/16/4/12"), _stein("8/16/8/12")

TABLES = TableExperiment(
    name="blocks",
    title="Shape of the blocks that share an exponent, 2-D Poisson",
    intro=(
        "*Simulated*: errors, on the IR evaluator (`--engine evaluator`), which gives 4x4 the bits of the simulator. "
        "Blocks of one row lie along the contracted dimension; what is contracted along both is quantised twice. With "
        "K = 4 a point has two rows a sign, so blocks along rows hold two elements; with K = 512 they are full."
    ),
    tables=(
        Table("Improved recipe, K = 4, INT8 deltas", IMPROVED, COLUMNS),
        Table("Improved recipe, K = 4, INT4 deltas", INT4, COLUMNS),
        Table("Stein K = 512, 8 interior points, DiffQuant", STEIN, COLUMNS),
    ),
    claims=(
        error_ratio("1x32 over 4x4, l2, improved recipe, INT4 deltas", INT4[3], INT4[0], 1.0, "ours"),
        error_ratio("1x32 over 4x4, l2, Stein K = 512", STEIN[3], STEIN[0], 1.0, "ours"),
    ),
)


@dataclass(frozen=True)
class BlocksExperiment:
    """The tables of runs, and below them what each shape costs."""

    name: str = TABLES.name
    title: str = TABLES.title

    def runs(self, seeds: Seeds, quick: bool = False, only: str | None = None) -> list[Run]:
        """Every shape, the shortest runs first."""
        return TABLES.runs(seeds, quick, only)

    def measure(self, results: Path, quick: bool = False, again: str = "") -> None:
        """Costs of both configurations from their compiled programs, kept in `blocks-costs.json`."""
        path = results / COSTS
        if path.exists() and again not in ("models", "all"):
            return
        costs = {label: measure(settings, flags) for label, (settings, flags) in CONFIGURATIONS.items()}
        results.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(costs, indent=1, sort_keys=True) + "\n").encode())

    def render(self, results: Results) -> Rendered:
        """Errors, then costs."""
        shown = TABLES.render(results)
        path = results.store.results / COSTS
        costs = read_json(path, _KIND, "remove it, `pintac reproduce blocks` makes it again") if path.exists() else {}
        markdown = "\n".join([shown.markdown, _bytes_table(), _costs_text(costs)])
        return Rendered(markdown, {**shown.data, "costs": costs}, shown.figures)


def _bytes_table() -> str:
    lines = [
        "**Bytes an element** (*exact*, full blocks): one copy, and both where both dimensions are contracted.\n",
        "| block | " + " | ".join(f"INT{bits}" for bits in BITS) + " |",
        "|---|" + "---|" * len(BITS),
    ]
    for shape in SHAPES:
        counts = range(1, copies(shape, {-1, -2}) + 1)
        cells = [" / ".join(f"{bytes_per_element(bits, shape, n):.4f}" for n in counts) for bits in BITS]
        lines.append(f"| {shape} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _costs_text(costs: Mapping[str, Any]) -> str:
    if not costs:
        return "Costs are not derived yet: `pintac reproduce blocks`.\n"
    columns = (
        "block", "quantised twice", "DRAM MB", "SRAM MB", "weights' second copy", "VPU cycles", "step, at least",
        "at most", "mJ",
    )  # fmt: skip
    parts = [
        "**A step's cost.** 4x4 is *modelled* (compiled, cycles simulated); the other rows are *derived* from the "
        "instructions of that program by the rules in `pintac/experiments/blocks.py`, without a schedule of their own: "
        "the least has every second quantisation hidden in idle cycles of the vector unit, the most none.\n"
    ]
    for label, entry in costs.items():
        parts.append(f"{label}:\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        base = entry["shapes"][0]
        for s in entry["shapes"]:
            parts.append(
                f"| {s['shape']} | {s['copies_share']:.0%} | {s['dram_bytes'] / 1e6:.2f} | {s['sram_bytes'] / 1e6:.1f} "
                f"| {s['weights_bytes'] / 1024:.1f} KiB | {s['vpu_cycles']:,} | {s['cycles']:,} "
                f"({s['cycles'] / base['cycles'] - 1:+.1%}) | {s['cycles_most']:,} "
                f"| {s['joules'] * 1e3:.4f} ({s['joules'] / base['joules'] - 1:+.1%}) |"
            )
        parts.append("")
    return "\n".join(parts)


EXPERIMENT = BlocksExperiment()
