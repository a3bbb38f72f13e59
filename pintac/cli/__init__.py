"""The command line: `pintac train | compile | run | predict | explain | reproduce | estimate | opt | asm | dis`.

Data goes to stdout, messages to stderr. Exit codes (docs/ARCHITECTURE.md): 0 done, 1 an error in what was given, or
something beside a training run failed, 2 usage, 3 a bug in pintac, 4 a comparison that failed, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pintac.cli.arguments import build_parser
from pintac.errors import PintacError

EXIT_INTERNAL = 3
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; `argv` is without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # argparse: --help (0) or a usage error (2)
        return int(stop.code or 0)

    # One thread: fp32 sums in torch then do not depend on the number of cores, and small steps do not wait for threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import pintac.cli.verbs as verbs

    try:
        return int(getattr(verbs, options.verb)(options))
    except PintacError as error:
        if options.traceback:
            raise
        print(f"pintac {options.verb}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"pintac {options.verb}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone (`pintac dis p.pinta | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.traceback:
            raise
        print(
            f"pintac {options.verb}: internal error: {type(error).__name__}: {error}\n"
            "  this is a bug in pintac; run again with --traceback to see where",
            file=sys.stderr,
        )
        return EXIT_INTERNAL
