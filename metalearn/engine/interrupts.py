"""Signals that ask a run to end.

SIGINT is Ctrl-C, SIGTERM comes from a shutdown or a batch system, SIGUSR1 or SIGUSR2 is a batch system's warning, SIGHUP says that the terminal
or the ssh connection has gone.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from metalearn.errors import Interrupted

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows has the first two


class Interrupts:
    """Raises Interrupted at once, but inside `held` only where `check` is called; a SIGINT after any other signal never waits."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._holding = False

    @property
    def received(self) -> int:
        """The signal that came, 0 for none."""
        return self._received or 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """In the main thread, the one that gets signals; what was ignored, as under nohup or in a script's `metalearn train &`, stays so."""
        main = threading.current_thread() is threading.main_thread()
        taken = [number for number in _SIGNALS if main and signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Protects a block from signals. A signal that arrives inside is raised at the end of the block, unless `check` raised it before."""
        with self._set(holding=True):
            yield
        self.check()

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """For what may be cut short inside `held`."""
        with self._set(holding=False):
            self.check()
            yield

    def check(self) -> None:
        if self._received is not None:
            raise Interrupted(self._received)

    @contextlib.contextmanager
    def _set(self, holding: bool) -> Iterator[None]:
        before, self._holding = self._holding, holding
        try:
            yield
        finally:
            self._holding = before

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or number
        if not self._holding:
            raise Interrupted(self._received)
