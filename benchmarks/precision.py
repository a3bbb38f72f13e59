"""Predicted and observed errors of bits by tensor: budgets and uniform bits, on a problem's calibration points.

No training and no schedule: the cycles of the search's cost model and the errors of docs/PRECISION.md, the largest over
both states and all terms.

    python benchmarks/precision.py poisson2d --quant even-odd --set estimator=orthonormal --set K=4
    python benchmarks/precision.py hjb20-wave --quant even-odd --set estimator=orthonormal --set K=42 --tensors
"""

from __future__ import annotations

import argparse
import time

from pintac.api.calibration import Calibration, calibration_states
from pintac.api.precision import before_budget, search
from pintac.api.precision_cost import Costs
from pintac.errors import PassError
from pintac.frontend import load_step
from pintac.frontend.tracing import trace_step
from pintac.machine import Machine
from pintac.passes import PipelineOptions, default_pipeline
from pintac.passes.insert_smx import InsertSMX
from pintac.setting import setting_value

UNIFORM = ("8/16/8/12", "8/8/8/12", "8/16/4/12", "8/16/8/8", "12/16/12/12")
BUDGETS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem")
    parser.add_argument("--quant", choices=["diff", "even-odd", "naive"], default="diff")
    parser.add_argument("--set", action="append", default=[], metavar="N=V")
    parser.add_argument("--machine", default="pinta")
    parser.add_argument("--tensors", action="store_true", help="also the error of each tensor alone")
    options = parser.parse_args()
    step = load_step(options.problem, **{k: setting_value(v) for k, _, v in (s.partition("=") for s in options.set)})
    passes = default_pipeline(PipelineOptions(quant=options.quant))
    start = time.perf_counter()
    states = calibration_states(step)
    trained = time.perf_counter()
    calibration = Calibration(step, passes, states)
    measured = time.perf_counter()
    graph, names = before_budget(trace_step(step)[0], passes)
    costs = Costs(graph, names, Machine.load(options.machine))
    print(
        f"{options.problem}: {len(calibration.tensors)} tensors; states {trained - start:.1f} s, sensitivities "
        f"{measured - trained:.1f} s; the vector unit takes {costs.vector_unit:,.0f} cycles\n"
    )
    print("| bits | cycles | residual predicted | observed | gradient predicted | observed |")
    print("|---|---|---|---|---|---|")
    for text in UNIFORM:
        roles = dict(zip(("weight", "base", "delta", "grad"), map(int, text.split("/")), strict=True))
        bits = {name: roles[role] for name, role in calibration.roles.items()}
        p, o = calibration.predicted(bits), calibration.on_machine(bits)
        _row(text, costs.cost(bits), p.residual, o.residual, p.gradient, o.gradient)
    for budget in BUDGETS:
        try:
            choice = search(calibration, costs, InsertSMX(policy="auto", budget=budget), {})
        except PassError as error:
            print(f"| auto:{budget:g} | {error.message} | | | | |")
            continue
        p, o = calibration.predicted(choice.bits), calibration.on_machine(choice.bits)
        _row(f"auto:{budget:g}", costs.cost(choice.bits), p.residual, o.residual, p.gradient, o.gradient)
    if options.tensors:
        print("\n| tensor | " + " | ".join(f"4 bits, {s} {w}" for s, w in calibration.keys) + " |")
        print("|---|" + "---|" * len(calibration.keys))
        for name in calibration.tensors:
            print(f"| {name} | " + " | ".join(f"{e**0.5:.1e}" for e in calibration.energies[name][4]) + " |")


def _row(label: str, cycles: float, *errors: float) -> None:
    print(f"| {label} | {cycles:,.0f} | " + " | ".join(f"{error:.1e}" for error in errors) + " |", flush=True)


if __name__ == "__main__":
    main()
