"""Batches that are made in a thread before they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from metalearn.tasks import Shape

Made = TypeVar("Made")

_AHEAD = 2  # batches: one that waits to be used, one that is made meanwhile


@dataclass(frozen=True)
class Request:
    """The tasks first .. first+count-1, of one shape."""

    first: int
    count: int
    shape: Shape


class Ahead(Generic[Made]):
    """Answers requests with what `make` returns for them, and makes the likely next ones meanwhile.

    The next request is expected as far behind the last one as that was behind the one before. A request that nobody expected is answered all the
    same, only later. So the answers depend on the requests alone, and never on the thread. At most `_AHEAD` answers wait. What `make` raises in the
    thread is raised where its answer is asked for.

    Args:
        make: called in a thread of this object, or in the one that asks.
    """

    def __init__(self, make: Callable[[Request], Made]) -> None:
        self._make = make
        self._waiting: dict[Request, Future[Made]] = {}
        self._last: Request | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __call__(self, request: Request) -> Made:
        """What `make` returns for the request; an answer is handed out once."""
        expected = self._expected(request)
        found = self._waiting.pop(request, None)
        for other in self._waiting.keys() - set(expected):
            self._waiting.pop(other).cancel()
        answer = self._make(request) if found is None else None
        for other in expected:
            if other not in self._waiting:
                self._thread = self._thread or ThreadPoolExecutor(1, "metalearn-ahead")
                self._waiting[other] = self._thread.submit(self._make, other)
        self._last = request
        return found.result() if found is not None else answer  # type: ignore[return-value]  # one of the two is there

    def close(self) -> None:
        """Forgets what nobody asked for and ends the thread; a further request starts another."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        self._last = None
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    def _expected(self, request: Request) -> list[Request]:
        last, stride = self._last, request.count
        if last is not None and last == replace(request, first=last.first) and request.first > last.first:
            stride = request.first - last.first
        return [replace(request, first=request.first + stride * (k + 1)) for k in range(_AHEAD)]
