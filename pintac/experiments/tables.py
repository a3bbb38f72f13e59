"""What is shown of rows, declared: tables, claims that can be false, figures; and what an experiment gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pintac.errors import UsageError
from pintac.experiments.results import Results
from pintac.experiments.rows import Row, Seeds
from pintac.experiments.runs import Run

DEFAULT_COLUMNS = (
    "bits", "seeds", "l2", "spread", "twin", "ratio", "skill", "trivial", "cycles", "bound", "mj", "joules", "paper",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows under one heading. `columns` are names of `markdown.COLUMNS`."""

    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = DEFAULT_COLUMNS
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """Something that can be false: `measure` of the results against a limit.

    measure  None while a run it needs is missing
    limit    pass is a measured value below it (`better="below"`) or of at least it (`better="above"`)
    advice   (value, text): said when the measured value is worse than this
    rows     what it is measured on, `with_twins` if only seeds with a float twin count
    """

    text: str
    measure: Callable[[Results], float | None]
    limit: float
    better: Literal["below", "above"] = "below"
    advice: tuple[float, str] | None = None
    rows: tuple[Row, ...] = ()
    source: str = ""
    with_twins: bool = False

    def verdict(self, value: float | None) -> str:
        """pass, miss, not run."""
        if value is None:
            return "not run"
        return "pass" if (value < self.limit if self.better == "below" else value >= self.limit) else "miss"

    def counsel(self, value: float | None) -> str:
        """The advice, where the value is as bad as that."""
        if value is None or self.advice is None:
            return ""
        worse, text = self.advice
        return text if (value > worse if self.better == "below" else value < worse) else ""


@dataclass(frozen=True)
class Figure:
    """A plot of rows: error against joules so far, a line a seed (`curves`), or at the end.

    Then it is a point a row (`points`), or a line through rows with the label "series, place" (`series`); that one may
    also be `against` the cycles of a step, or sigma.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    kind: Literal["curves", "points", "series"] = "curves"
    against: Literal["joules", "cycles", "sigma"] = "joules"


@dataclass(frozen=True)
class Rendered:
    """What an experiment shows: Markdown below a heading, JSON, figures of runs, and what draws other figures."""

    markdown: str
    data: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()
    drawings: tuple[Callable[[], Path | None], ...] = ()


@dataclass(frozen=True)
class Tables:
    """Tables of runs and what is claimed of them, as an experiment declares them."""

    name: str
    title: str
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    intro: str = ""
    more_rows: tuple[Row, ...] = field(default=())
    """Rows that only claims need."""

    def rows(self, quick: bool = False) -> Iterator[Row]:
        """Every row once, tables first."""
        seen = set()
        for row in (*(row for table in self.tables for row in table.rows), *self.more_rows):
            if row.run not in seen:
                seen.add(row.run)
                yield row.quick() if quick else row

    def runs(self, seeds: Seeds, quick: bool = False, only: str | None = None) -> list[Run]:
        """First the first seed of every row, then the second. Raises UsageError if `only` names no row."""
        rows = [
            row for row in self.rows(quick) if only is None or only.lower() in f"{row.label} {row.run.label}".lower()
        ]
        if not rows:
            labels = ", ".join(row.label for row in self.rows(quick))
            raise UsageError(f"{self.name} has no row {only!r}", hint=f"part of one of: {labels}")
        by_row = [[row.runs(Seeds(listed=(seed,))) for seed in row.seeds(seeds)] for row in rows]
        most = max(len(runs) for runs in by_row)
        ordered = [run for k in range(most) for runs in by_row if k < len(runs) for run in runs[k]]
        return list(dict.fromkeys(ordered))
