"""TensorBoard's server as a process of this one, on this machine alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from metalearn.errors import RunFailed, UserError, one_line

HOST, PORT = "127.0.0.1", 6006  # TensorBoard's own port, taken where it is free
_START = 60.0  # seconds that the server may take to answer


class Server:
    """Over a folder, from its making until it is closed.

    Attributes:
        address: where it answers.

    Raises:
        UserError: the port is taken.
        RunFailed: it does not start.
    """

    def __init__(self, folder: Path, port: int | None) -> None:
        chosen = _port(port)
        self.address = f"http://{HOST}:{chosen}/"
        words = ["--logdir", str(folder), "--host", HOST, "--port", str(chosen)]
        output = folder.with_name(f"{folder.name}.log")
        try:
            with output.open("wb") as file:
                # A session of its own: Ctrl-C ends this process, which then ends the server and its data server.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tensorboard.main", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            try:
                self._wait(output)
            except BaseException:
                self.close()
                raise
        finally:
            output.unlink(missing_ok=True)

    @property
    def running(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends it, with the process that reads files for it; later calls do nothing."""
        for sign in _signals():
            if not self.running:
                return
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, sign)
                else:
                    self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)

    def _wait(self, output: Path) -> None:
        deadline = time.monotonic() + _START
        while self.running and time.monotonic() < deadline:
            if _answers(self.address):
                return
            time.sleep(0.1)
        said = output.read_text(errors="replace").strip().splitlines()
        raise RunFailed(f"TensorBoard did not start: {said[-1] if said else 'no answer'}")


def _port(asked: int | None) -> int:
    """A port that is free.

    Raises:
        UserError: the one that was asked for is not.
    """
    for port in (PORT, 0) if asked is None else (asked,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError) as error:
                if asked is not None:
                    raise UserError(
                        f"--port {asked} cannot be used ({one_line(error)}); without --port a free one is taken"
                    ) from error
                continue
            return int(probe.getsockname()[1])
    raise UserError("no port is free")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}data/environment", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _signals() -> Iterator[int]:
    yield signal.SIGTERM
    yield getattr(signal, "SIGKILL", signal.SIGTERM)
