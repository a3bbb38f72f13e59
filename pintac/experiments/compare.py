"""`pintac compare`: the cost of a step for each of several machines, precisions or networks."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from pintac.errors import DoesNotFitError, PintacError
from pintac.experiments.comparison import Comparison, Costs, Row
from pintac.experiments.variants import Variant

Show = Callable[[str], None]


def compare(chosen: Sequence[Variant], *, jobs: int = 1, show: Show = lambda text: None) -> Comparison:
    """Compile every variant and simulate a step of it, `jobs` at a time; one that cannot be says why.

    `show` is told of each as it is done. Ctrl-C ends it with what is done so far; programs are kept in the cache of
    programs, so the same call goes on from there. Raises what the first one's step raises: that is no row's fault.
    """
    chosen[0].step()
    rows: dict[int, Row] = {}
    interrupted = False
    started = time.monotonic()
    try:
        for index, row in _rows(chosen, min(jobs, len(chosen))):
            rows[index] = row
            show(f"[{len(rows)}/{len(chosen)}] {row.name}: {row.in_short()}, {time.monotonic() - started:.0f} s")
    except KeyboardInterrupt:
        interrupted = True
    found = tuple(rows.get(i, Row(v.values, note="interrupted")) for i, v in enumerate(chosen))
    return Comparison(chosen[0], found, interrupted)


def row_of(variant: Variant) -> Row:
    """What a step of this variant costs, or why there is none."""
    try:
        return Row(variant.values, costs_of(variant))
    except DoesNotFitError as error:
        return Row(variant.values, note=f"does not fit: {error.message}")
    except PintacError as error:
        return Row(variant.values, note=str(error).replace("\n", " "), failed=True)


def costs_of(variant: Variant) -> Costs:
    """Compile and simulate it. Raises PintacError, DoesNotFitError for a machine that cannot hold it."""
    from pintac.api.lowering import lower
    from pintac.api.reuse import emit_or_reuse
    from pintac.report.step_cost import step_cost
    from pintac.timeline import simulate

    machine = variant.built_machine()
    program = emit_or_reuse(lower(variant.step(), variant.options(), machine=machine), machine, variant.effort)
    timing = simulate(program)
    cost = step_cost(program, timing)
    assert cost.lower_bound_cycles is not None  # every program of the backend has one
    return Costs(
        cycles=cost.cycles_per_step,
        bound=cost.lower_bound_cycles,
        seconds=machine.seconds(cost.cycles_per_step),
        joules=cost.energy_j_per_step,
        busy={unit: cycles / max(1, cost.cycles_per_step) for unit, cycles in timing.busy.items()},
        macs=cost.macs_per_step,
        dram_bytes=cost.dram_bytes_per_step,
        sram_bytes=program.meta["backend"]["step"]["sram_bytes"],
    )


def _rows(chosen: Sequence[Variant], jobs: int) -> Iterator[tuple[int, Row]]:
    """(number, row) of each variant, as they are done."""
    if jobs == 1:
        for index, variant in enumerate(chosen):
            yield index, row_of(variant)
        return
    context = multiprocessing.get_context("spawn")  # threads of numba and torch do not survive a fork
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_die_of_interrupts)
    futures: dict[Future[Row], int] = {pool.submit(row_of, variant): i for i, variant in enumerate(chosen)}
    try:
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                with suppress(KeyboardInterrupt):
                    time.sleep(0.2)  # the processes got a Ctrl-C that is on its way to this one, too
                    raise PintacError(
                        "a compiling process was killed", hint="less memory at a time with --jobs 1"
                    ) from None
                raise KeyboardInterrupt from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _die_of_interrupts() -> None:
    """Ctrl-C ends a compiling process without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
