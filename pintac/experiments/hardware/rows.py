"""What `reproduce hardware` measures in torch and compiles for PINTA: declarations, nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RUN_STEPS = 1000
"""Steps of a whole run: the schedule of every problem."""

TDP_WATTS, TDP_CORES = 350.0, 64
"""Assumption: a server processor of the class of this host, all cores busy (Intel's 5th generation Xeon, 64 cores)."""

WATTS_PER_CORE = TDP_WATTS / TDP_CORES
"""Charged to a host for each busy core where energy cannot be measured; the whole socket is `TDP_CORES` times it."""

NESTED, FORWARD, TAYLOR, BATCHED, SAMPLED = "nested", "forward", "taylor", "batched", "sampled"

METHOD_NAMES: Mapping[str, str] = {
    NESTED: "nested autograd",
    BATCHED: "nested autograd, vectorised",
    TAYLOR: "torch.func jets",
    FORWARD: "forward Laplacian",
    SAMPLED: "SE, fp32",
}
"""Method of `pintac.frontend.timed` -> its name in tables; the first four are automatic differentiation."""

AD_METHODS = (NESTED, BATCHED, TAYLOR, FORWARD)

PAPER_SPEED_UP = "5.5x - 83.5x"
PAPER_ENERGY = "159.6x - 2324.1x"
"""arXiv 2512.09202, against full-precision training by automatic differentiation, over all its problems."""


@dataclass(frozen=True)
class HostRow:
    """One arrangement of a step in torch. `threads` 0 stands for all processors."""

    method: str
    mode: str = "eager"
    threads: int = 1
    chunk: int | None = None
    device: str = "cpu"
    keep_memory: bool = True
    passes: str = "expand-operators"
    scheme: str = "prs"
    memory: bool = True
    note: str = ""

    def key(self, processors: int) -> str:
        """Its name in the results."""
        threads = self.threads or processors
        where = "GPU" if self.device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"
        parts = [METHOD_NAMES.get(self.method, self.method), self.mode, where]
        parts += [f"{self.chunk} points at a time"] if self.chunk is not None else []
        parts += [] if self.keep_memory else ["malloc as it comes"]
        return ", ".join([*parts, *([self.note] if self.note else [])])


def host_rows(chunk: int, quick: bool = False, gpu: bool = False) -> list[HostRow]:
    """Every arrangement of a problem's step; `chunk` points at a time keep the samples in cache."""
    rows = [HostRow(NESTED), HostRow(FORWARD), HostRow(SAMPLED, chunk=chunk)]
    if not quick:
        rows += [
            HostRow(TAYLOR),
            HostRow(BATCHED),
            HostRow(SAMPLED),
            HostRow(SAMPLED, keep_memory=False, memory=False),
            *(HostRow(method, threads=0) for method in (NESTED, FORWARD, SAMPLED)),
            HostRow(SAMPLED, threads=0, chunk=chunk),
            *(HostRow(method, "flat") for method in (NESTED, FORWARD)),
            *(HostRow(method, "compiled", threads) for method in (NESTED, FORWARD) for threads in (1, 0)),
            HostRow(SAMPLED, "compiled", chunk=chunk),
        ]
    if gpu:
        rows += [HostRow(m, mode, device="cuda") for m in (NESTED, FORWARD, SAMPLED) for mode in ("eager", "compiled")]
    return rows


@dataclass(frozen=True)
class Workload:
    """A problem of the table. `chunk` divides its points; `improved` are the settings of the improved recipe."""

    problem: str
    title: str
    chunk: int
    improved: Mapping[str, object]
    paper: str
    quick: Mapping[str, object] = field(default_factory=dict)


WORKLOADS: tuple[Workload, ...] = (
    Workload("poisson2d", "2-D Poisson", 4, {"estimator": "orthonormal", "K": 4, "lr": 3e-3}, "-"),
    Workload("hjb20", "20-D HJB", 4, {"K": 16}, "-"),
    Workload("heat100", "100-D heat", 5, {"estimator": "orthonormal", "K": 8, "lr": 3e-3}, "-"),
)
"""The problems of the paper's hardware comparison."""


@dataclass(frozen=True)
class Configuration:
    """A program for PINTA: settings of the problem, options of `compile`, keys of the machine."""

    name: str
    title: str
    options: Mapping[str, str] = field(default_factory=dict)
    improved: bool = False
    machine: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


PAPER_BITS = "8/8/8/12"
PAPER = Configuration("paper", "PRS R = 16, 8/8/8/12, K = 512 (the paper's)", {"bits": PAPER_BITS})
CONFIGURATIONS: tuple[Configuration, ...] = (
    PAPER,
    Configuration("dense", "dense, 8/8/8/12, K = 512", {"bits": PAPER_BITS, "scheme": "dense"}),
    Configuration(
        "improved", "improved: few samples, even/odd, 8/16/8/12", {"quant": "even-odd"}, improved=True
    ),
    Configuration(
        "one micro-op", "the paper's, one micro-op an instruction", {"bits": PAPER_BITS},
        machine=("vpu_max_micro_ops=1",),
    ),
    Configuration(
        "improved, one micro-op", "improved, one micro-op an instruction", {"quant": "even-odd"}, improved=True,
        machine=("vpu_max_micro_ops=1",),
    ),
)  # fmt: skip

CONTRACTIONS: tuple[Configuration, ...] = tuple(
    Configuration(f"{scheme}, R = {rank}", scheme, {"bits": PAPER_BITS, "scheme": scheme}, settings={"rank": rank})
    for rank in (8, 16, 32)
    for scheme in ("prs", "sequential")
)
"""Both orders of contraction, of 2-D Poisson."""

_GRADIENTS = "differentiate,lower-delta,{smx}canonicalize,dce,fold-accumulate"
_SMX = "insert-smx{weight=8,base=8,delta=8,grad=12},"


def _passes(order: str, form: str | None = None, quantised: bool = False) -> str:
    split = f"split-stein{{form={form}}}," if form else ""
    rest = _GRADIENTS.format(smx=_SMX if quantised else "")
    return f"expand-operators,{split}reorder-tt{{order={order}}},{rest}"


def overhead_rows(chunk: int) -> dict[str, HostRow]:
    """The same step of 2-D Poisson on a commodity processor, part by part; gradients by the same passes everywhere."""

    def row(passes: str, scheme: str = "prs") -> HostRow:
        return HostRow("explicit", chunk=chunk, passes=passes, scheme=scheme, memory=False)

    return {
        "dense": row(_passes("prs"), "dense"),
        "TT, PRS": row(_passes("prs")),
        "TT, sequential": row(_passes("sequential")),
        "TT, PRS, DiffQuant's two paths, not quantised": row(_passes("prs", "plus-minus")),
        "TT, PRS, even/odd paths, not quantised": row(_passes("prs", "even-odd")),
        "TT, PRS, quantised naively (emulated)": row(_passes("prs", quantised=True)),
        "TT, PRS, DiffQuant (emulated)": row(_passes("prs", "plus-minus", quantised=True)),
    }
