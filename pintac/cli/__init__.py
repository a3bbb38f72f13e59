"""The verbs: `pintac train`, `compile`, `run`, `predict`, `explain`, `compare`, `reproduce`, `estimate`, and for
compiler engineers `opt`, `asm`, `dis`, `check`.

Data goes to stdout, messages to stderr. Exit codes (docs/ARCHITECTURE.md): 0 done, 1 an error in what was given, or
something beside a training run failed, 2 usage, 3 a bug in pintac, 4 a comparison that failed, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

EXIT_INTERNAL = 3
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; `argv` is without the program's name."""
    title = "pintac"
    try:  # around the imports, too: Ctrl-C may come before a verb begins
        from pintac.cli.arguments import build_parser

        try:
            options = build_parser().parse_args(list(sys.argv[1:] if argv is None else argv))
        except SystemExit as stop:  # argparse: --help (0) or a usage error (2)
            return int(stop.code or 0)
        title = f"pintac {options.verb}"
        return _run(options, title)
    except KeyboardInterrupt:
        if argv is None:  # the process ends: another Ctrl-C shall not break into that
            import signal

            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"{title}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(options: argparse.Namespace, title: str) -> int:
    """Run the verb; what goes wrong as a message and an exit code."""
    from pintac.errors import PintacError

    # One thread: fp32 sums in torch then do not depend on the number of cores, and small steps do not wait for threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import pintac.cli.verbs as verbs

    try:
        return int(getattr(verbs, options.verb)(options))
    except PintacError as error:
        if options.traceback:
            raise
        print(f"{title}: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output is gone (`pintac dis p.pinta | head`)
        from pintac.report.files import discard_stdout

        discard_stdout()
        return 0
    except Exception as error:
        if options.traceback:
            raise
        print(
            f"{title}: internal error: {type(error).__name__}: {error}\n"
            "  this is a bug in pintac; run again with --traceback to see where",
            file=sys.stderr,
        )
        return EXIT_INTERNAL
