"""One arrangement of a torch step, measured in a process of its own: JSON in as the argument, JSON out.

    python -m pintac.experiments.hardware.worker '{"problem": "poisson2d", "method": "nested", ...}'

A warm process: the first steps (compilation included) are not in the seconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

from pintac.experiments.hardware.host import joules_counter, resident_bytes
from pintac.passes import PassManager, parse_pipeline


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """Median seconds of a step, and what else can be read: joules, peak memory of torch and of the process."""
    passes = PassManager(parse_pipeline(task["passes"]))
    from pintac.frontend import load_step
    from pintac.frontend.timed import Arrangement, TimedStep, peak_bytes, seconds_of, set_threads

    set_threads(task["threads"])
    scheme = {} if ":" in task["problem"] else {"scheme": task["scheme"]}
    training = load_step(task["problem"], **task["settings"], **scheme)
    how = Arrangement(task["method"], task["mode"], task["chunk"], task["device"])
    start = time.perf_counter()
    step = TimedStep(training, passes.run, how)
    before, _ = resident_bytes()
    step()
    first = time.perf_counter() - start
    counter = joules_counter()
    seconds = seconds_of(step, task["budget"], warm=1)
    joules = None
    if counter is not None:
        again = time.perf_counter()
        start_joules = counter()
        steps = 0
        while time.perf_counter() - again < task["budget"]:
            step()
            steps += 1
        joules = (counter() - start_joules) / steps
    _, most = resident_bytes()
    return {
        "seconds": statistics.median(seconds),
        "steps": len(seconds),
        "first_seconds": first,
        "joules": joules,
        "peak_bytes": peak_bytes(step, task["device"]) if task["memory"] else None,
        "rss_bytes": max(0, most - before) if task["memory"] else None,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]))) + "\n")
