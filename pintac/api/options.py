"""The choices of a compilation: quantisation, contraction order, precisions, machine."""

from __future__ import annotations

from dataclasses import dataclass

from pintac.errors import UsageError, suggest

QUANT = ("diff", "naive", "none")
SCHEMES = ("prs", "sequential", "dense")
SAVED = ("smx", "f32")
SMX_BITS = (4, 8, 12, 16)


@dataclass(frozen=True)
class Bits:
    """Mantissa bits of each role of a matmul operand, written W/B/D/G (NUMERICS 9)."""

    weight: int = 8
    base: int = 16
    delta: int = 8
    grad: int = 12

    @classmethod
    def parse(cls, text: str) -> Bits:
        """`8/16/8/12`. Raises `UsageError` for anything but four SMX widths."""
        parts = text.split("/")
        if len(parts) != 4 or any(not p.isdigit() or int(p) not in SMX_BITS for p in parts):
            raise UsageError(
                f"bits {text!r} are not four SMX widths",
                hint="weight/base/delta/gradient, each 4, 8, 12 or 16: the default is 8/16/8/12, the paper's 8/8/8/12",
            )
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.weight}/{self.base}/{self.delta}/{self.grad}"


@dataclass(frozen=True)
class CompileOptions:
    """What `compile` does with a training step.

    quant    "diff" (DiffQuant), "naive" (x + delta is quantised itself), "none" (fp32 in torch, no program)
    scheme   order of tensor-train contractions: "prs", "sequential", or "dense" (tensor trains multiplied out)
    bits     precisions by role
    saved    values kept for the backward pass: "smx" (what the forward matmul read) or "f32"
    passes   a pipeline in place of the default one
    """

    quant: str = "diff"
    scheme: str = "prs"
    bits: Bits = Bits()
    saved: str = "smx"
    passes: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("quant", self.quant, QUANT),
            ("scheme", self.scheme, SCHEMES),
            ("saved", self.saved, SAVED),
        ):
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown", hint=suggest(str(value), list(known)))
