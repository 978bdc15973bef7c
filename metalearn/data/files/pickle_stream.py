"""A pickled list of many arrays, one after another: a list of gigabytes is never whole in memory.

Python's unpickler hands out a list when it is complete, and remembers every object until then. Here the pickle's own instructions are followed
one by one (`pickletools` reads them). The members of the outermost list are handed out as they come, which is a thousand at a time, and large
objects are not remembered. As in `pickles`, nothing is executed: names lead to that module's stand-ins, and an instruction that lists of arrays
do not need is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import IO, Any

from metalearn.data.files.pickles import finished, is_array, stand_in
from metalearn.errors import UserError, one_line

_MARK = object()
_SMALL = (
    256  # bytes of text that is remembered: pickles of arrays refer back to names, dtypes and shapes, not to pixels
)

_IGNORED = {"PROTO", "FRAME"}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_OLD_TEXTS = {"BINSTRING", "SHORT_BINSTRING"}  # of Python 2; pickletools takes them for Latin-1
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def stream_list(file: IO[bytes], name: str) -> Iterator[Any]:
    """The members of a pickled list, in their order: arrays, bytes, numbers, texts or tuples of them.

    Args:
        file: open for reading at the beginning of the pickle.
        name: of the file, for messages.

    Raises:
        UserError: the pickle is damaged, holds something else than a list, or asks for anything else than arrays need.
    """
    try:
        yield from _Machine().members(file)
    except UserError as error:
        raise UserError(f"{name} is refused: {error}") from error
    except Exception as error:  # a damaged pickle makes its reader fail in any way
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{name} is not an intact pickle of a list of arrays ({reason})") from error


class _Machine:
    """The stack and the memory of an unpickler, with the instructions that a list of arrays needs."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._remembered = 0  # how many objects, forgotten ones too: the number of the next one that MEMOIZE keeps
        self._doing: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "TUPLE": lambda _: self._stack.append(tuple(self._since_mark())),
            "GLOBAL": lambda names: self._stack.append(stand_in(*names.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self._stack.append(stand_in(*self._last(2))),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "MEMOIZE": lambda _: self._put(self._remembered),
            "BINGET": self._get,
            "LONG_BINGET": self._get,
        }

    def members(self, file: IO[bytes]) -> Iterator[Any]:
        for operation, argument, _ in pickletools.genops(file):
            name = operation.name
            if name in ("APPEND", "APPENDS"):
                members = self._last(1) if name == "APPEND" else self._since_mark()
                if len(self._stack) == 1:
                    self._check_list()
                    # Bytes stay bytes: those of Python 2 are content here, not text.
                    yield from (finished(member, None) for member in members)
                else:
                    self._stack[-1].extend(members)
            elif name == "STOP":
                self._check_list()
            else:
                self._do(name, argument)

    def _do(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _OLD_TEXTS:
            self._stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(self._last(_TUPLES[name])))
        elif name in self._doing:
            self._doing[name](argument)
        elif name not in _IGNORED:
            raise UserError(f"its pickle has the instruction {name}, which no list of arrays needs")

    def _check_list(self) -> None:
        if len(self._stack) != 1 or not isinstance(self._stack[0], list):
            raise UserError("its pickle holds something else than a list")

    def _last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("an instruction lacks its operand")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        place = next(place for place in range(len(self._stack) - 1, -1, -1) if self._stack[place] is _MARK)
        taken = self._stack[place + 1 :]
        del self._stack[place:]
        return taken

    def _reduce(self, _: Any) -> None:
        function, arguments = self._last(2)
        self._stack.append(function(*arguments))

    def _build(self, _: Any) -> None:
        (state,) = self._last(1)
        self._stack[-1].__setstate__(state)

    def _put(self, number: int) -> None:
        found = self._stack[-1]
        self._remembered += 1
        if _small(found):
            self._memo[number] = found

    def _get(self, number: int) -> None:
        if number not in self._memo:
            raise UserError(
                "one of its large members stands there twice, which a list of separate arrays does not need"
            )
        self._stack.append(self._memo[number])


def _small(found: Any, flat: bool = False) -> bool:
    """Whether it may be remembered. Of tuples only those without tuples in them, such as shapes: looking through deep ones could take forever."""
    if isinstance(found, tuple):
        return not flat and all(_small(each, flat=True) for each in found)
    if isinstance(found, bytes | bytearray | str):
        return len(found) <= _SMALL
    return not isinstance(found, list | dict) and not is_array(found)
