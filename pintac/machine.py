"""The machine a program is compiled for and timed on: a TOML file whose every key carries its unit and provenance.

    bme_rows = { value = 8, tag = "paper", source = "arXiv 2512.09202: TCU of 8x8 BMEs" }

A key may also be a bare value; a file may start from another machine with `base = "pinta"`. Unknown keys, wrong
types and values that no hardware could have are `MachineError`s with the file and line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pintac.errors import MachineError, suggest
from pintac.isa import MAX_MICRO_OPS, MAX_SEMAPHORES

TAGS = ("paper", "derived", "assumed")


@dataclass(frozen=True)
class Provenance:
    """Where a value comes from: the paper, a derivation, or our assumption."""

    tag: str
    source: str


@dataclass(frozen=True)
class Key:
    """One key of a machine file: its type, the values it can have, and what it means."""

    kind: type
    low: float
    high: float
    doc: str
    check: Callable[[Any], str | None] | None = None


@dataclass(frozen=True)
class _Place:
    file: str
    line: int


def _multiple(of: int) -> Callable[[int], str | None]:
    return lambda v: None if v % of == 0 else f"must be a multiple of {of}"


def _power_of_two(value: int) -> str | None:
    return None if value & (value - 1) == 0 else "must be a power of two"


def _key(low: float, high: float, doc: str, check: Callable[[Any], str | None] | None = None) -> Any:
    """A field of `Machine` that is a key of machine files; its type is the annotation's."""
    return field(metadata={"key": (low, high, doc, check)})


def _pj(doc: str) -> Any:
    return _key(0.0, 1e6, doc)


