"""`python -m metalearn` is the console script `metalearn`."""

from __future__ import annotations

from metalearn.cli.main import main

main()
