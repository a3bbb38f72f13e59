"""What does not depend on training: trivial errors of a problem, parameters of a network. Computed once and kept.

They are deterministic, so `<results>/facts.json` is a cache that spares tracing and importing torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pintac.container import write_atomically
from pintac.experiments.files import read_json
from pintac.experiments.runs import Run
from pintac.json_kinds import each, having, maybe, number, whole

NETWORK_SETTINGS = ("width", "hidden", "rank")

_COUNT = whole(low=1)
_NETWORK = having({"parameters": _COUNT, "dense": _COUNT})
_KIND = having({}, problems=each(each(maybe(number))), networks=each(_NETWORK))


class Facts:
    """The facts of a folder of results."""

    def __init__(self, results: Path) -> None:
        self._path = results / "facts.json"
        self._known: dict[str, dict[str, Any]] = {"problems": {}, "networks": {}}
        if self._path.exists():
            self._known |= read_json(self._path, _KIND, "remove it, it is made again")

    def problem(self, run: Run) -> Mapping[str, float | None]:
        """Errors of trivial solutions (`frontend.Baselines`), and `mean_square`, the mean of u^2 on the test points.

        Empty for a problem without an exact solution.
        """
        key = _problem_key(run)
        if key not in self._known["problems"]:
            self.keep_problem(run, trivial(run))
        return self._known["problems"][key]

    def network(self, run: Run) -> Mapping[str, int]:
        """`parameters` of the network, and `dense`, those of the same with dense layers. Built-in problems only."""
        key = _network_key(run)
        if key not in self._known["networks"]:
            self.keep_network(run, parameters(run))
        return self._known["networks"][key]

    def keep_problem(self, run: Run, value: Mapping[str, Any]) -> None:
        """Write down the trivial errors of a run's problem."""
        self._keep("problems", _problem_key(run), value)

    def keep_network(self, run: Run, value: Mapping[str, int]) -> None:
        """Write down the parameters of a run's network."""
        self._keep("networks", _network_key(run), value)

    def _keep(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        self._known[kind][key] = dict(value)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._known, sort_keys=True, indent=1, allow_nan=False)
        write_atomically(self._path, (text + "\n").encode())


def _problem_key(run: Run) -> str:
    return Run(run.problem).label


def _network(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.settings if name in NETWORK_SETTINGS}


def _network_key(run: Run) -> str:
    return Run.of(run.problem, scheme="dense" if run.scheme == "dense" else "prs", **_network(run)).label


def trivial(run: Run) -> dict[str, Any]:
    """`Facts.problem`, computed."""
    from pintac.frontend import load_step, test_set, trivial_baselines

    step = load_step(run.problem)
    test = test_set(step)
    errors = trivial_baselines(step, test)
    if test is None or errors is None:
        return {}
    return {**errors.as_dict(), "mean_square": float((test.u**2).mean())}


def parameters(run: Run) -> dict[str, int]:
    """`Facts.network`, computed."""
    from pintac.frontend import load_step

    def count(scheme: str) -> int:
        return sum(p.numel() for p in load_step(run.problem, scheme=scheme, **_network(run)).net.parameters())

    return {"parameters": count("dense" if run.scheme == "dense" else "prs"), "dense": count("dense")}
