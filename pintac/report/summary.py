"""A training result as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary(result: Mapping[str, Any]) -> str:
    """A few lines of the JSON of `pintac train`; what does not apply is left out."""
    rows: list[tuple[str, str]] = []

    def add(name: str, text: str, *needed: Any) -> None:
        if all(value is not None for value in needed):
            rows.append((name, text))

    r = result
    l2, floating, twin = r["l2_rel"], r["l2_rel_float"], r["l2_rel_twin"]
    steps, bits = r["steps"], r["bits"]
    where = f"{r['engine']}, machine {r['machine']}" if r["machine"] else r["engine"]
    add("run", f"{steps} steps, seed {r['seed']}, {f'bits {bits}' if bits else 'fp32'}, {where}")
    if r["history"] and r["history"][-1][1] is not None:
        step, loss, _, values = r["history"][-1]
        beside = [other for at, other, *_ in r.get("history_twin") or () if at == step]
        add("loss", f"{loss:.3e} at step {step}" + "".join(f"  (float twin {other:.3e})" for other in beside))
        terms = {name.removeprefix("loss:"): part for name, part in values.items() if name.startswith("loss:")}
        if len(terms) > 1:
            add("terms", "  ".join(f"{name} {part:.3e}" for name, part in terms.items()))
    for name, value in r["parameters"].items():
        add("found", f"{name} = {_short(value)}")
    if l2 is not None:
        add("l2 error", f"{l2:.3e}" + (f"  (fp32 masters {floating:.3e})" if floating is not None else ""))
    if twin is not None:
        add("float twin", f"{twin:.3e}" + (f"  (quantised / twin {l2 / twin:.2f})" if l2 is not None else ""))
    if r.get("test"):
        add("measured", _measured(r["test"]))
    cycles, bound, joules = r["cycles_per_step"], r["lower_bound_cycles"], r["energy_j_per_step"]
    if cycles is not None:
        over = f", {cycles / bound:.3f} x lower bound" if bound else ""
        add("cycles", f"{cycles:,} a step{over}; {cycles * steps:,} in all")
        add("energy", f"{joules * 1e3:.4g} mJ a step; {joules * steps:.4g} J in all")
        add("note", "cycles and joules are model values (docs/MACHINE.md)")
    elif r["engine"] == "torch":
        add("cycles", "none: fp32 in torch runs no program")
    if r.get("saturated"):
        add("saturated", "some blocks exceeded the largest SMX exponent and were clipped (NUMERICS 1)")
    if r.get("nonfinite"):
        add("non-finite", "some blocks held an infinity or a NaN: the run diverged")
    add("simulation", f"{1e3 * (r['sim_seconds_per_step'] or 0):.3g} ms a step", r["sim_seconds_per_step"])
    if r["diagnostics"]:
        add("warnings", ", ".join(found["kind"] for found in r["diagnostics"]) + " (said above, and in the JSON)")
    if r["stopped"]:
        add("stopped", r["stopped"])
    for note in r["notes"]:
        add("failed", note)
    if r["interrupted"] and not r["notes"]:
        add("interrupted", f"after {steps} steps")
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in rows)


def _short(value: Any) -> str:
    """A number, or nested lists of them, to six digits."""
    return f"{value:.6g}" if isinstance(value, float) else f"[{', '.join(map(_short, value))}]"


def _measured(test: Mapping[str, Any]) -> str:
    """Where the error is from."""
    where = f"of the term {test['term']!r}" if test["term"] else "of the problem's test_sampler or test_data"
    said = "" if test["inside"] else ", a fixed set or a surface: test_sampler(self) would say what is true elsewhere"
    return f"on {test['points']:,} points {where}{said}"
