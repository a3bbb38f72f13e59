"""Tensor types: an element type and a logical shape, printed as `f32[100,2,256,256]`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pintac.errors import IRError, suggest

SMX_BITS = (4, 8, 12, 16)
"""Mantissa widths of the SMX formats (NUMERICS 1)."""

SMX_BLOCK = (4, 4)
"""Rows and columns of an SMX block."""

BLOCKS = (SMX_BLOCK, (8, 8), (1, 16), (16, 1), (1, 32), (32, 1))
"""Blocks that share an exponent. The machine has 4x4; the others are evaluated, for comparison (`pintac.blocks`)."""

DTYPES = (
    "f32",
    "i32",
    *(f"smx{bits}" for bits in SMX_BITS),
    *(f"smx{bits}_{rows}x{columns}" for rows, columns in BLOCKS[1:] for bits in SMX_BITS),
)

_TYPE = re.compile(r"\s*([A-Za-z]\w*)\s*\[\s*((?:\d+\s*(?:,\s*\d+\s*)*)?)\]\s*\Z")


@dataclass(frozen=True)
class TensorType:
    """Element type and logical shape of a value; `f32[]` is a scalar.

    `shape` is the user's shape. An SMX value occupies `padded_shape`, whose last two dimensions are whole 4x4 blocks;
    blocks of another shape are part of the element type: `smx8_1x32`.
    Raises IRError for an unknown element type, a negative size, or an SMX type with fewer than two dimensions.
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if self.dtype not in DTYPES:
            raise IRError(f"unknown element type {self.dtype!r}", hint=suggest(self.dtype, list(DTYPES)))
        if any(size < 0 for size in self.shape):
            raise IRError(f"negative size in the shape {self.shape}")
        if self.is_smx and len(self.shape) < 2:
            raise IRError(
                f"{self.dtype} needs at least two dimensions, the shape is {self.shape}",
                hint="SMX blocks are 4x4 over the last two dimensions; reshape to [1, n] first",
            )

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of logical elements."""
        return math.prod(self.shape)

    @property
    def is_smx(self) -> bool:
        return self.dtype.startswith("smx")

    @property
    def bits(self) -> int:
        """Bits of an element: the mantissa width of an SMX type (its exponents not counted), else 32."""
        return int(self.dtype[3:].partition("_")[0]) if self.is_smx else 32

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that share an exponent (of an SMX type)."""
        rows, _, columns = self.dtype.partition("_")[2].partition("x")
        return (int(rows), int(columns)) if columns else SMX_BLOCK

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """The shape in storage: SMX types round the last two dimensions up to whole blocks."""
        if not self.is_smx:
            return self.shape
        last = zip(self.shape[-2:], self.block, strict=True)
        return (*self.shape[:-2], *(-(-size // extent) * extent for size, extent in last))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def f32(*shape: int) -> TensorType:
    """`f32(2, 3)` is `f32[2,3]`."""
    return TensorType("f32", shape)


def parse_type(text: str) -> TensorType:
    """Inverse of `str(TensorType)`; raises IRError for anything else."""
    match = _TYPE.match(text)
    if match is None:
        raise IRError(
            f"not a type: {text!r}", hint="write an element type and a shape, such as f32[100,2] or smx8[4,4]"
        )
    dims = match.group(2)
    return TensorType(match.group(1), tuple(int(size) for size in dims.split(",")) if dims.strip() else ())
