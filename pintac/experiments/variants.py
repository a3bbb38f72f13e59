"""Variants of a compilation: one for each combination of the values that are to be compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pintac.api.named import is_file, named_step
from pintac.errors import UsageError, suggest
from pintac.machine import KEYS, Machine
from pintac.passes import PipelineOptions, default_pipeline
from pintac.setting import setting_value

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

SWITCHES = ("quant", "scheme", "saved", "rows")
VARIED = ("bits", "machine", *SWITCHES)
"""What may vary besides the keys of a machine and the options of a built-in problem."""

MOST = 1000
"""Variants at a time."""


@dataclass(frozen=True)
class Variant:
    """One compilation, told in text and numbers, so that another process can make it.

    spec          a built-in problem, or FILE.py:OBJECT
    settings      options of its factory
    machine_keys  `key=value` changes of the machine
    values        what sets it apart from the others, as it was written
    """

    spec: str
    settings: tuple[tuple[str, Any], ...] = ()
    bits: str = "8/16/8/12"
    switches: tuple[tuple[str, str], ...] = ()
    machine: str = "pinta"
    machine_keys: tuple[str, ...] = ()
    effort: float = 1.0
    values: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> PipelineOptions:
        """The switches of the pipeline. Raises PassError, and UsageError for what makes no program."""
        found = PipelineOptions.from_bits(self.bits, **dict(self.switches))
        if found.quant == "none":
            raise UsageError("fp32 in torch runs no program, so there are no cycles", hint="another --quant")
        default_pipeline(found)
        return found

    def built_machine(self) -> Machine:
        """The machine it is compiled for. Raises MachineError."""
        return Machine.load(self.machine).override(self.machine_keys)

    def step(self) -> TrainStep:
        """The training step, loaded anew. Raises what the file or the factory raises."""
        return named_step(self.spec, 0, self.options().scheme, dict(self.settings))


def axes(texts: Sequence[str]) -> dict[str, list[str]]:
    """Names and their values, from texts `NAME=V1,V2`; a name that comes again has more values.

    A part with an equals sign goes on with the part before it: `bits=8/16/8/12,*.base=8` is one value.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        parts = [part.strip() for part in listed.split(",")]
        if not equals or not name.strip() or not all(parts):
            raise UsageError(f"expected NAME=VALUE,VALUE,..., got {text!r}", hint="--vary sram_kib=192,384,768")
        values = found.setdefault(name.strip(), [])
        for number, part in enumerate(parts):
            if number and "=" in part:
                values[-1] += f",{part}"
            else:
                values.append(part)
    for name, values in found.items():
        if again := next((value for value in values if values.count(value) > 1), None):
            raise UsageError(f"{name} has the value {again} twice", hint="each value once")
    return found


def variants(base: Variant, varied: Mapping[str, Sequence[str]]) -> list[Variant]:
    """Every combination, the last name's values fastest. Raises PintacError where a machine or switch cannot be."""
    if not varied:
        raise UsageError("what shall be compared?", hint="--vary sram_kib=192,384,768")
    names = list(varied)
    _check_names(base.spec, names)
    count = math.prod(map(len, varied.values()))
    if count > MOST:
        raise UsageError(f"{count} combinations are more than {MOST}", hint="fewer values, or several comparisons")
    found = []
    for values in itertools.product(*varied.values()):
        made = replace(base, values=dict(zip(names, values, strict=True)))
        for name, value in made.values.items():
            made = _with(made, name, value)
        made.options()
        made.built_machine()
        found.append(made)
    return found


def _check_names(spec: str, names: Sequence[str]) -> None:
    """Refuse a name that nothing has; what a function in a file takes only it can say."""
    from pintac.frontend.problems import BUILTIN, options_of

    if is_file(spec) or spec not in BUILTIN:
        return
    known = [*VARIED, *KEYS, *options_of(spec)]
    for name in names:
        if name not in known:
            raise UsageError(f"nothing of {spec} or its machine is called {name!r}", hint=suggest(name, known))


def _with(variant: Variant, name: str, value: str) -> Variant:
    """A variant with one thing changed."""
    if name == "bits":
        return replace(variant, bits=value)
    if name == "machine":
        return replace(variant, machine=value)
    if name in SWITCHES:
        return replace(variant, switches=_put(variant.switches, name, value))
    if name in KEYS:
        return replace(variant, machine_keys=(*variant.machine_keys, f"{name}={value}"))
    return replace(variant, settings=_put(variant.settings, name, setting_value(value)))


def _put(pairs: tuple[tuple[str, Any], ...], name: str, value: Any) -> tuple[tuple[str, Any], ...]:
    return tuple({**dict(pairs), name: value}.items())
