"""`python -m benchmarks`: the same as `sivae bench`, also if that command is not installed."""

from __future__ import annotations

import sys

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "python -m benchmarks"))
