"""`python -m metalearn`: what happens before there is a command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A signal comes in the middle of an import that turns every exception into one of its own, as extension modules do.
INTERRUPTED = """
import os, runpy, signal, sys

class Loader:
    def find_spec(self, name, path=None, target=None):
        if name == "metalearn.cli.main":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException as error:
                raise ImportError("half imported") from error

{before}
sys.meta_path.insert(0, Loader())
runpy.run_module("metalearn", run_name="__main__")
"""


def ended(before: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = INTERRUPTED.format(before=before)
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_while_the_program_is_imported_ends_it_in_silence() -> None:
    found = ended("")
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_that_the_caller_ignores_stays_ignored() -> None:
    found = ended("signal.signal(signal.SIGINT, signal.SIG_IGN)", "--version")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("metalearn ")


def test_the_program_itself_is_interrupted_as_python_is() -> None:
    program = (
        "import signal, sys; from metalearn.__main__ import main; import metalearn.cli.main as cli; "
        "cli._dispatch = lambda argv: sys.exit(int(signal.getsignal(signal.SIGINT) is signal.default_int_handler)); main()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 1
