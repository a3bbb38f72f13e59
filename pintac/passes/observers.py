"""What watches a pipeline run: dumps, times, verification, numeric checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pintac.container import write_atomically
from pintac.errors import PassError, suggest
from pintac.ir import Graph
from pintac.ir.text import print_graph
from pintac.ir.verify import verify
from pintac.passes.base import Pass
from pintac.passes.manager import Observer
from pintac.passes.pipeline import PASSES


class Dump(Observer):
    """Writes the IR after passes: those in `after`, all of them, or those that changed something.

    Into `directory` as `003-insert-smx.ir` (the number is the pass's place in the pipeline; `000-input.ir` is what went
    in), `prefix` before that, each file whole or not at all; without a directory to `write`, under a headline. The text
    has no addresses and no times, so that dumps of two runs can be compared.
    """

    def __init__(
        self,
        after: Sequence[str] = (),
        *,
        everything: bool = False,
        on_change: bool = False,
        directory: str | Path | None = None,
        prefix: str = "",
        write: Callable[[str], object] | None = None,
    ) -> None:
        if directory is None and write is None:
            raise ValueError("Dump needs a directory or somewhere to write")
        self.after = tuple(after)
        self.everything = everything
        self.on_change = on_change
        self.directory = Path(directory) if directory is not None else None
        self.prefix = prefix
        self.write = write
        self._last = ""

    def forward(self) -> Dump:
        """The same of the graph of inference, with `infer.` in front, after those passes that also run on it."""
        return Dump(
            [name for name in self.after if name in PASSES and PASSES[name].forward],
            everything=self.everything,
            on_change=self.on_change,
            directory=self.directory,
            prefix=f"{self.prefix}infer.",
            write=self.write,
        )

    def start(self, graph: Graph, passes: Sequence[Pass]) -> None:
        names = [pass_.name for pass_ in passes]
        for name in self.after:
            if name not in names:
                raise PassError(
                    f"the pass {name!r} whose result to dump is not in the pipeline", hint=suggest(name, names)
                )
        self._last = print_graph(graph)
        if self.everything or self.on_change:
            self._emit(0, "input", self._last)

    def after_pass(self, index: int, pass_: Pass, before: Graph, after: Graph) -> None:
        text = self._last if before is after else print_graph(after)
        changed = text != self._last
        self._last = text
        if self.everything or pass_.name in self.after or (self.on_change and changed):
            self._emit(index, pass_.name, text)

    def _emit(self, index: int, name: str, text: str) -> None:
        if self.directory is not None:
            write_whole(self.directory / f"{self.prefix}{index:03d}-{name}.ir", text)
        else:
            assert self.write is not None
            self.write(f"// ---- {self.prefix}{index:03d}-{name}\n{text}")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that nobody ever sees half of it. Raises PassError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise PassError(f"cannot write {path}: {error.strerror or error}") from None


class Timing(Observer):
    """Seconds each pass took; `str(timing)` is the table of --time-passes."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.rows: list[tuple[str, float, int]] = []
        """Pass, seconds, nodes of its result."""
        self._started = 0.0

    def before_pass(self, index: int, pass_: Pass, graph: Graph) -> None:
        self._started = self.clock()

    def after_pass(self, index: int, pass_: Pass, before: Graph, after: Graph) -> None:
        self.rows.append((pass_.name, self.clock() - self._started, len(after.nodes)))

    def __str__(self) -> str:
        total = sum(seconds for _, seconds, _ in self.rows)
        width = max([len(name) for name, _, _ in self.rows] + [len("total")])
        lines = [f"{'pass':<{width}}  seconds   share  nodes"]
        for name, seconds, nodes in self.rows:
            share = seconds / total if total else 0.0
            lines.append(f"{name:<{width}}  {seconds:7.4f}  {share:5.1%}  {nodes:5d}")
        lines.append(f"{'total':<{width}}  {total:7.4f}")
        return "\n".join(lines)


class Verify(Observer):
    """Verifies the IR: after `each` pass, at both `ends`, or not at all (`none`)."""

    MODES = ("each", "ends", "none")

    def __init__(self, mode: str = "each") -> None:
        if mode not in self.MODES:
            raise PassError(f"verify cannot be {mode!r}", hint=suggest(mode, list(self.MODES)))
        self.mode = mode

    def start(self, graph: Graph, passes: Sequence[Pass]) -> None:
        if self.mode != "none":
            verify(graph)

    def after_pass(self, index: int, pass_: Pass, before: Graph, after: Graph) -> None:
        if self.mode == "each" and before is not after:
            verify(after)

    def finish(self, graph: Graph) -> None:
        if self.mode == "ends":
            verify(graph)


class NumericCheck(Observer):
    """Compares in float64 what outputs are before and after each pass that claims to preserve them.

    `feeds` (states, inputs, data) and `params` (seed, step, scalars) as for `evaluate`; what is missing is drawn, small
    and random. Raises PassError when an output moves by more than `tolerance` of its norm.
    """

    def __init__(
        self,
        tolerance: float = 1e-9,
        feeds: Mapping[str, Any] | None = None,
        params: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.tolerance = tolerance
        self.feeds = dict(feeds or {})
        self.params = {"seed": seed, "step": 0, **(params or {})}
        self.seed = seed
        self.errors: dict[str, float] = {}
        """The largest relative error of each pass that was checked."""

    def after_pass(self, index: int, pass_: Pass, before: Graph, after: Graph) -> None:
        if not pass_.preserves or before is after:
            return
        left, right = self._values(before), self._values(after)
        for key in (key for key in left if key in right):
            error = float(np.linalg.norm(left[key] - right[key]))
            relative = error / max(float(np.linalg.norm(left[key])), np.finfo(np.float64).tiny) if error else 0.0
            self.errors[pass_.name] = max(self.errors.get(pass_.name, 0.0), relative)
            if not relative <= self.tolerance:
                raise PassError(
                    f"{pass_.name} moved the output {key!r} by {relative:.3g} of its norm, limit {self.tolerance:.3g}",
                    location=after.outputs[key].loc,
                )

    def _values(self, graph: Graph) -> dict[str, Any]:
        from pintac.ir.evaluate import evaluate  # brings numba: only where it is asked for

        for node in graph.of("state", "input", "data"):
            name = str(node.attrs["name"])
            if name not in self.feeds:
                # named generators, so that a value does not depend on what else the graph reads
                rng = np.random.default_rng([self.seed, *name.encode()])
                value = rng.standard_normal(node.shape) * 0.5
                self.feeds[name] = np.abs(value) if name.startswith("adam.v:") else value
        for node in graph.of("scalar"):
            self.params.setdefault(str(node.attrs["name"]), 1.0)
        return evaluate(graph, self.feeds, self.params, "float64")
