"""Pipelines as text: `split-stein,reorder-tt{order=prs},insert-smx{grad=12}`.

A pass is its name, then its options in braces; options that are not written have their defaults. `print_pipeline`
writes every option, and `parse_pipeline` reads back an equal list of passes.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pintac.errors import PassError, suggest
from pintac.passes.base import Pass
from pintac.passes.canonicalize import Canonicalize
from pintac.passes.dce import DeadCodeElimination
from pintac.passes.differentiate import Differentiate
from pintac.passes.expand_operators import ExpandOperators
from pintac.passes.expand_optimizer import ExpandOptimizer
from pintac.passes.fold_accumulate import FoldAccumulate
from pintac.passes.hoist_scale import HoistScale
from pintac.passes.insert_smx import InsertSMX
from pintac.passes.lower_delta import LowerDelta
from pintac.passes.pack_rows import PackRows
from pintac.passes.reorder_tt import ReorderTT
from pintac.passes.split_stein import SplitStein
from pintac.passes.tensors import parse_bits, print_bits

PASSES: Mapping[str, type[Pass]] = {
    pass_type.name: pass_type
    for pass_type in (
        ExpandOperators,
        SplitStein,
        ReorderTT,
        Differentiate,
        ExpandOptimizer,
        LowerDelta,
        InsertSMX,
        Canonicalize,
        DeadCodeElimination,
        HoistScale,
        FoldAccumulate,
        PackRows,
    )
}
"""Every pass by name, in the order of the default pipeline."""

_ITEM = re.compile(r"\s*(?P<name>[^\s,{}=]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?P<end>,|\Z)")
_COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*\Z)')  # outside quotation marks
_EXAMPLE = "for example split-stein,reorder-tt{order=prs},insert-smx{grad=12}"


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes of a pipeline in text; an empty text is the empty pipeline. Raises PassError with a suggestion."""
    if not isinstance(text, str):
        raise PassError(f"a pipeline is a string, got {text!r}", hint="for example 'split-stein,dce'")
    passes: list[Pass] = []
    position = 0
    more = bool(text.strip())
    while more:
        match = _ITEM.match(text, position)
        if match is None:
            raise PassError(f"cannot read the pipeline at {text[position:].strip() or 'its end'!r}", hint=_EXAMPLE)
        passes.append(make_pass(match["name"], _options(match["name"], match["options"])))
        position = match.end()
        more = match["end"] == ","
    return tuple(passes)


def print_pipeline(passes: Iterable[Pass]) -> str:
    """The pipeline as text, every option written but the rare ones that have their defaults."""
    items = []
    for pass_ in passes:
        values = [
            f"{field.name}={_quoted(_print_value(value))}"
            for field in option_fields(type(pass_))
            if (value := getattr(pass_, field.name)) != field.default or not field.metadata.get("rare")
        ]
        items.append(pass_.name + (f"{{{','.join(values)}}}" if values else ""))
    return ",".join(items)


def make_pass(name: str, options: Mapping[str, Any] | None = None) -> Pass:
    """A pass by name; options as text or as values of their type. Raises PassError for what does not exist."""
    if name not in PASSES:
        raise PassError(f"unknown pass {name!r}", hint=suggest(name, list(PASSES)))
    pass_type = PASSES[name]
    types = typing.get_type_hints(pass_type)
    known = [field.name for field in option_fields(pass_type)]
    values = {}
    for key, value in (options or {}).items():
        if key not in known:
            hint = suggest(key, known) or f"{name} takes no options"
            raise PassError(f"the pass {name} has no option {key!r}", hint=hint)
        values[key] = _read_value(name, key, types[key], value)
    return pass_type(**values)


def option_fields(pass_type: type[Pass]) -> tuple[dataclasses.Field[Any], ...]:
    """The options of a pass: the fields of its dataclass."""
    assert dataclasses.is_dataclass(pass_type)
    return dataclasses.fields(pass_type)


def _options(name: str, text: str | None) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in _COMMA.split(text or ""):
        if not item.strip():
            continue
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise PassError(f"the option {item.strip()!r} of {name} is not name=value", hint=_EXAMPLE)
        if key in options:
            raise PassError(f"the option {key!r} of {name} is given twice")
        options[key] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return options


def _read_value(name: str, key: str, type_: Any, value: Any) -> Any:
    """An option's value of the type its field has: a choice, bool, int, float or str."""
    if typing.get_origin(type_) is Literal:
        choices = typing.get_args(type_)
        for choice in choices:
            if value == choice or (isinstance(value, str) and value == _print_value(choice)):
                return choice
        known = [_print_value(choice) for choice in choices]
        raise PassError(
            f"{name}: the option {key} cannot be {value!r}", hint=suggest(str(value), known) or f"one of {known}"
        )
    text = value if isinstance(value, str) else _print_value(value)
    try:
        if type_ is bool:
            return {"true": True, "false": False}[text]
        return type_(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "an integer", float: "a number"}.get(type_, str(type_))
        raise PassError(f"{name}: the option {key} must be {expected}, got {value!r}") from None


def _quoted(text: str) -> str:
    return f'"{text}"' if not text or "," in text or "=" in text else text


def _print_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


