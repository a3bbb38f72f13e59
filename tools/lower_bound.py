"""Recompute the lower bound of a PINN training step from layer shapes and a machine file alone.

    python tools/lower_bound.py --rank 16                        # Poisson: 2-256-256-256-1, 100 points x 512
    python tools/lower_bound.py --rank 0 --inputs 101 --json

It shares no code with pintac: `docs/MACHINE.md` section 5 is its specification, and the compiler's own bound is tested
against it. Per point it counts, for perturbed rows, padded 4x4x4 block products forward, for dX and for dW; one vector
pass over every value that a matmul reads quantised, forward and backward; and what cannot stay in SRAM across the
residual. Base rows, weight reconstruction and the optimiser (1-1.5 % of a step) are left out. `tcu_each_alone` is no
bound: what matmuls would take one after the other if the results of none left while another computes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path

MACHINES = Path(__file__).resolve().parents[1] / "pintac" / "machines"


def read_machine(name: str) -> dict[str, float]:
    """Key -> value of a machine file (a shipped name or a path), its base included."""
    path = MACHINES / f"{name}.toml"
    data = tomllib.loads((path if path.exists() else Path(name)).read_text(encoding="utf-8"))
    values = read_machine(data.pop("base")) if "base" in data else {}
    data.pop("name", None)
    return values | {key: entry["value"] if isinstance(entry, dict) else entry for key, entry in data.items()}


def up(a: int, b: int = 4) -> int:
    """a / b rounded up."""
    return -(-a // b)


def matmuls(inputs: int, width: int, hidden: int, outputs: int, rank: int) -> list[tuple[int, int]]:
    """(k, n) of each network matmul of a perturbed row, first to last. Rank 0: dense layers."""
    inner = [(width, width)] if rank == 0 else [(width, rank), (rank, width)]
    return [(inputs, width), *(inner * (hidden - 1)), (width, outputs)]


def bound(
    machine: dict[str, float], *, inputs: int, width: int, hidden: int, outputs: int, rank: int, evaluations: int,
    weight: int = 8, delta: int = 8, grad: int = 12, micro_ops: tuple[int, int] = (5, 7),
) -> dict[str, float]:  # fmt: skip
    """Cycles of one point, by unit. `micro_ops` of an activation's difference: forward and backward."""
    digits = int(machine["dpe_operand_bits"])
    engines = machine["bme_rows"] * machine["bme_cols"]

    def cycles(blocks: int, a: int, b: int) -> float:
        return blocks * up(a, digits) * up(b, digits) / engines

    layers = matmuls(inputs, width, hidden, outputs, rank)
    rows = up(evaluations)
    forward = sum(cycles(rows * up(k) * up(n), delta, weight) for k, n in layers)
    d_x = sum(cycles(rows * up(k) * up(n), grad, weight) for k, n in layers[1:])
    d_w = sum(cycles(rows * up(k) * up(n), delta, grad) for k, n in layers)
    written = [4 * rows * 4 * up(n) for _, n in layers]
    written += [4 * rows * 4 * up(k) for k, _ in layers[1:]]
    written += [16 * up(k) * up(n) for k, n in layers]
    # Results go to PSUM or to SRAM, as a schedule likes.
    rate = max(machine["psum_write_fp32_per_cycle"], machine["tcu_sram_write_bytes_per_cycle"] / 4)
    results = sum(written) / rate

    def alone(rows: int, columns: int, products: float) -> float:
        """Cycles of a matmul whose results nothing else hides."""
        return max(products, 16 * rows * columns / rate)

    each = sum(alone(rows, up(n), cycles(rows * up(k) * up(n), delta, weight)) for k, n in layers)
    each += sum(alone(rows, up(k), cycles(rows * up(k) * up(n), grad, weight)) for k, n in layers[1:])
    each += sum(alone(up(k), up(n), cycles(rows * up(k) * up(n), delta, grad)) for k, n in layers)

    # Every value that a matmul reads is quantised by a pass of its own: hidden activations (a chain of micro-ops) and
    # the values between the two matmuls of a tensor-train layer (none), once forward and once as a gradient.
    chain = int(machine["vpu_max_micro_ops"])
    activations = hidden * width
    between = 0 if rank == 0 else (hidden - 1) * rank
    passes = max(2, up(sum(micro_ops), chain)) * activations + 2 * between
    vpu = passes * evaluations / machine["vpu_lanes"]

    # Across the residual: what dW and the activations' derivatives read, quantised.
    def smx_bytes(columns: int) -> int:
        return rows * up(columns) * (2 * delta + 1)

    crossing = hidden * smx_bytes(width) + (0 if rank == 0 else (hidden - 1) * smx_bytes(rank)) + smx_bytes(inputs)
    weights = sum(up(k) * up(n) * (2 * weight + 1) for k, n in layers)
    accumulators = sum(4 * k * n for k, n in layers)
    psum = machine["psum_kib"] * 1024
    free = max(0.0, machine["sram_kib"] * 1024 - weights - max(0.0, accumulators - psum))
    away = max(0.0, crossing - free)  # bytes to spill (twice over the bus) or to recompute
    per_cycle = machine["dram_gb_per_s"] / machine["clock_ghz"]

    # Recomputing an activation takes its layer's last matmul and a pass; per byte all full-width ones cost the same, so
    # the best split is one number: the spilled bytes that make the longest unit shortest.
    k, n = layers[-2]
    tcu_per_byte = cycles(rows * up(k) * up(n), delta, weight) / smx_bytes(width)
    vpu_per_byte = width * evaluations / machine["vpu_lanes"] / smx_bytes(width)
    tcu = max(forward + d_x + d_w, results)

    def longest(spilled: float) -> float:
        again = away - spilled
        return max(tcu + again * tcu_per_byte, vpu + again * vpu_per_byte, 2 * spilled / per_cycle)

    low, high = 0.0, away
    for _ in range(200):  # `longest` is convex: falls, then rises with the bus
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if longest(a) <= longest(b) else (a, high)
    return {
        "cycles": longest(high),
        "tcu": tcu,
        "tcu_forward": forward,
        "tcu_backward": d_x + d_w,
        "results": results,
        "tcu_each_alone": each,
        "vpu": vpu,
        "dram": 2 * high / per_cycle,
        "macs_forward": float(sum(16 * up(k) * up(n) for k, n in layers)),
        "macs_dx": float(sum(16 * up(k) * up(n) for k, n in layers[1:])),
        "macs_dw": float(sum(16 * up(k) * up(n) for k, n in layers)),
        "crossing_bytes": float(crossing),
        "weight_bytes": float(weights),
        "accumulator_bytes": float(accumulators),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the bound of one configuration."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--machine", default="pinta", help="shipped name or path of a machine file")
    for name, value in (("inputs", 2), ("width", 256), ("hidden", 3), ("outputs", 1), ("rank", 16), ("points", 100)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--evaluations", type=int, default=512)
    p.add_argument("--bits", default="8/8/12", help="weight/delta/gradient")
    p.add_argument("--json", action="store_true")
    a = p.parse_args(arguments)
    weight, delta, grad = (int(b) for b in a.bits.split("/"))
    out = bound(
        read_machine(a.machine), inputs=a.inputs, width=a.width, hidden=a.hidden, outputs=a.outputs, rank=a.rank,
        evaluations=a.evaluations, weight=weight, delta=delta, grad=grad,
    )  # fmt: skip
    out["cycles_all_points"] = out["cycles"] * a.points
    if a.json:
        sys.stdout.write(json.dumps(out, indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.writelines(f"{name:20s} {value:14,.0f}\n" for name, value in out.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
