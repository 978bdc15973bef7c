"""Pickles of arrays, read without executing anything.

A pickle is a program: it names any function of any module and calls it. Published data sets come as pickles all the same. Here the names that a
pickle of arrays, numbers, text and builtin containers needs lead to functions of this file, and every other name is refused. Not even numpy's own
functions are reached: a hostile state of a dtype would let them take numbers for addresses.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import IO, Any, ClassVar, cast

import numpy as np

from metalearn.errors import UserError, one_line

_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d+|[?bBhHiIlLqQefdFD]|[SUa]\d+|O\d*)")
_FIRST_OF_PYTHON_3 = 3  # protocol
_PIECE = 1 << 24  # bytes


def load_arrays(file: IO[bytes], name: str, encoding: str = "latin1") -> Any:
    """What the pickle holds: arrays, numpy's scalars and dtypes, None, numbers, text, bytes and builtin containers of them.

    An array shares the memory that it was read into; most are read-only therefore.

    Args:
        file: open for reading.
        name: of the file, for messages.
        encoding: of the texts that Python 2 wrote; "bytes" leaves them as they are.

    Raises:
        UserError: the pickle is damaged or asks for anything else.
    """
    buffered = io.BufferedReader(cast(io.RawIOBase, file))
    try:
        # "bytes" leaves the content of Python 2's arrays what it is; as text it would be copied twice.
        reader: Any = _Reader(buffered, encoding="bytes")
        found = reader.load()
        return finished(found, encoding if reader.proto < _FIRST_OF_PYTHON_3 else None)
    except UserError as error:
        raise UserError(f"{name} is refused: {error}") from error
    except Exception as error:  # a damaged pickle makes its reader fail in any way
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{name} is not an intact pickle of arrays ({reason})") from error
    finally:
        buffered.detach()  # else it closes `file` when it goes


def stand_in(module: str, name: str) -> Any:
    """What takes the place of a name of a pickle; UserError where it is none that arrays, numbers, text and containers of them need."""
    module = {"__builtin__": "builtins"}.get(module, module).replace("numpy._core.", "numpy.core.")
    try:
        return _KNOWN[f"{module}.{name}"]
    except KeyError:
        raise UserError(
            f"its pickle asks for {f'{module}.{name}'!r} (read are arrays, numbers, text and containers of them)"
        ) from None


def finished(found: Any, encoding: str | None) -> Any:
    """Real arrays, dtypes and texts for what stands for them in `found`; `encoding` is that of bytes which are text, None where bytes are bytes."""
    return _Finished(encoding).of(found)


def is_array(found: Any) -> bool:
    """Whether it is an array, or stands for one that is not whole yet."""
    return isinstance(found, _Array | np.ndarray)


class _Bytes(bytes):
    """What Python 3 wrote as bytes in a protocol of Python 2, whose other bytes are text."""


class _Dtype:
    """A dtype of a pickle: its code and the byte order of its state; all else that a state may hold is of no use to plain ones."""

    def __init__(self, code: str) -> None:
        if not _PLAIN_DTYPE.fullmatch(code):
            raise UserError(f"its arrays have the type {code!r} (read are numbers, text and objects of this list)")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _ascii(state[1])
        if order in ("<", ">"):
            self.code = order + self.code.lstrip("<>=|")

    def real(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class _Array:
    """An array of a pickle, until it is whole."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state[-4:]  # old pickles have no version before it

    def real(self, inner: Callable[[Any], Any]) -> np.ndarray:
        """The array; `inner` finishes what an array of objects holds."""
        shape, dtype, fortran, content = self.state
        if dtype.code.lstrip("<>=|").startswith("O"):
            flat = np.empty(math.prod(shape), dtype=object)
            if len(content) != len(flat):
                raise ValueError(f"{len(content)} of {len(flat)} objects")
            for place, each in enumerate(content):
                flat[place] = inner(each)
            return flat.reshape(shape, order="F" if fortran else "C")
        return _array(content, dtype, shape, "F" if fortran else "C")


