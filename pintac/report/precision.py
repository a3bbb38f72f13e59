"""The bits that were chosen for each tensor, with predicted and observed errors, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pintac.passes.tensors import split_name


def precision_line(meta: Mapping[str, Any]) -> str | None:
    """One line on the choice that a program's metadata tell of; None where bits were given."""
    choice = meta.get("precision")
    if not choice:
        return None
    residual, gradient = (_largest(choice, what) for what in ("residual", "gradient"))
    return (
        f"chosen for errors up to {choice['budget']:g}: residual {residual[1]:.2g} ({residual[0]:.2g} predicted), "
        f"gradient {gradient[1]:.2g} ({gradient[0]:.2g})"
    )


def precision_table(meta: Mapping[str, Any]) -> str:
    """The table of `pintac explain` and of the closing report: errors, then bits by layer and kind of tensor.

    Several bits in a place are those of the factors of a tensor-train layer, first to last. Empty without a choice.
    """
    choice = meta.get("precision")
    if not choice:
        return ""
    rows: dict[str, dict[str, list[int]]] = {}
    for name, width in choice["bits"].items():
        layer, kind = split_name(name)
        rows.setdefault(layer, {}).setdefault(kind, []).append(width)
    kinds = sorted({kind for row in rows.values() for kind in row}, key=lambda kind: (len(kind.split(".")), kind))
    table = [["layer", *kinds]]
    table += [
        [layer, *(" ".join(map(str, row.get(kind, []))) or "-" for kind in kinds)]
        for layer, row in sorted(rows.items())
    ]
    errors = [["error", "predicted", "observed"]]
    errors += [
        [key, f"{predicted:.2e}", f"{choice['observed'][key]:.2e}"] for key, predicted in choice["predicted"].items()
    ]
    return _columns(errors) + _columns(table)


def _largest(choice: Mapping[str, Any], what: str) -> tuple[float, float]:
    """(predicted, observed), the largest of the gradients or of the residuals."""
    predicted, observed = (
        max(value for key, value in choice[kind].items() if key.endswith("/gradient") == (what == "gradient"))
        for kind in ("predicted", "observed")
    )
    return predicted, observed


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "".join(
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in rows
    )
