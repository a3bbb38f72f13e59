"""`python -m pintac`."""

import sys

from pintac.cli import main

if __name__ == "__main__":
    sys.exit(main())
