"""What an experiment declares: rows of runs, tables of rows, claims about rows, figures; and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pintac.errors import UsageError
from pintac.experiments.runs import Run

if TYPE_CHECKING:
    from pintac.experiments.results import Results

SEEDS = 5
"""Seeds for a claim (NUMERICS 9)."""

QUICK_EVALUATIONS = 8192
"""A step of more evaluations of the network than these is made smaller by `--quick`."""

QUICK_SETTINGS: Mapping[str, Mapping[str, int]] = {
    "poisson2d": {"interior": 8},
    "hjb20": {"points": 4},
    "hjb20-wave": {"points": 4},
    "heat100": {"interior": 4},
    "heat100-wave": {"interior": 4},
}
"""Points where the equation is asked for in a quick run; conditions keep theirs, they need no samples."""

DEFAULT_COLUMNS = (
    "bits", "seeds", "l2", "spread", "twin", "ratio", "skill", "trivial", "cycles", "bound", "mj", "joules", "paper",
)  # fmt: skip


@dataclass(frozen=True)
class Seeds:
    """Which seeds of a row: so many from its first one on, or a list."""

    count: int = SEEDS
    listed: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Seeds:
        """`5` is the first five of every row, `3,4,5` and `3,` are these. Raises UsageError."""
        parts = [part.strip() for part in text.rstrip(",").split(",")]
        if not all(part.isdigit() for part in parts) or ("," not in text and int(parts[0]) < 1):
            raise UsageError(f"--seeds {text}: expected a number of seeds, or a list", hint="--seeds 5, --seeds 3,4,5")
        if "," not in text:
            return cls(int(parts[0]))
        return cls(listed=tuple(dict.fromkeys(map(int, parts))))


@dataclass(frozen=True)
class Row:
    """A line of a table: one configuration over several seeds.

    run         of any seed
    paper       what the paper says in this place, `-` for what is not published to us
    first_seed  0, or the first seed that was not used for choosing the configuration
    twin        whether its float twins are run too
    most_seeds  more are not run: what a step costs is the same for every seed
    """

    label: str
    run: Run
    paper: str = "-"
    first_seed: int = 0
    twin: bool = True
    most_seeds: int | None = None

    def seeds(self, wanted: Seeds) -> tuple[int, ...]:
        """The seeds of this row."""
        seeds = wanted.listed or tuple(range(self.first_seed, self.first_seed + wanted.count))
        return seeds[: self.most_seeds]

    def runs(self, wanted: Seeds) -> list[Run]:
        """Its runs, seed by seed, each followed by its float twin."""
        runs: list[Run] = []
        for seed in self.seeds(wanted):
            run = self.run.but(seed=seed)
            runs += [run] if run.twin is None or not self.twin else [run, run.twin]
        return runs

    def quick(self) -> Row:
        """The row with fewer points, unless a step is small as it is; the schedule stays."""
        if self.run.problem not in QUICK_SETTINGS or self.run.steps is not None:
            return self
        points = QUICK_SETTINGS[self.run.problem]
        evaluations = int(self.run.setting("K")) * sum(int(self.run.setting(name)) for name in points)
        return replace(self, run=self.run.but(**points)) if evaluations > QUICK_EVALUATIONS else self


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

    Then it is a point a row (`points`), or a line through rows with the label "series, place" (`series`).
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    kind: Literal["curves", "points", "series"] = "curves"
    against: Literal["joules", "cycles"] = "joules"


@dataclass(frozen=True)
class Rendered:
    """What an experiment shows: Markdown below a heading, JSON, figures of runs, and what draws other figures."""

    markdown: str
    data: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()
    drawings: tuple[Callable[[], Path | None], ...] = ()


class Experiment(Protocol):
    """What `pintac reproduce NAME` needs. Tables of runs are `TableExperiment`s; others bring their own class."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """One line for `--list` and headings."""
        ...

    def runs(self, seeds: Seeds, quick: bool = False, only: str | None = None) -> list[Run]:
        """The training runs it needs, the most important first."""
        ...

    def measure(self, results: Path, quick: bool = False, again: str = "") -> None:
        """What is measured here and is not a training run, kept under `results`; tables have nothing of that kind.

        `again` says what is made anew though it is there: "", "host", "models" or "all".
        """
        ...

    def render(self, results: Results) -> Rendered:
        """Everything that is there now; what is not there says so."""
        ...


@dataclass(frozen=True)
class TableExperiment:
    """An experiment that is tables of runs."""

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

    def measure(self, results: Path, quick: bool = False, again: str = "") -> None:
        """Nothing: everything it shows is in its runs."""

    def render(self, results: Results) -> Rendered:
        """Tables and claims."""
        from pintac.experiments.markdown import render_experiment

        return render_experiment(self, results)
