"""Assembly text to programs."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from pintac import isa
from pintac.asm.printer import enum_of
from pintac.errors import AssemblyError, ProgramError, suggest
from pintac.isa import DEFS, MNEMONICS, Instruction, MicroOp, Opcode, Queue
from pintac.isa.encoding import encode
from pintac.program import FORMAT, Origin, Program, Symbol
from pintac.program_meta import check_meta
from pintac.program_rules import validated

_DTYPE_OF = {"f32": np.float32, "i32": np.int32, "u32": np.uint32}
_SELECTOR = {name: number for number, name in enumerate(isa.SELECTORS) if name != "-"}
_READABLE = {
    "_NL": "end of line",
    "__ANON_0": ".array",
    "STRING": "a quoted string",
    "NUMBER": "a number",
    "NAME": "a name",
    "DATA": "a |data line",
    "DIRECTIVE": "a directive",
    "META": ".meta",
    "EQUAL": "=",
    "LBRACE": "{",
    "RBRACE": "}",
    "LPAR": "(",
    "RPAR": ")",
    "COLON": ":",
    "AT": "@",
}


@dataclass(frozen=True)
class Position:
    """A line of the assembly text."""

    file: str
    line: int


@cache
def _grammar() -> Lark:
    text = resources.files("pintac.asm").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", maybe_placeholders=False)


def assemble(text: str, name: str = "<assembly>") -> Program:
    """The validated program of assembly text. Raises `AssemblyError` with the line of the text called `name`."""
    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        raise _syntax_error(error, text, name) from None
    return _Assembler(name).program(tree)


def _syntax_error(error: UnexpectedInput, text: str, name: str) -> AssemblyError:
    line = min(max(getattr(error, "line", 1), 1), max(text.count("\n"), 0) + 1)
    expected: set[str] = set()
    if isinstance(error, UnexpectedCharacters):
        what, expected = f"unexpected character {error.char!r}", error.allowed or set()
    elif isinstance(error, UnexpectedToken):
        what, expected = f"unexpected {str(error.token).strip() or 'end of line'!r}", error.accepts or error.expected
    else:
        what = "the text ends in the middle of a statement"
    named = sorted(_READABLE.get(e, e.lower()) for e in expected if not e.startswith("__IGNORE"))
    hint = ", ".join(named) if len(named) < 12 else ""
    return AssemblyError(what, location=Position(name, line), hint=f"expected: {hint}" if hint else None)


class _Assembler:
    """Collects what statements say, then builds the program."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instructions: list[Instruction] = []
        self.words: list[bytes] = []
        self.lines: list[int] = []
        self.origins: list[Origin | None] = []
        self.begins: dict[str, int] = {}
        self.entries: dict[str, tuple[int, int]] = {}
        self.semaphores: list[isa.Semaphore] = []
        self.symbols: dict[str, Symbol] = {}
        self.arrays: dict[str, dict[str, np.ndarray]] = {t: {} for t in ("table", "init", "data", "test_x", "test_u")}
        self.single: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self.meta_line = 1
        self.line = 1

    def fail(self, message: str, hint: str | None = None) -> AssemblyError:
        """An error at the current line."""
        return AssemblyError(message, location=Position(self.name, self.line), hint=hint)

    def program(self, tree: Tree[Token]) -> Program:
        """Run all statements and validate the result."""
        statements: Mapping[str, Callable[[Tree[Token]], None]] = {
            "meta": self._meta,
            "array": self._array,
            "directive": self._directive,
            "instruction": self._instruction,
        }
        for statement in tree.children:
            assert isinstance(statement, Tree)
            first = next(statement.scan_values(lambda v: isinstance(v, Token)))
            self.line = first.line or 1
            statements[statement.data](statement)
        self._check_meta()
        for name in self.begins:
            raise self.fail(f".begin {name!r} has no .end")
        for needed in ("memory", "params"):
            if needed not in self.single:
                raise self.fail(f"there is no .{needed} directive")
        if not self.arrays["table"]:
            raise self.fail("there is no .array table, the parameter table")
        if None in self.origins and any(self.origins):
            self.line = self.lines[self.origins.index(None)]
            raise self.fail("this instruction has no origin (@ ...) and others have one", hint="all of them, or none")
        dram, sram, psum = self.single["memory"]
        program = Program(
            code=b"".join(self.words),
            entries=self.entries,
            dram_bytes=dram,
            sram_bytes=sram,
            psum_bytes=psum,
            semaphores=tuple(self.semaphores),
            symbols=self.symbols,
            params=self.single["params"],
            param_table=self.arrays["table"][""],
            init=self.arrays["init"],
            data=self.arrays["data"],
            test_x=self.arrays["test_x"].get(""),
            test_u=self.arrays["test_u"].get(""),
            debug=tuple(origin for origin in self.origins if origin is not None),
            meta=self.meta,
        )
        try:
            return validated(program)
        except ProgramError as error:
            match = re.match(r"instruction (\d+)", error.message)
            place = Position(self.name, self.lines[int(match[1])]) if match else Position(self.name, 1)
            raise AssemblyError(error.message, location=place, hint=error.hint) from None

    # --- directives ---------------------------------------------------------------------------------------------------

    def _set(self, key: str, value: Any) -> None:
        if key in self.single:
            raise self.fail(f"a second .{key}")
        self.single[key] = value

    def _meta(self, tree: Tree[Token]) -> None:
        text = str(tree.children[0]).removeprefix(".meta")
        try:
            value = json.loads(text)
            if not isinstance(value, dict):
                raise self.fail(".meta must be a JSON object")
            self.meta_line = self.line
            self._merge(self.meta, value, ())
        except ValueError as error:
            raise self.fail(f".meta is not JSON: {error}") from None
        except RecursionError:
            raise self.fail(".meta is nested too deep") from None

    def _check_meta(self) -> None:
        """What the `.meta` lines say together."""
        try:
            check_meta(self.meta)
        except ProgramError as error:
            self.line = self.meta_line
            raise self.fail(error.message, hint=error.hint) from None

    def _merge(self, into: dict[str, Any], value: dict[str, Any], path: tuple[str, ...]) -> None:
        """Add the keys of one `.meta` to those of the ones before it."""
        for key, entry in value.items():
            if isinstance(entry, dict) and isinstance(into.setdefault(key, {}), dict):
                self._merge(into[key], entry, (*path, key))
            elif key in into:
                raise self.fail(f"a second {'.'.join((*path, key))} in .meta")
            else:
                into[key] = entry

    def _directive(self, tree: Tree[Token]) -> None:
        directive, *rest = tree.children
        fields: dict[str, int] = {}
        for field in (t for t in rest if isinstance(t, Tree)):
            key = str(field.children[0])
            if key in fields:
                raise self.fail(f"{key} is given twice")
            fields[key] = self._integer(field.children[1])
        words = [t for t in rest if isinstance(t, Token)]
        kinds = "".join(t.type[0] for t in words)  # S string, N number or name, T type, A arrow
        shape = (str(directive), kinds, tuple(sorted(fields)))
        match shape:
            case (".pintac", "N", ()):
                if self._integer(words[0]) != FORMAT:
                    raise self.fail(f"format {words[0]}: this pintac reads {FORMAT}")
            case (".isa", "S", ()):
                if self._string(words[0]) != isa.isa_hash():
                    raise self.fail(f"made for ISA {self._string(words[0])}, this pintac has {isa.isa_hash()}")
            case (".memory", "", ("dram", "psum", "sram")):
                self._set("memory", (fields["dram"], fields["sram"], fields["psum"]))
            case (".params", _, ()) if set(kinds) == {"S"}:
                self._set("params", tuple(map(self._string, words)))
            case (".semaphore", "NNANS" | "NNAN", ("capacity", "credit")):
                source, target = (self._member(Queue, str(words[i]), "queue") for i in (1, 3))
                label = self._string(words[4]) if len(words) == 5 else ""
                self.semaphores.append(
                    isa.Semaphore(
                        self._integer(words[0]),
                        Queue(source),
                        Queue(target),
                        fields["credit"],
                        fields["capacity"],
                        label,
                    )
                )
            case (".symbol", "STN", ("addr",) | ("addr", "eaddr")):
                name, (dtype, dims) = self._string(words[0]), self._type(words[1])
                if name in self.symbols:
                    raise self.fail(f"a second symbol {name!r}")
                self.symbols[name] = Symbol(name, fields["addr"], dims, dtype, str(words[2]), fields.get("eaddr", 0))
            case (".begin", "S", ()):
                name = self._string(words[0])
                if name in self.begins or name in self.entries:
                    raise self.fail(f"a second entry {name!r}")
                self.begins[name] = len(self.words)
            case (".end", "S", ()):
                name = self._string(words[0])
                if name not in self.begins:
                    raise self.fail(f".end {name!r} without .begin")
                self.entries[name] = (self.begins.pop(name), len(self.words))
            case _:
                raise self.fail(f"malformed {directive}", hint="`pintac dis` shows the form of each directive")

    def _array(self, tree: Tree[Token]) -> None:
        head, *rest = tree.children
        title = str(head)
        words = [t for t in rest if isinstance(t, Token)]
        name = self._string(words.pop(0)) if words[0].type == "STRING" else ""
        dtype, shape = self._type(words.pop(0))
        if title not in self.arrays or dtype not in _DTYPE_OF or bool(name) != (title in ("init", "data")):
            raise self.fail("arrays are: table, init NAME, data NAME, test_x, test_u; of f32, i32 or u32")
        if name in self.arrays[title]:
            raise self.fail(f"a second array {title} {name}")
        try:
            lines = words[0].split("|")[1:]
            raw = b"".join(base64.b64decode(line.strip(), validate=True) for line in lines)
        except binascii.Error as error:
            raise self.fail(f"data are not base64: {error}") from None
        array = np.frombuffer(raw, np.uint8).copy()
        size = 4 * math.prod(shape)
        if array.size != size:
            raise self.fail(f"{array.size} bytes of data for {dtype}{list(shape)}, which has {size}")
        self.arrays[title][name] = array.view(_DTYPE_OF[dtype]).reshape(shape)

    # --- instructions -------------------------------------------------------------------------------------------------

    def _instruction(self, tree: Tree[Token]) -> None:
        mnemonic = str(tree.children[0])
        if mnemonic not in MNEMONICS:
            raise self.fail(f"unknown instruction {mnemonic!r}", hint=suggest(mnemonic, list(MNEMONICS)))
        opcode = MNEMONICS[mnemonic].opcode
        values: dict[str, int] = {}
        for name, value in self._fields(tree):
            if name not in DEFS[opcode].fields:
                raise self.fail(f"{mnemonic} has no field {name!r}", hint=suggest(name, list(DEFS[opcode].fields)))
            if name in values:
                raise self.fail(f"{name} is given twice")
            values[name] = self._value(opcode, name, value)
        try:
            self.words.append(encode(Instruction(opcode, values)))
        except ProgramError as error:
            raise self.fail(error.message) from None
        self.lines.append(self.line)
        origin = next(tree.find_data("origin"), None)
        if origin is None:
            self.origins.append(None)
        else:
            op, file, line = origin.children
            number = self._integer(line)
            if not 0 <= number < 1 << 31:
                raise self.fail(f"line {number} of {file} is impossible")
            self.origins.append(Origin(self._string(op), self._string(file), number))

    def _fields(self, tree: Tree[Token]) -> Iterator[tuple[str, Tree[Token] | Token]]:
        for part in tree.children[1:]:
            if isinstance(part, Tree) and part.data == "field":
                yield str(part.children[0]), part.children[1]
            elif isinstance(part, Tree) and part.data == "group":
                for field in part.children[1:]:
                    assert isinstance(field, Tree)
                    yield f"{part.children[0]}.{field.children[0]}", field.children[1]

    def _value(self, opcode: Opcode, name: str, value: Tree[Token] | Token) -> int:
        names = enum_of(opcode, name)
        if isinstance(value, Tree):
            if not name.startswith("uop"):
                raise self.fail(f"{name} is not a micro-operation")
            op, *selectors = value.children
            if len(selectors) > 3:
                raise self.fail(f"{name}: a micro-operation has at most three operands")
            number = self._member(MicroOp, str(op), "micro-operation")
            return isa.micro_op(MicroOp(number), *map(self._selector, selectors))
        if name in ("sel0", "sel1"):
            return self._selector(value)
        if DEFS[opcode].fields[name].is_float and not value.startswith("0x"):
            return isa.float_bits(self._float(value))
        if names is not None and value.type == "NAME":
            return self._member(names, str(value), name)
        return self._integer(value)

    # --- tokens -------------------------------------------------------------------------------------------------------

    def _member(self, names: type[IntEnum], text: str, what: str) -> int:
        known = {m.name.lower(): m.value for m in names}
        if text not in known:
            raise self.fail(f"unknown {what} {text!r}", hint=suggest(text, list(known)))
        return int(known[text])

    def _selector(self, token: Tree[Token] | Token) -> int:
        text = str(token)
        if text in _SELECTOR:
            return _SELECTOR[text]
        if re.fullmatch(r"#\d+", text) and int(text[1:]) < 32:
            return int(text[1:])
        raise self.fail(f"{text!r} is not a value", hint="r0-r7, s0-s4, i0-i3, p0-p2")

    def _integer(self, token: Tree[Token] | Token) -> int:
        try:
            return int(str(token), 0)
        except ValueError:
            raise self.fail(f"{token} is not an integer") from None

    def _float(self, token: Token) -> float:
        try:
            return float(token)
        except ValueError:
            raise self.fail(f"{token} is not a number") from None

    def _string(self, token: Tree[Token] | Token) -> str:
        try:
            text = str(json.loads(str(token)))
            text.encode()  # half of a surrogate pair is no character
        except ValueError as error:
            raise self.fail(f"malformed string {token}: {error}") from None
        return text

    def _type(self, token: Token) -> tuple[str, tuple[int, ...]]:
        dtype, _, dims = str(token).rstrip("]").partition("[")
        try:
            return dtype, tuple(int(n) for n in dims.split(",")) if dims else ()
        except ValueError:
            raise self.fail(f"malformed type {token}") from None
