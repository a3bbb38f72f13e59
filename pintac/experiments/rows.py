"""What is run: a row of a table is one configuration over several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pintac.errors import UsageError
from pintac.experiments.runs import Run

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
