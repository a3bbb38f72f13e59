"""What a comparison found: a table with the front of time and energy, JSON, a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pintac.errors import ResultsError
from pintac.experiments.plots import MARKERS
from pintac.experiments.variants import Variant

UNITS = ("load", "store", "tcu", "vpu")
FRONT = "*"
NOTE = (
    f"{FRONT} none of the others takes as little time for as little energy; "
    "cycles and joules are model values (docs/MACHINE.md)"
)


@dataclass(frozen=True)
class Costs:
    """Of one step.

    bound        least cycles that it can take on that machine (MACHINE)
    busy         share of the cycles in which each unit is busy
    macs         multiply-accumulates
    dram_bytes   through the bus, both ways
    sram_bytes   in use at most
    """

    cycles: int
    bound: int
    seconds: float
    joules: float
    busy: Mapping[str, float]
    macs: int
    dram_bytes: int
    sram_bytes: int


@dataclass(frozen=True)
class Row:
    """A variant by its values, with its costs or a note that says why it has none; `failed` if that is an error."""

    values: Mapping[str, str]
    costs: Costs | None = None
    note: str = ""
    failed: bool = False

    @property
    def name(self) -> str:
        """`sram_kib=192, bits=8/8/8/12`."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    def in_short(self) -> str:
        """For progress."""
        if self.costs is None:
            return self.note
        return f"{self.costs.cycles:,} cycles, {self.costs.joules * 1e3:.4g} mJ a step"


@dataclass(frozen=True)
class Comparison:
    """Rows in the order that was asked for; ratios are over the first one with costs."""

    base: Variant
    rows: tuple[Row, ...]
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        return any(row.failed for row in self.rows)

    def front(self) -> list[Row]:
        """Rows that no other beats: none takes at most as long and as much energy, and less of one of them."""
        found = []
        for row in self.rows:
            if row.costs is not None and not any(_beats(other.costs, row.costs) for other in self.rows):
                found.append(row)
        return found

    def text(self) -> str:
        """A table below what all rows have in common."""
        names = list(self.rows[0].values)
        first = next((row.costs for row in self.rows if row.costs is not None), None)
        heads = [*names, "cycles a step", "/ first", "/ bound", "ms", "mJ a step", "/ first"]
        heads += [f"{unit} %" for unit in UNITS] + ["DRAM KiB", "SRAM KiB", ""]
        front = self.front()
        lines = [heads]
        for row in self.rows:
            cells = [row.values[name] for name in names]
            if row.costs is not None and first is not None:
                cells += [*_cells(row.costs, first), FRONT if row in front else ""]
            lines.append(cells)
        widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(heads))]
        texts = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=False)) for line in lines]
        notes = ["", *(row.note for row in self.rows)]
        table = [f"{text}  {note}".rstrip() for text, note in zip(texts, notes, strict=True)]
        return "\n".join([*self._common(), "", *table, "", NOTE]) + "\n"

    def _common(self) -> Iterator[str]:
        """What holds for all rows, a line each."""
        varied = set(self.rows[0].values)
        base = self.base
        settings = {name: value for name, value in base.settings if name not in varied}
        yield "problem   " + " ".join([base.spec, *(f"{name}={value}" for name, value in settings.items())])
        options = {"bits": base.bits, **dict(base.switches)}
        yield "compiled  " + ", ".join(f"{name} {value}" for name, value in options.items() if name not in varied)
        if "machine" not in varied:
            keys = [key for key in base.machine_keys if key.partition("=")[0] not in varied]
            yield "machine   " + ", ".join([base.machine, *keys])

    def to_json(self) -> str:
        """Everything, sorted; seconds, joules and bytes of one step."""
        front = self.front()
        rows = [
            {
                "values": dict(row.values),
                "costs": None if row.costs is None else asdict(row.costs),
                "note": row.note,
                "failed": row.failed,
                "on_front": row in front,
            }
            for row in self.rows
        ]
        base = {name: value for name, value in asdict(self.base).items() if name != "values"}
        content = {"base": base, "rows": rows, "interrupted": self.interrupted, "note": NOTE}
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def plot(self, path: str | Path) -> None:
        """Energy against time of a step, a mark a row, the front as a line. The kind of file goes by its ending.

        Colours are the first name's values, marks those of the others. Raises ResultsError for a file that cannot be.
        """
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        canvas, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        self._draw(axes)
        axes.set(xlabel="time of a step [ms]", ylabel="energy of a step [mJ]", title=self.base.spec)
        axes.margins(0.08)
        axes.grid(alpha=0.3)
        try:
            canvas.savefig(path)
        except (OSError, ValueError) as error:  # ValueError: a kind of file that matplotlib does not know
            raise ResultsError(f"cannot draw {path}: {error}") from None
        finally:
            pyplot.close(canvas)

    def _draw(self, axes: Any) -> None:
        colour_name, *others = self.rows[0].values
        colours: dict[str, str] = {}
        marks: dict[str, str] = {}
        for row in self.rows:
            if row.costs is None:
                continue
            value = row.values[colour_name]
            rest = ", ".join(f"{name}={row.values[name]}" for name in others)
            colour = colours.setdefault(value, f"C{len(colours) % 10}")
            mark = marks.setdefault(rest, MARKERS[len(marks) % len(MARKERS)])
            axes.plot(row.costs.seconds * 1e3, row.costs.joules * 1e3, color=colour, marker=mark, ls="none")
        front = sorted((row.costs.seconds * 1e3, row.costs.joules * 1e3) for row in self.front() if row.costs)
        if front:
            axes.plot(*zip(*front, strict=True), color="grey", lw=0.8, ls="--", label="front", zorder=0)
        for value, colour in colours.items():
            axes.plot([], [], color=colour, marker="o", ls="none", label=f"{colour_name}={value}")
        if others:
            for rest, mark in marks.items():
                axes.plot([], [], color="grey", marker=mark, ls="none", label=rest)
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _beats(costs: Costs | None, other: Costs) -> bool:
    if costs is None:
        return False
    pair, theirs = (costs.seconds, costs.joules), (other.seconds, other.joules)
    return pair != theirs and pair[0] <= theirs[0] and pair[1] <= theirs[1]


def _cells(costs: Costs, first: Costs) -> list[str]:
    return [
        f"{costs.cycles:,}",
        f"{costs.seconds / first.seconds:.3f}",
        f"{costs.cycles / costs.bound:.3f}",
        f"{costs.seconds * 1e3:.4g}",
        f"{costs.joules * 1e3:.4g}",
        f"{costs.joules / first.joules:.3f}",
        *(f"{costs.busy[unit]:.0%}".rstrip("%") for unit in UNITS),
        f"{costs.dram_bytes / 1024:,.0f}",
        f"{costs.sram_bytes / 1024:,.0f}",
    ]
