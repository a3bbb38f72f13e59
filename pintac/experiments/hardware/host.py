"""This host: what it is, what it draws, and measurements in processes of their own."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pintac.errors import UsageError
from pintac.experiments.hardware.rows import TDP_CORES, TDP_WATTS, WATTS_PER_CORE, HostRow

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
"""malloc keeps what it was given: large tensors otherwise cost page faults every step."""

WATTS_VARIABLE, GPU_WATTS_VARIABLE = "PINTAC_HOST_WATTS", "PINTAC_GPU_WATTS"
"""Environment: watts of a busy core, watts of the GPU, in place of the defaults."""

_POWERCAP = Path("/sys/class/powercap")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def load_average() -> float | None:
    """Processes that wanted to run in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def joules_counter(folder: Path = _POWERCAP) -> Callable[[], float] | None:
    """A function that reads the packages' energy so far in joules (RAPL), None where it cannot be read.

    The counters wrap after minutes to hours; a wrap during a measurement gives a negative figure, which is refused.
    """
    files = sorted(folder.glob("intel-rapl:[0-9]/energy_uj")) if folder.is_dir() else []
    try:
        for file in files:
            int(file.read_text())
    except (OSError, ValueError):
        return None
    if not files:
        return None
    return lambda: sum(int(file.read_text()) for file in files) * 1e-6


def resident_bytes() -> tuple[int, int]:
    """Memory of this process now and at its highest, as the system counts it; zeros where it does not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


def watts(variable: str, default: float | None) -> float | None:
    """Watts from the environment, else the default. Raises UsageError for what is no positive number."""
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e5:
        raise UsageError(f"{variable}={text}: expected watts", hint=f"{variable}=5.5")
    return value


def describe() -> dict[str, Any]:
    """Date, processor, threads, versions, and how energy is counted."""
    from pintac.frontend.timed import has_gpu, torch_version

    per_core = watts(WATTS_VARIABLE, WATTS_PER_CORE)
    given = WATTS_VARIABLE in os.environ
    source = WATTS_VARIABLE if given else f"assumed: {TDP_WATTS:g} W TDP over {TDP_CORES} cores"
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "processors": processors(),
        "torch": torch_version(),
        "python": platform.python_version(),
        "gpu": has_gpu(),
        "watts_per_core": per_core,
        "watts_source": source,
        "gpu_watts": watts(GPU_WATTS_VARIABLE, None),
        "energy": "time x TDP" if joules_counter() is None else "measured (RAPL, all packages)",
    }


def run_row(
    problem: str, settings: Mapping[str, object], row: HostRow, budget: float, timeout: float
) -> dict[str, Any]:
    """Measure an arrangement once, in a process of its own; `{"note": why}` if there is nothing to measure."""
    threads = row.threads or processors()
    task = {
        "problem": problem, "settings": dict(settings), "method": row.method, "mode": row.mode, "chunk": row.chunk,
        "device": row.device, "threads": threads, "passes": row.passes, "scheme": row.scheme, "budget": budget,
        "memory": row.memory,
    }  # fmt: skip
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment = {**os.environ, **counts, **(KEEP_MEMORY if row.keep_memory else {})}
    load = load_average()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pintac.experiments.hardware.worker", json.dumps(task)],
            env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"note": f"no step within {timeout:.0f} s"}
    if done.returncode:
        return {"note": "failed: " + (done.stderr.strip().splitlines() or ["no message"])[-1][:120]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "load": load}
