"""From a TrainStep to the graphs and arrays that a program is made of: everything before the backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api.precision import choose
from pintac.api.weights import to_constants
from pintac.errors import IRError, ModelError, PassError
from pintac.ir import Graph
from pintac.machine import Machine
from pintac.passes import (
    Observer,
    Pass,
    PassManager,
    PipelineOptions,
    Verify,
    default_pipeline,
    options_of,
    parse_pipeline,
)
from pintac.program import FIRST_PARAMS
from pintac.report import probe, purpose

if TYPE_CHECKING:
    from pintac.frontend import TestSet, TrainStep
    from pintac.frontend.weights import Layout

LONGEST_TABLE = 1 << 21  # rows of a parameter table: some 40 MB of a program


@dataclass(frozen=True)
class Lowered:
    """What the backend, or the evaluator, starts from.

    graphs       `step` and `infer` after all passes
    init         fp32 states before the first step, moments included
    data         constant arrays that the graphs read
    params       names of the parameter block; row t of `param_table` (uint32, fp32 as bits) holds step t
    test         points and exact values, None without an exact solution
    layout       between states and the names of the module's state_dict
    meta         JSON: problem, precisions, pipeline, names for export
    """

    graphs: Mapping[str, Graph]
    init: Mapping[str, np.ndarray]
    data: Mapping[str, np.ndarray]
    params: tuple[str, ...]
    param_table: np.ndarray
    test: TestSet | None
    layout: Layout
    meta: Mapping[str, Any]


def pipeline(options: PipelineOptions, passes: str | None = None) -> tuple[Pass, ...]:
    """The passes that run: the default ones for these switches, or those that `passes` says."""
    return default_pipeline(options) if passes is None else parse_pipeline(passes)


def lower(
    step: TrainStep,
    options: PipelineOptions | None = None,
    *,
    passes: str | None = None,
    observers: Sequence[Observer] = (),
    verify: str = "ends",
    seed: int = 0,
    weights: Mapping[str, np.ndarray] | None = None,
    machine: Machine | None = None,
) -> Lowered:
    """Trace a training step and run the passes.

    `seed` draws the initial weights unless `weights` (torch's names and layout) are given. `observers` see the pipeline
    of the step graph. `machine` says what bits cost where they are to be chosen (`auto:0.05`; default: the built-in
    machine). Raises ModelError, PassError or IRError, each with the user's line.
    """
    from pintac.frontend import initial_states, test_set, trace

    asked = pipeline(options or PipelineOptions(), passes)
    traced = trace(step)
    test = test_set(step, outputs=traced.outputs)
    steps, choice = choose(step, traced.step, asked, machine or Machine.load("pinta"), weights)
    graphs = {"step": PassManager(steps, [Verify(verify), *observers]).run(traced.step)}
    watching = [other for observer in observers if (other := observer.forward()) is not None]
    graphs["infer"] = PassManager([p for p in steps if p.forward], [Verify(verify), *watching]).run(traced.infer)
    states = initial_states(step, seed, weights)
    names = scalar_names(graphs["step"])
    meta = {
        "problem": step.name,
        "seed": seed,
        **_switches(asked),
        "passes": str(PassManager(steps)),
        **({} if choice is None else {"precision": choice.to_dict()}),
        "optimizer": step.optimizer.attrs(),
        "estimator": dict(graphs["step"].attrs["estimator"]),
        "terms": list(graphs["step"].attrs["terms"]),
        "purposes": purpose.to_meta(graphs),
        **_probe(graphs["step"]),
        "export": {
            name: {"state": state, "transposed": state in traced.layout.transposed}
            for name, state in traced.layout.aliases.items()
        },
        **({"constants": to_constants(constants)} if (constants := traced.layout.constants()) else {}),
        **_elsewhere(step, test),
    }
    return Lowered(
        graphs=graphs,
        init=with_moments(graphs, states),
        data=traced.data,
        params=(*FIRST_PARAMS, *names),
        param_table=parameter_table(step, names),
        test=test,
        layout=traced.layout,
        meta=meta,
    )


def _switches(passes: Sequence[Pass]) -> dict[str, str | None]:
    """The switches as results state them: of the passes that run, whatever the flags beside `--passes` were."""
    ran = options_of(passes)
    return {
        "quant": ran.quant,
        "scheme": ran.scheme,
        "bits": None if ran.quant == "none" else ran.bits,
        "saved": ran.saved,
        "block": ran.block,
        **({"rows": ran.rows} if ran.rows != PipelineOptions.rows else {}),
    }


def _elsewhere(step: TrainStep, test: TestSet | None) -> dict[str, Any]:
    """Where the test points are, if they are others than the first term's, or fixed ones, or lie on a surface."""
    if test is None or (test.inside and test.term == step.terms()[0].name):
        return {}
    return {"test": {"term": test.term, "inside": test.inside}}


def _probe(graph: Graph) -> dict[str, str]:
    """The step on a few points, for diagnostics; nothing for a step whose sets of points cannot be cut."""
    try:
        return {"probe": probe.to_text(probe.small(graph))}
    except IRError:
        return {}


def scalar_names(graph: Graph) -> tuple[str, ...]:
    """Entries of the parameter block that a graph reads, beside seed and step."""
    return tuple(sorted({str(node.attrs["name"]) for node in graph.of("scalar")}))


def with_moments(graphs: Mapping[str, Graph], states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Start values of every state that the graphs hold: `states`, and zeros for the optimizer's."""
    init: dict[str, np.ndarray] = {}
    for graph in graphs.values():
        for name, node in graph.states().items():
            init[name] = states[name] if name in states else np.zeros(node.shape, np.float32)
    return dict(sorted(init.items()))


def parameter_table(step: TrainStep, names: Sequence[str]) -> np.ndarray:
    """uint32 [T, 2 + len(names)]: seed 0, the step number, then each scalar as fp32 bits.

    The last row holds for every later step: the schedule has settled, and the rate is 0 or bias corrections are 1 in
    fp32. Raises PassError for a scalar that is not known here, ModelError for a table of more than LONGEST_TABLE rows.
    """
    known = step.scalars()
    unknown = set(names) - set(known)
    if unknown:
        raise PassError(f"the step reads the parameters {', '.join(sorted(unknown))}, which nothing provides")
    settled = step.optimizer.settled
    at_rest = step.optimizer.rate(settled) == 0.0  # nothing else matters from then on
    rows = max([settled, *(known[name].settled for name in names if not at_rest)]) + 1
    if rows > LONGEST_TABLE:
        raise ModelError(
            f"the numbers of the optimizer change over {rows:,} steps, a program holds {LONGEST_TABLE:,}",
            location=step.location,
            hint="a schedule of fewer steps; betas further from 1",
        )
    table = np.zeros((rows, len(FIRST_PARAMS) + len(names)), np.uint32)
    table[:, 1] = np.arange(rows)
    for column, name in enumerate(names, len(FIRST_PARAMS)):
        table[:, column] = np.fromiter((known[name](t) for t in range(rows)), np.float32, rows).view(np.uint32)
    return table
