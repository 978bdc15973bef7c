"""`metalearn bench start` as a program of its own, with the same flags; what it does stands in metalearn/bench/start.py."""

from __future__ import annotations

import sys

from metalearn.cli.main import main

if __name__ == "__main__":
    main(["bench", "start", *sys.argv[1:]])