@dataclass(frozen=True)
class Machine:
    """A machine: every key of a file as an attribute in the unit its name ends with, and a few derived quantities.

    Build one with `default`, `load`, `from_dict` or `replace`: they validate. Equality and `hash` are about the
    values, not the name or provenance.
    """

    clock_ghz: float = _key(1e-3, 100.0, "clock of every unit")
    bme_rows: int = _key(1, 256, "rows of block-matrix engines in the tensor unit")
    bme_cols: int = _key(1, 256, "columns of block-matrix engines")
    dpe_operand_bits: int = _key(
        1, 16, "bits of one multiplier operand; wider operands run bit-serially, ceil(a/bits)*ceil(b/bits) cycles"
    )
    array_foldable: bool = _key(0, 1, "the array works as any r x c rectangle of its engines, not only rows x cols")
    sram_kib: int = _key(1, 1 << 20, "on-chip scratchpad")
    sram_banks: int = _key(1, 4096, "banks of the scratchpad, skewed interleaving", _power_of_two)
    sram_bank_bytes_per_cycle: int = _key(4, 256, "bytes a bank reads or writes in a cycle", _power_of_two)
    psum_kib: int = _key(1, 1 << 20, "partial-sum buffer")
    psum_write_fp32_per_cycle: int = _key(1, 1 << 16, "fp32 results the array writes to the partial-sum buffer")
    tcu_sram_read_bytes_per_cycle: int = _key(1, 1 << 16, "scratchpad bytes the tensor unit reads")
    tcu_sram_write_bytes_per_cycle: int = _key(1, 1 << 16, "scratchpad bytes the tensor unit writes")
    vpu_lanes: int = _key(16, 4096, "fp32 lanes of the vector unit", _multiple(16))
    vpu_sram_read_bytes_per_cycle: int = _key(1, 1 << 16, "bytes the vector unit reads, all ports together")
    vpu_sram_write_bytes_per_cycle: int = _key(1, 1 << 16, "bytes the vector unit writes")
    vpu_pipeline_cycles: int = _key(0, 1000, "latency from an element's read to its write")
    vpu_max_micro_ops: int = _key(1, MAX_MICRO_OPS, "micro-operations chained in one instruction")
    vpu_philox: bool = _key(
        0, 1, "the vector unit has a philox generator; for one without, pintac compiles no random numbers"
    )
    quantise_blocks_per_cycle: int = _key(1, 4096, "4x4 blocks quantised at the write port")
    dram_gb_per_s: float = _key(1e-3, 1e5, "DRAM bus, both directions together (1e9 bytes)")
    dram_latency_ns: float = _key(0.0, 1e5, "from the end of a transfer's turn on the bus to its completion")
    dram_outstanding: int = _key(1, 4096, "transfers in flight")
    dram_burst_bytes: int = _key(1, 4096, "a row of a transfer takes whole bursts", _power_of_two)
    semaphores: int = _key(1, MAX_SEMAPHORES, "semaphores")
    energy_add_int8_pj: float = _pj("integer addition, 8 bits")
    energy_add_int32_pj: float = _pj("integer addition, 32 bits")
    energy_add_fp32_pj: float = _pj("fp32 addition")
    energy_mul_int8_pj: float = _pj("integer multiplication, 8 bits")
    energy_mul_int32_pj: float = _pj("integer multiplication, 32 bits")
    energy_mul_fp32_pj: float = _pj("fp32 multiplication")
    energy_sram_8kib_pj_per_64bit: float = _pj("access to an 8 KiB bank")
    energy_sram_32kib_pj_per_64bit: float = _pj("access to a 32 KiB bank")
    energy_sram_1mib_pj_per_64bit: float = _pj("access to a 1 MiB bank")
    energy_dram_pj_per_bit: float = _pj("DRAM transfer")
    name: str = field(default="custom", compare=False)
    provenance: Mapping[str, Provenance] = field(default_factory=dict, compare=False, repr=False)

    # -- construction ------------------------------------------------------------------------------------------

    @classmethod
    def default(cls) -> Machine:
        """The shipped `pinta` machine (8x8 engines)."""
        return cls.load("pinta")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Machines that come with the package."""
        folder = resources.files("pintac") / "machines"
        return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))

    @classmethod
    def load(cls, name_or_path: str | Path) -> Machine:
        """Read a machine by shipped name (`pinta`, `tiny`) or from a TOML file. Raises `MachineError`."""
        text, file = _find(str(name_or_path))
        return cls._parse(text, file)

    @classmethod
    def _parse(cls, text: str, file: str) -> Machine:
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"at line (\d+)", str(error))
            raise MachineError(
                f"not a TOML file: {error}", location=_Place(file, int(at.group(1)) if at else 1)
            ) from None
        return cls._build(data, file, text)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "<dict>", other_keys: str = "") -> Machine:
        """Rebuild a machine from `to_dict` (or any mapping of keys to values). Raises `MachineError`.

        `other_keys` is what to do where the keys are not those of today, if that is not to write others.
        """
        return cls._build(data, source, "", other_keys)

    @classmethod
    def _build(cls, data: Mapping[str, Any], file: str, text: str, other_keys: str = "") -> Machine:
        def place(key: str) -> _Place:
            found = re.search(rf"(?m)^[ \t]*\[?[\"']?{re.escape(key)}\b", text)
            return _Place(file, text.count("\n", 0, found.start()) + 1 if found else 1)

        values: dict[str, Any] = {}
        provenance: dict[str, Provenance] = {}
        data = dict(data)
        name = data.pop("name", Path(file).stem)
        if not isinstance(name, str):
            raise MachineError("name must be a string", location=place("name"))
        if not name.isprintable():
            raise MachineError(f"name = {name!r} is impossible: it is one line of text", location=place("name"))
        if (base := data.pop("base", None)) is not None:
            if not isinstance(base, str) or base not in cls.names():
                raise MachineError(
                    f"base machine {base!r} does not exist",
                    location=place("base"),
                    hint=suggest(str(base), list(cls.names())),
                )
            parent = cls.load(base)
            values = parent.values()
            provenance = dict(parent.provenance)
        for key, entry in data.items():
            if key not in KEYS:
                raise MachineError(
                    f"unknown machine key {key!r}",
                    location=place(key),
                    hint=other_keys or suggest(key, [*KEYS, "name", "base"]),
                )
            if isinstance(entry, Mapping):
                if unknown := sorted(set(entry) - {"value", "tag", "source"}):
                    raise MachineError(
                        f"{key}: unknown entry {unknown[0]!r}",
                        location=place(key),
                        hint="an entry has value, tag, source",
                    )
                if "value" not in entry:
                    raise MachineError(f"{key}: no value", location=place(key))
                value, tag, source = (
                    entry["value"],
                    entry.get("tag", "assumed"),
                    entry.get("source", f"given in {file}"),
                )
                if tag not in TAGS:
                    raise MachineError(
                        f"{key}: unknown tag {tag!r}", location=place(key), hint=f"one of {', '.join(TAGS)}"
                    )
            else:
                value, tag, source = entry, "assumed", f"given in {file}"
            values[key] = _checked(key, value, place)
            provenance[key] = Provenance(str(tag), str(source))
        if missing := [key for key in KEYS if key not in values]:
            raise MachineError(
                f"machine {name!r} lacks {', '.join(missing)}",
                location=_Place(file, 1),
                hint=other_keys or 'start with base = "pinta" to change a few keys',
            )
        _check_together(values, place)
        return cls(**values, name=name, provenance=MappingProxyType(provenance))

    def replace(self, **overrides: Any) -> Machine:
        """This machine with some keys changed (validated); `name=` renames it."""
        name = overrides.pop("name", self.name)
        data: dict[str, Any] = self.to_dict() | {
            key: {"value": value, "tag": "assumed", "source": f"override of {self.name}"}
            for key, value in overrides.items()
        }
        return Machine._build(data | {"name": name}, f"<override of {self.name}>", "")

    def override(self, settings: Sequence[str]) -> Machine:
        """This machine with `key=value` settings applied (TOML values). Raises `MachineError`."""
        changes: dict[str, Any] = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise MachineError(f"machine setting {setting!r} is not key=value", hint="for example sram_kib=192")
            if key.strip() == "base":
                raise MachineError("base is no key of a machine that can be changed", hint=f"--machine {value.strip()}")
            try:
                if "\n" in value:
                    raise tomllib.TOMLDecodeError("one line")
                changes[key.strip()] = tomllib.loads(f"v = {value}")["v"]
            except tomllib.TOMLDecodeError:
                raise MachineError(
                    f"machine setting {setting!r}: {value!r} is no value", hint="a number, true, false or a \"text\""
                ) from None
        return self.replace(**changes)

    # -- the other way -----------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """Key -> value."""
        return {key: getattr(self, key) for key in KEYS}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as `from_dict` takes it."""
        out: dict[str, Any] = {"name": self.name}
        for key, value in self.values().items():
            p = self.provenance.get(key, Provenance("assumed", "constructed"))
            out[key] = {"value": value, "tag": p.tag, "source": p.source}
        return out

    def to_toml(self) -> str:
        """The machine file's text, one key a line."""
        lines = [f"name = {json.dumps(self.name, ensure_ascii=False)}"]
        for key, entry in self.to_dict().items():
            if key != "name":
                value = json.dumps(entry["value"])
                source = json.dumps(entry["source"], ensure_ascii=False)
                lines.append(f'{key} = {{ value = {value}, tag = "{entry["tag"]}", source = {source} }}')
        return "\n".join(lines) + "\n"

    @property
    def hash(self) -> str:
        """Digest of the values (not of the name or the provenance)."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()[:16]

    # -- derived quantities ------------------------------------------------------------------------------------

    @property
    def bmes(self) -> int:
        """Block-matrix engines of the array."""
        return self.bme_rows * self.bme_cols

    @property
    def sram_bytes(self) -> int:
        return self.sram_kib * 1024

    @property
    def psum_bytes(self) -> int:
        return self.psum_kib * 1024

    @property
    def sram_bank_kib(self) -> float:
        return self.sram_kib / self.sram_banks

    @property
    def sram_bytes_per_cycle(self) -> int:
        """What all banks together deliver."""
        return self.sram_banks * self.sram_bank_bytes_per_cycle

    @property
    def dram_bytes_per_cycle(self) -> float:
        return self.dram_gb_per_s / self.clock_ghz

    @property
    def dram_latency_cycles(self) -> int:
        return math.ceil(self.dram_latency_ns * self.clock_ghz - 1e-9)

    def product_cycles(self, bits_a: int, bits_b: int) -> int:
        """Cycles of one 4x4x4 block product of operands of these widths."""
        return -(-bits_a // self.dpe_operand_bits) * -(-bits_b // self.dpe_operand_bits)

    def seconds(self, cycles: float) -> float:
        """Time of so many cycles."""
        return cycles / (self.clock_ghz * 1e9)


KEYS: Mapping[str, Key] = {
    f.name: Key({"int": int, "float": float, "bool": bool}[str(f.type)], *f.metadata["key"])
    for f in fields(Machine)
    if "key" in f.metadata
}
"""Every key of a machine file, in the order of the fields of `Machine`."""


def _find(name: str) -> tuple[str, str]:
    """(text, file name) of a shipped machine or a path."""
    if name in Machine.names():
        return (resources.files("pintac") / "machines" / f"{name}.toml").read_text("utf-8"), f"{name}.toml"
    path = Path(name)
    try:
        return path.read_text("utf-8"), str(path)
    except FileNotFoundError:
        raise MachineError(f"no machine {name!r}", hint=suggest(name, list(Machine.names())) or "") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"cannot read machine file {name}: {error}") from None


_KIND_NAMES: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _checked(key: str, value: Any, place: Callable[[str], _Place]) -> Any:
    """The value in its type, or a `MachineError`."""
    spec = KEYS[key]
    if spec.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not spec.kind:
        name = _KIND_NAMES[spec.kind]
        raise MachineError(f"{key} = {value!r} is not {name}", location=place(key), hint=spec.doc)
    number = cast(float, value)
    if not spec.low <= number <= spec.high:
        raise MachineError(
            f"{key} = {value!r} is impossible: it must be between {spec.low:g} and {spec.high:g}",
            location=place(key),
            hint=spec.doc,
        )
    if spec.check is not None and (why := spec.check(value)):
        raise MachineError(f"{key} = {value!r} is impossible: it {why}", location=place(key), hint=spec.doc)
    return value


def _check_together(v: Mapping[str, Any], place: Callable[[str], _Place]) -> None:
    """Values that are fine one by one and impossible together."""
    banks = v["sram_banks"] * v["sram_bank_bytes_per_cycle"]
    if v["sram_kib"] * 1024 % banks:
        raise MachineError(
            f"sram_banks = {v['sram_banks']} is impossible: {v['sram_kib']} KiB do not divide into that many",
            location=place("sram_banks"),
            hint="sram_kib * 1024 must be a multiple of sram_banks * sram_bank_bytes_per_cycle",
        )
    others = (
        v["tcu_sram_read_bytes_per_cycle"] + v["tcu_sram_write_bytes_per_cycle"] + v["dram_gb_per_s"] / v["clock_ghz"]
    )
    if banks <= others:
        raise MachineError(
            f"sram_banks = {v['sram_banks']} is impossible: the banks deliver {banks} bytes a cycle, "
            f"the tensor unit and DRAM alone take {others:g}",
            location=place("sram_banks"),
            hint="more banks, wider banks, or slower ports",
        )
