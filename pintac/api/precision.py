"""`--bits auto:B`: the bits of every quantised tensor under a bound on residual and gradient error (docs/PRECISION.md).

`calibration.py` says what error each tensor makes at each width, `precision_cost.py` what the widths cost. For a price
of error, coordinate descent finds the assignment with the least cost + price * energy; prices from high to low give a
list of assignments, from 16 bits everywhere to 4, that does not depend on the budget. The first one counts, from the
cheapest that is predicted to keep the budget, whose errors with all tensors rounded together and in the machine's
arithmetic are within it, unless bits by role are cheaper and are within it too; a looser budget costs no more.

What is chosen is written into the pipeline, as bits by role and exceptions by name; nothing else of the search is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api.calibration import SEED, Calibration, Errors, before_budget, calibration_states
from pintac.api.precision_cost import Costs
from pintac.api.sources import sources
from pintac.container import write_atomically
from pintac.errors import PassError
from pintac.ir import Graph, print_graph
from pintac.machine import Machine
from pintac.passes import Pass, print_pipeline
from pintac.passes.insert_smx import InsertSMX
from pintac.passes.tensors import WIDTHS, parse_bits, print_bits, resolve_bits, role_of
from pintac.runtime.cache import cache_folder

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

PRICES = 200  # of error, in cost
SWEEPS = 8  # of coordinate descent at a price, at most
ANCHORS = 8  # assignments that are observed for any budget
ROLES = ("weight", "base", "delta", "grad")

Bits = dict[str, int]


@dataclass(frozen=True)
class Choice:
    """Chosen bits and what they cost and spoil. Errors by `state/what`; cycles (pJ for energy) of the cost model."""

    budget: float
    objective: str
    bits: Mapping[str, int]
    predicted: Mapping[str, float]
    observed: Mapping[str, float]
    cost: float
    tried: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def choose(
    step: TrainStep,
    traced: Graph,
    passes: Sequence[Pass],
    machine: Machine,
    weights: Mapping[str, np.ndarray] | None = None,
) -> tuple[tuple[Pass, ...], Choice | None]:
    """The passes with bits in place of `policy=auto`, and the choice; as they are where nothing is to be chosen.

    `traced` is the step graph before the passes. Raises PassError for a budget that 16 bits cannot keep.
    """
    wanted = [p for p in passes if isinstance(p, InsertSMX) and p.policy == "auto"]
    if not wanted:
        return tuple(passes), None
    options = wanted[0]
    if not 0.0 < options.budget < 1.0:
        raise PassError(
            f"insert-smx: a budget of {options.budget:g} is no relative error",
            hint="budget=0.05: residual and gradient may be 5 % off",
        )
    if options.block != "4x4":
        raise PassError("insert-smx: bits are chosen for blocks of 4x4 only", hint="block=4x4, or bits by hand")
    graph, names = before_budget(traced, passes)
    costs = Costs(graph, names, machine)
    pinned = resolve_bits(parse_bits(options.bits), costs.blocks, strict=True)
    choice = _choose_or_reuse(step, graph, passes, costs, pinned, weights)
    resolved = explicit(options, choice.bits)
    return tuple(resolved if p is options else p for p in passes), choice


def resolve(
    step: TrainStep, passes: Sequence[Pass], machine: Machine, weights: Mapping[str, np.ndarray] | None = None
) -> tuple[Pass, ...]:
    """The passes that a compilation of the step runs: as `choose`, from the step itself."""
    from pintac.frontend.tracing import trace_step

    if not any(isinstance(pass_, InsertSMX) and pass_.policy == "auto" for pass_ in passes):
        return tuple(passes)
    return choose(step, trace_step(step)[0], passes, machine, weights)[0]


def explicit(options: InsertSMX, bits: Mapping[str, int]) -> InsertSMX:
    """The pass with these bits: the most frequent ones of a role as its own, the others by name."""
    common: dict[str, Any] = {}
    for role in ROLES:
        widths = Counter(width for name, width in bits.items() if role_of(name) == role)
        common[role] = max(sorted(widths), key=lambda width: widths[width]) if widths else getattr(options, role)
    named = {name: width for name, width in bits.items() if width != common[role_of(name)]}
    return dataclasses.replace(
        options, policy="roles", budget=0.05, objective="cycles", bits=print_bits(named), **common
    )


@dataclass(frozen=True)
class Candidate:
    """An assignment with its cost and its predicted errors."""

    bits: Bits
    cost: float
    predicted: Errors


def candidates(calibration: Calibration, costs: Costs, objective: str, pinned: Mapping[str, int]) -> list[Candidate]:
    """Assignments from the most exact to the cheapest, each cheaper than those before it."""
    names = [name for name in calibration.tensors if name in costs.blocks]
    widths = {name: (pinned[name],) if name in pinned else WIDTHS for name in names}
    energy = {name: {b: float(calibration.energies[name][b].max()) for b in WIDTHS} for name in names}
    bits: Bits = {name: widths[name][-1] for name in names}
    highest = costs.cost(bits, objective)
    found = [bits]
    for price in np.geomspace(highest * 1e8, highest * 1e-2, PRICES):
        bits = dict(bits)
        for _ in range(SWEEPS):
            parts = costs.parts(bits)
            changed = False
            for name in names:
                old = costs.part(name, bits)
                new = {width: parts.changed(old, costs.part(name, {**bits, name: width})) for width in widths[name]}
                best = min(widths[name], key=lambda w: costs.total(new[w], objective) + price * energy[name][w])
                if best != bits[name]:
                    bits[name], parts, changed = best, new[best], True
            if not changed:
                break
        found += _between(found[-1], bits, costs, objective, energy)
    kept: list[Candidate] = []
    for bits in found:
        cost = costs.cost(bits, objective)
        if not kept or cost < kept[-1].cost:
            kept.append(Candidate(bits, cost, calibration.predicted(bits)))
    return kept


def _between(
    before: Bits, after: Bits, costs: Costs, objective: str, energy: Mapping[str, Mapping[int, float]]
) -> list[Bits]:
    """The way from one assignment to another, a tensor at a time, those first that save most for their error."""
    parts = costs.parts(before)
    whole = costs.total(parts, objective)

    def rate(name: str) -> float:
        new = costs.part(name, {**before, name: after[name]})
        saved = whole - costs.total(parts.changed(costs.part(name, before), new), objective)
        return (energy[name][after[name]] - energy[name][before[name]]) / (abs(saved) or 1.0)

    steps = []
    bits = before
    for name in sorted((n for n in before if before[n] != after[n]), key=rate):
        bits = {**bits, name: after[name]}
        steps.append(bits)
    return steps


def search(calibration: Calibration, costs: Costs, options: InsertSMX, pinned: Mapping[str, int]) -> Choice:
    """The cheapest candidate within the budget. Prediction says where to begin, observation decides."""
    found = candidates(calibration, costs, options.objective, pinned)
    seen: dict[int, Errors] = {}

    def within(index: int) -> bool:
        if index not in seen:
            seen[index] = calibration.observed(found[index].bits)
            if seen[index].largest <= options.budget:
                seen[index] = calibration.on_machine(found[index].bits)
        return seen[index].largest <= options.budget

    expected = _expected(found, calibration)
    index = max((i for i, error in enumerate(expected) if error <= options.budget), default=0)
    while index > 0 and not within(index):
        index -= 1
    if not within(index):
        raise PassError(
            f"insert-smx: no bits keep residual and gradient within {options.budget:g}: with 16 everywhere their errors"
            f" are {seen[index].residual:.2g} and {seen[index].gradient:.2g}",
            hint="a larger budget" + (", or fewer bits given by hand" if pinned else ""),
        )
    while index + 1 < len(found) and within(index + 1):
        index += 1
    chosen, observed = found[index], seen[index]
    tried = len(seen)
    for candidate in uniform(calibration, costs, options.objective, pinned):
        if candidate.cost >= chosen.cost:
            break
        if candidate.predicted.largest > 2 * options.budget:
            continue
        tried += 1
        errors = calibration.on_machine(candidate.bits)
        if errors.largest <= options.budget:
            chosen, observed = candidate, errors
            break
    return Choice(
        options.budget,
        options.objective,
        chosen.bits,
        _by_text(chosen.predicted),
        _by_text(observed),
        chosen.cost,
        tried,
    )


def uniform(calibration: Calibration, costs: Costs, objective: str, pinned: Mapping[str, int]) -> list[Candidate]:
    """Assignments by role, the cheapest first: a choice should be no worse than these."""
    found = []
    for widths in product((8, 12), (12, 16), (4, 8, 12), (8, 12)):
        roles = dict(zip(ROLES, widths, strict=True))
        bits = {name: pinned.get(name, roles[role]) for name, role in calibration.roles.items() if name in costs.blocks}
        found.append(Candidate(bits, costs.cost(bits, objective), calibration.predicted(bits)))
    return sorted(found, key=lambda candidate: candidate.cost)


def _expected(found: Sequence[Candidate], calibration: Calibration) -> list[float]:
    """Predicted errors times how far off predictions are along the list, for a start that does not need long walks."""
    step = max(1, len(found) // ANCHORS)
    expected: list[float] = []
    for i, candidate in enumerate(found):
        if i % step == 0:
            off = calibration.observed(candidate.bits).largest / (candidate.predicted.largest or 1.0)
        expected.append(off * candidate.predicted.largest)
    return expected


def _choose_or_reuse(
    step: TrainStep,
    graph: Graph,
    passes: Sequence[Pass],
    costs: Costs,
    pinned: Mapping[str, int],
    weights: Mapping[str, np.ndarray] | None,
) -> Choice:
    """`search`, or its result from an earlier start: kept under a digest of all that decides it."""
    from pintac.frontend import initial_states

    digest = hashlib.sha256()
    parts = [sources(), costs.machine.to_toml(), print_graph(graph), print_pipeline(passes), step.init]
    for text in parts:
        digest.update(f"{len(text)}\n{text}".encode())
    for name, array in sorted(initial_states(step, SEED, weights).items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    folder = cache_folder("precision")
    path = None if folder is None else folder / f"{digest.hexdigest()[:32]}.json"
    if path is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):  # missing or damaged: searched again
            return Choice(**json.loads(path.read_text()))
    options = next(p for p in passes if isinstance(p, InsertSMX))
    calibration = Calibration(step, passes, calibration_states(step, weights))
    choice = search(calibration, costs, options, pinned)
    if path is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is no error
            write_atomically(path, json.dumps(choice.to_dict()).encode())
    return choice


def _by_text(errors: Errors) -> dict[str, float]:
    return {f"{state}/{what}": value for (state, what), value in errors.values.items()}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