class _Reader(pickle._Unpickler):
    """Python's reader that is written in Python: the one in C makes room for whatever number a damaged pickle files a value under, gigabytes."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self: Any) -> None:
        """Takes memory as the content comes; Python's way takes what the length says first."""
        (length,) = struct.unpack("<Q", self.read(8))
        content = bytearray()
        while len(content) < length:
            piece = self.read(min(_PIECE, length - len(content)))
            if not piece:
                raise EOFError("its end is missing")
            content += piece
        self.append(content)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        """See `stand_in`."""
        return stand_in(module, name)


class _Finished:
    """Puts real arrays, dtypes and texts in the place of what stood for them, in the containers themselves: nothing large is copied.

    Args:
        encoding: of bytes that are text; None where bytes are bytes.
    """

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding
        self._done: dict[int, Any] = {}  # by identity
        self._kept: list[Any] = []  # the originals, so that no identity is used twice

    def of(self, found: Any) -> Any:
        if found is None or isinstance(found, int | float | complex | str | np.generic):
            return found
        if id(found) not in self._done:
            self._kept.append(found)
            if isinstance(found, list | dict):
                self._done[id(found)] = found  # before what it holds, which may be itself
            self._done[id(found)] = self._made(found)
        return self._done[id(found)]

    def _made(self, found: Any) -> Any:
        if isinstance(found, _Array):
            return found.real(self.of)
        if isinstance(found, _Dtype):
            return found.real()
        if isinstance(found, _Bytes):
            return bytes(found)
        if isinstance(found, bytes) and self._encoding not in (None, "bytes"):
            return found.decode(self._encoding)
        if isinstance(found, list):
            found[:] = [self.of(each) for each in found]
        elif isinstance(found, dict):
            pairs = [(self.of(key), self.of(value)) for key, value in found.items()]
            found.clear()
            found.update(pairs)
        elif isinstance(found, tuple | set | frozenset):
            return type(found)(self.of(each) for each in found)
        return found


def _ascii(text: str | bytes) -> str:
    return text.decode("ascii") if isinstance(text, bytes) else text


def _array(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Not copied from its content, which is bytes or was written as text."""
    if isinstance(content, str):
        content = content.encode("latin1")
    real = dtype.real()
    if real.hasobject:
        raise ValueError("bytes in the place of objects")  # they would be followed as addresses
    if len(content) != math.prod(shape) * real.itemsize:
        raise ValueError(f"{len(content)} bytes for an array {list(shape)} of {real}")
    return np.ndarray(shape, real, buffer=content, order=cast(Any, order))


def _known_array(subtype: object, shape: object, code: object) -> _Array:
    return _Array()


def _known_dtype(code: str | bytes, align: object = None, copy: object = None) -> _Dtype:
    return _Dtype(_ascii(code))


def _known_scalar(dtype: _Dtype, content: bytes | str = b"") -> Any:
    return _array(content, dtype, (), "C")[()]


def _known_buffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _array(content, dtype, shape, _ascii(order))


def _known_encoding(text: str, encoding: str | bytes) -> _Bytes:
    return _Bytes(text.encode({"latin1": "latin1"}[_ascii(encoding)]))


def _known_bytearray(*of: Any) -> bytearray:
    """Not of a number, which would be a length."""
    if of and isinstance(of[0], int):
        raise ValueError("a bytearray by its length")
    return bytearray(*of)


_KNOWN: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _known_array,
    "numpy.core.multiarray.scalar": _known_scalar,
    "numpy.core.numeric._frombuffer": _known_buffer,
    "numpy.dtype": _known_dtype,
    "numpy.ndarray": "ndarray",  # only handed to _reconstruct
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "_codecs.encode": _known_encoding,
    "builtins.bytearray": _known_bytearray,
    "builtins.bytes": lambda: _Bytes(),  # Python 3 writes empty ones so in a protocol of Python 2
    **{
        f"builtins.{type_.__name__}": type_
        for type_ in (bool, complex, dict, float, frozenset, int, list, set, str, tuple)
    },
}
