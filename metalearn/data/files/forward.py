"""A stream as `tarfile` wants it: forward only, and within bounds."""

from __future__ import annotations

from typing import IO

from metalearn.errors import UserError

_PIECE = 1 << 20  # bytes read at a time where they are passed over


class ForwardFile:
    """Reads a stream forward. One byte back is possible, for tarfile asks for that before each member.

    Going back in a compressed file would mean to decompress it anew from its beginning.

    Args:
        stream: what is read.
        largest_read: bytes of one read; a header that announces more is refused.
        most: bytes of all reads together.
    """

    def __init__(self, stream: IO[bytes], largest_read: int, most: int) -> None:
        self._stream, self._largest_read, self._most = stream, largest_read, most
        self._at = self._reached = 0
        self.last = b""  # what the last read gave

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, to: int) -> int:
        """Goes forward to a position, or one byte back; OSError where a damaged header leads further back."""
        if to < self._reached - 1:
            raise OSError("one of its headers leads backward")
        while self._reached < to and self._take(min(_PIECE, to - self._reached)):
            pass
        self._at = min(to, self._reached)
        return self._at

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end.

        Raises:
            UserError: more than the bounds allow.
        """
        if size > self._largest_read + 1024:  # a member's last block is filled up
            raise UserError(f"the archive is refused: one of its headers asks for {size >> 20} MiB")
        again = self.last[-1:] if self._at < self._reached else b""
        self.last = again + self._take(size - len(again), keep=again)
        self._at = self._reached
        return self.last

    def pass_over_rest(self) -> None:
        """Reads to the end of the stream."""
        while self._take(_PIECE):
            pass

    def _take(self, size: int, keep: bytes = b"") -> bytes:
        content = self._stream.read(size) if size > 0 else b""
        self._reached += len(content)
        if self._reached > self._most:
            raise UserError("the archive is refused as a bomb: it grows far beyond its size")
        self.last = content or keep
        return content
