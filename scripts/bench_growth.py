"""`metalearn bench growth` as a program of its own, with the same flags; what it does stands in metalearn/bench/growth.py."""

from __future__ import annotations

import sys

from metalearn.cli.main import main

if __name__ == "__main__":
    main(["bench", "growth", *sys.argv[1:]])
