"""Nodes of graphs: one op, the value it makes, and where in the user's source it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pintac.ir.attrs import Attrs
from pintac.ir.types import TensorType

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
"""What a node may be called, so that the text form can write it."""


@dataclass(frozen=True)
class Location:
    """Where an op comes from: the user's file and line (from 1), column if known, and the source line for messages.

    `text` is for display: it is neither compared nor printed.
    """

    file: str
    line: int
    col: int = 0
    text: str = field(default="", compare=False)

    @classmethod
    def synthetic(cls, reason: str) -> Location:
        """The location of an op that no source line asked for: file `<reason>`, line 0."""
        return cls(f"<{reason}>", 0)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.col}" if self.col else "")


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """One op and the value it makes. Identity is the node itself; `name` is unique in its graph (without %)."""

    name: str
    op: str
    operands: tuple[Node, ...]
    attrs: Attrs
    type: TensorType
    loc: Location

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def __repr__(self) -> str:
        return f"%{self.name} = {self.op}({', '.join('%' + operand.name for operand in self.operands)}) : {self.type}"