QUANTISATIONS = ("diff", "even-odd", "naive", "none")
SCHEMES = ("prs", "sequential", "dense")
ROWS = ("apart", "packed")


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
    """The switches of a compilation.

    `quant`: DiffQuant, even/odd DiffQuant (ours), naive quantisation of X + delta, or fp32 throughout. `scheme`: the
    order in which TT layers are contracted. `weight`, `base`, `delta`, `grad`: bits by role. `saved`: how backward
    reads the perturbed path. `block`: the shape of blocks; programs have 4x4 only. `tensors`: bits of single tensors,
    by name. With a `budget` the bits are chosen under it, for the least `objective`, those of `tensors` excepted.
    `rows`: whether the evaluations of a point have blocks of their own ("apart") or share them with those of its
    neighbours ("packed": `pack-rows`, ours).
    """

    quant: str = "diff"
    scheme: str = "prs"
    weight: int = 8
    base: int = 16
    delta: int = 8
    grad: int = 12
    saved: str = "smx"
    block: str = "4x4"
    tensors: str = ""
    budget: float | None = None
    objective: str = "cycles"
    rows: str = "apart"

    @classmethod
    def from_bits(cls, bits: str, **others: Any) -> PipelineOptions:
        """From precisions written W/B/D/G or auto:BUDGET[:energy], and then perhaps NAME=BITS for single tensors:
        8/16/8/12, auto:0.05, `8/16/8/12,*.delta.even*=4`. Raises PassError for anything else."""
        if not isinstance(bits, str):
            raise PassError(
                f"precisions are W/B/D/G, a string, got {bits!r}", hint="for example '8/16/8/12' or 'auto:0.05'"
            )
        roles, _, tensors = bits.replace(" ", "").partition(",")
        tensors = print_bits(parse_bits(tensors))
        if roles.startswith("auto:"):
            budget, _, objective = roles.removeprefix("auto:").partition(":")
            try:
                return cls(tensors=tensors, budget=float(budget), objective=objective or "cycles", **others)
            except ValueError:
                raise PassError(f"precisions {bits!r}: {budget!r} is no number", hint="for example auto:0.05") from None
        parts = roles.split("/")
        if len(parts) != 4 or not all(part.isdigit() for part in parts):
            raise PassError(
                f"precisions {bits!r}: expected W/B/D/G, four numbers of bits, or auto:BUDGET",
                hint="for example 8/16/8/12 or auto:0.05",
            )
        weight, base, delta, grad = (int(part) for part in parts)
        return cls(weight=weight, base=base, delta=delta, grad=grad, tensors=tensors, **others)

    @property
    def bits(self) -> str:
        """As `from_bits` reads it."""
        roles = f"{self.weight}/{self.base}/{self.delta}/{self.grad}"
        if self.budget is not None:
            roles = f"auto:{self.budget:g}" + ("" if self.objective == "cycles" else f":{self.objective}")
        return roles + (f",{self.tensors}" if self.tensors else "")


def default_pipeline(options: PipelineOptions | None = None) -> tuple[Pass, ...]:
    """From the frontend's graph to one the backend can schedule. Raises PassError for a switch that does not exist."""
    chosen = options or PipelineOptions()
    _check("quant", chosen.quant, QUANTISATIONS)
    _check("scheme", chosen.scheme, SCHEMES)
    _check("rows", chosen.rows, ROWS)
    if chosen.rows == "packed" and chosen.quant != "even-odd":
        raise PassError("rows are packed where odd and even halves are apart", hint="quant=even-odd, or rows=apart")
    bits = {role: getattr(chosen, role) for role in ("weight", "base", "delta", "grad")}
    form = {"diff": "plus-minus", "even-odd": "even-odd"}.get(chosen.quant, "none")
    formats = {**bits, "saved": chosen.saved, "block": chosen.block, "bits": chosen.tensors}
    if chosen.budget is not None:
        formats |= {"policy": "auto", "budget": chosen.budget, "objective": chosen.objective}
    precision = [] if chosen.quant == "none" else [make_pass("insert-smx", formats)]
    return (
        ExpandOperators(),
        make_pass("split-stein", {"form": form}),
        make_pass("reorder-tt", {"order": chosen.scheme}),
        Differentiate(),
        ExpandOptimizer(),
        LowerDelta(),
        *precision,
        Canonicalize(),
        DeadCodeElimination(),
        HoistScale(),
        FoldAccumulate(),
        *((PackRows(), Canonicalize()) if chosen.rows == "packed" else ()),
    )


def options_of(passes: Iterable[Pass]) -> PipelineOptions:
    """The switches that a pipeline amounts to, whoever wrote it: for the default one, those that it was made of.

    Without insert-smx `quant` is none; without reorder-tt `scheme` is none.
    """
    form, found = "none", PipelineOptions(quant="none", scheme="none")
    for pass_ in passes:
        if isinstance(pass_, SplitStein):
            form = pass_.form
        elif isinstance(pass_, ReorderTT):
            found = dataclasses.replace(found, scheme=pass_.order)
        elif isinstance(pass_, PackRows):
            found = dataclasses.replace(found, rows="packed")
        elif isinstance(pass_, InsertSMX):
            found = dataclasses.replace(
                found,
                quant={"plus-minus": "diff", "even-odd": "even-odd", "none": "naive"}[form],
                weight=pass_.weight,
                base=pass_.base,
                delta=pass_.delta,
                grad=pass_.grad,
                saved=pass_.saved,
                block=pass_.block,
                tensors=pass_.bits,
                budget=pass_.budget if pass_.policy == "auto" else None,
                objective=pass_.objective,
            )
    return found


def _check(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise PassError(f"{what} cannot be {value!r}", hint=suggest(value, list(choices)))
