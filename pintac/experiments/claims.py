"""Measures that claims share: an error, a ratio of two rows, the better of two rows in everything."""

from __future__ import annotations

from collections.abc import Callable

from pintac.experiments.results import Results, largest, quotient
from pintac.experiments.rows import Row
from pintac.experiments.tables import Claim


def error_below(text: str, row: Row, limit: float, source: str, advice: tuple[float, str] | None = None) -> Claim:
    """The mean error of a row stays below a limit."""
    return Claim(text, lambda results: results.l2(row), limit, "below", advice, (row,), source)


def error_ratio(
    text: str, over: Row, under: Row, limit: float, source: str, advice: tuple[float, str] | None = None
) -> Claim:
    """One row's mean error is at least `limit` times another's, over the seeds that both have."""
    return Claim(text, lambda results: results.l2_ratio(over, under), limit, "above", advice, (over, under), source)


def twin_ratio(text: str, row: Row, limit: float, source: str) -> Claim:
    """The cost of quantisation: the geometric mean of quantised over float twin."""
    return Claim(text, lambda results: results[row].ratio, limit, "below", None, (row,), source, with_twins=True)


def skill_below(text: str, row: Row, limit: float, source: str) -> Claim:
    """Error over that of the best affine function."""
    return Claim(text, lambda results: results[row].skill, limit, "below", None, (row,), source)


def dominates(text: str, row: Row, other: Row, source: str) -> Claim:
    """Better in error and in cycles of the whole run: the worse of the two quotients is below 1."""

    def measure(results: Results) -> float | None:
        error = quotient(results[row].l2, results[other].l2)
        return largest(error, quotient(results[row].cycles_run, results[other].cycles_run))

    return Claim(text, measure, 1.0, "below", None, (row, other), source)


def saving(text: str, over: Row, under: Row, limit: float, source: str) -> Claim:
    """Cycles of a step of one row are at least `limit` times another's."""
    return Claim(text, lambda results: results.cycles_ratio(over, under), limit, "above", None, (over, under), source)


def cost_quotient(key: str, over: Row, under: Row) -> Callable[[Results], float | None]:
    """The quotient of a cost of a step of two rows, such as `macs_per_step`."""
    return lambda results: quotient(results[over].of_step(key), results[under].of_step(key))
