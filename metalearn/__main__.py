"""`python -m metalearn`, and the console script `metalearn`."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Runs the command line. Ctrl-C while it is still being imported ends the process with exit code 130 and says nothing."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so with nohup
    if heeded:
        # Python's own handler raises an exception wherever the program is; of a module that is half imported it makes a traceback.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from metalearn.cli.main import main as run

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
