"""What a person sees, from outside: real processes on a pseudo-terminal, on a pipe, and with nobody reading any more."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from tests.runs.made_runs import config_of, make_run

# Logs as a run does, through the shipped YAML; RUN stands for what a test does.
SCRIPT = """
import logging, logging.config, multiprocessing, sys, time
from pathlib import Path
import yaml
from metalearn.report import progress as progress_module, results, terminal
from metalearn.report.progress import Progress, TaskProgress
from metalearn.config.files import conf_dir
from metalearn.kinds import REGRESSION

def set_up():
    text = (conf_dir() / "hydra/job_logging/metalearn.yaml").read_text()
    logging.config.dictConfig(yaml.safe_load(text.replace("${hydra.runtime.output_dir}", ".")))

def train(steps=200, seconds=0.0):
    with Progress(steps, "maml on omniglot") as progress:
        for step in range(1, steps + 1):
            values = {"train/loss": 0.4121, "train/accuracy": 0.912, "time/tasks_per_second": 820.4}
            progress.update(step, values | ({"val/accuracy": 0.931} if step == steps // 2 else {}))
            time.sleep(seconds)
    Path("finished").touch()

set_up()
log = logging.getLogger("metalearn")
"""
RESULTS = {
    "algorithm": "maml",
    "dataset": "omniglot",
    "backbone": "conv4",
    "seed": 3,
    "run_dir": "outputs/my day/run",
    "task": {"ways": 5, "shots": 1},
    "test": {
        "accuracy": 0.97312,
        "ci95": 0.00184,
        "tasks": 1000,
        "checkpoint": "best",
        "step": 1800,
        "transductive": False,
        "accuracy_before": 0.201,
        "per_step": [0.201, 0.96, 0.971, 0.9731],
    },
}
TEST_LINE = (
    "test 5-way 1-shot: 97.31 ± 0.18 % (95 % interval over 1,000 tasks; chance 20.00 %; best checkpoint, step 1800; "
    "not transductive)"
)
STEPS_LINE = "before adaptation 20.1 %; after each inner step 96.0, 97.1, 97.3 %"
LAST_STEP = "step 200/200 (100 %)  loss 0.412  accuracy 91.2 %  val 93.1 %  820 tasks/s"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3|9)\d[;m]")


def command(run: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT + textwrap.dedent(run)]


def environment(**changes: str) -> dict[str, str]:
    chosen = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return chosen | {"TERM": "xterm-256color"} | changes


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, run: str, where: Path, columns: int = 80, **changes: str) -> None:
        self._screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command(run), cwd=where, env=environment(**changes), stdin=inside, stdout=inside, stderr=inside
        )
        os.close(inside)

    def read(self) -> str:
        """All that it wrote, up to its end."""
        shown = b"".join(iter(self._chunk, b""))
        assert self.process.wait() == 0, shown.decode()
        os.close(self._screen)
        return shown.decode()

    def read_until(self, text: bytes) -> None:
        shown = b""
        while text not in shown:
            chunk = self._chunk()
            assert chunk, shown
            shown += chunk

    def _chunk(self) -> bytes:
        """What it wrote next; nothing when it has ended."""
        if not select.select([self._screen], [], [], 20)[0]:
            self.process.kill()
            pytest.fail("nothing was written for 20 s")
        try:
            return os.read(self._screen, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # what Linux says when the last process has closed its end
                raise
            return b""

    def vanish(self) -> None:
        os.close(self._screen)


def on_pipe(run: str, where: Path, **changes: str) -> str:
    done = subprocess.run(command(run), cwd=where, env=environment(**changes), capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


def progress_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.search(r"step \d+/200 ", line)]


def without_time(line: str) -> str:
    """Without what the clock decides: the log's time stamp and the time left."""
    return re.sub(r"  [\d:]+ left$", "", line[line.index("step ") :]).rstrip()


def test_a_pipe_gets_a_line_for_every_tenth_and_no_escape_codes(tmp_path: Path) -> None:
    # FORCE_COLOR, which CI services set, makes no terminal of a pipe.
    text = on_pipe("train()", tmp_path, FORCE_COLOR="1")
    assert "\x1b" not in text
    assert "\r" not in text
    lines = progress_lines(text)
    assert [re.findall(r"\((\d+) %\)", line) for line in lines] == [[str(10 * i)] for i in range(1, 11)]
    assert re.fullmatch(r"step 20/200 \(10 %\)  loss 0\.412  accuracy 91\.2 %  820 tasks/s  \d:\d\d left", lines[0])
    assert lines[-1] == LAST_STEP
    logged = progress_lines((tmp_path / "run.log").read_text())
    assert [without_time(line) for line in logged] == [without_time(line) for line in lines]


CLOCK = """
clock = 0.0
progress_module.time.monotonic = lambda: clock
def wait(seconds):
    global clock
    clock += seconds
"""


def test_time_left_leaves_out_what_came_before_the_first_step(tmp_path: Path) -> None:
    run = (
        CLOCK
        + """
with Progress(10, "x", done=4, log_seconds=1e9) as progress:
    wait(500)  # data, the choice of task_chunk
    progress.update(4, {})
    wait(100)
    progress.update(5, {})
    wait(100)
    progress.update(6, {})
"""
    )
    assert on_pipe(run, tmp_path) == "step 5/10 (50 %)  8:20 left\nstep 6/10 (60 %)  6:40 left\n"


def test_after_a_resumption_time_left_is_known_from_the_second_step_on(tmp_path: Path) -> None:
    run = (
        CLOCK
        + """
with Progress(400, "x", done=80, log_seconds=30) as progress:
    wait(500)  # start-up, as long as it may take
    for step in range(81, 102):
        wait(1)
        progress.passed(step)
        if step % 20 == 0:
            progress.update(step, {})
"""
    )
    lines = on_pipe(run, tmp_path).splitlines()
    assert lines == ["training: about 5:14 for 314 more steps", "step 100/400 (25 %)  5:00 left"]


def test_after_the_first_steps_of_a_long_training_its_length_is_said_once(tmp_path: Path) -> None:
    run = (
        CLOCK
        + """
def trained(total, seconds):
    with Progress(total, "x", log_seconds=1e9) as progress:
        progress.update(0, {})
        for step in range(1, 9):
            wait(seconds)
            progress.update(step, {})
trained(10_001, 1.0)
trained(50, 1.0)
"""
    )
    lines = on_pipe(run, tmp_path).splitlines()
    assert [line for line in lines if not line.startswith("step ")] == ["training: about 2:46:36 for 9,996 more steps"]


def test_a_pipe_gets_a_line_every_so_many_seconds_as_well(tmp_path: Path) -> None:
    run = (
        CLOCK
        + """
with Progress(1000, "x", log_seconds=30) as progress:
    for step in range(0, 100, 5):
        progress.update(step, {})
        wait(10)
"""
    )
    lines = [line for line in on_pipe(run, tmp_path).splitlines() if line.startswith("step ")]
    assert [re.findall(r"step (\d+)", line) for line in lines] == [["15"], ["30"], ["45"], ["60"], ["75"], ["90"]]


def test_numbers_say_their_ways_where_training_and_test_differ(tmp_path: Path) -> None:
    run = """
with Progress(2, "x", ways=(20, 5)) as progress:
    progress.update(2, {"train/accuracy": 0.5, "val/accuracy": 0.25})
with Progress(2, "x", ways=(1, 1), kind=REGRESSION) as progress:
    progress.update(2, {"train/mse": 0.5, "val/mse": 0.25})
"""
    said = on_pipe(run, tmp_path).splitlines()
    assert said == [
        "step 2/2 (100 %)  20-way accuracy 50.0 %  5-way val 25.0 %",
        "step 2/2 (100 %)  mse 0.5000  val 0.2500",
    ]


TESTING = """
with TaskProgress(1000, "test", log_seconds=30) as progress:
    for done in range(20, 1001, 20):
        wait(1)
        progress.update(done)
"""


def test_a_long_evaluation_says_how_far_it_is_on_a_pipe(tmp_path: Path) -> None:
    assert on_pipe(CLOCK + TESTING, tmp_path) == "test: 600/1000 tasks (60 %)  0:20 left\n"


def test_an_evaluation_has_a_live_bar_on_a_terminal(tmp_path: Path) -> None:
    shown = ESCAPE.sub("", Terminal(CLOCK + TESTING.replace("wait(1)", "wait(60); time.sleep(0.01)"), tmp_path).read())
    assert re.search(r"test [━╸╺]+ \d+ % \d+/1000 \d+:\d\d left", shown)
    assert "tasks" not in shown


FETCHING = """
from metalearn.report.progress import BytesProgress
with BytesProgress("images.zip") as progress:
    for done in range(2_000_000, 40_000_001, 2_000_000):
        wait(3)
        progress.update(done, 40_000_000)
with BytesProgress("unknown.zip") as progress:
    progress.update(1_000_000, None)
"""


def test_a_file_that_comes_slowly_says_so_every_ten_seconds_on_a_pipe(tmp_path: Path) -> None:
    lines = on_pipe(CLOCK + FETCHING, tmp_path).splitlines()
    assert lines[0] == "images.zip: 10.0/40.0 MB (25 %)  0:45 left"
    assert len(lines) == 4, "every fourth of twenty pieces, the last excepted"


def test_a_file_that_comes_has_a_live_bar_on_a_terminal(tmp_path: Path) -> None:
    shown = ESCAPE.sub("", Terminal(CLOCK + FETCHING.replace("wait(3)", "wait(3); time.sleep(0.05)"), tmp_path).read())
    assert re.search(r"images\.zip [━╸╺]+ \d+\.\d/40\.0 MB [\d.]+ [kM]B/s", shown)
    assert "left" not in shown


def test_what_other_libraries_say_is_in_the_log_alone(tmp_path: Path) -> None:
    run = "import warnings; logging.captureWarnings(True)\n"
    run += "warnings.warn('of torch'); logging.getLogger('library').warning('of its logger'); log.info('ours')"
    assert on_pipe(run, tmp_path) == "ours\n"
    logged = (tmp_path / "run.log").read_text()
    assert "of torch" in logged
    assert "of its logger" in logged


def test_a_terminal_gets_a_live_view_and_each_line_once(tmp_path: Path) -> None:
    shown = Terminal("train(seconds=0.01)", tmp_path).read()
    assert "\x1b[?25l" in shown  # the cursor is hidden while the view is up,
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and comes back
    plain = ESCAPE.sub("", shown)
    # At 80 columns nothing is cut off: bar, percent, steps, time left; below it the numbers.
    views = re.findall(r"maml on omniglot [━╸╺]+ (\d+) % (\d+)/200 \d:\d\d left", plain)
    assert views
    assert all(int(percent) == int(step) * 100 // 200 for percent, step in views if int(step) % 2 == 0)
    assert "loss 0.412  accuracy 91.2 %  val 93.1 %  820 tasks/s" in plain
    assert plain.count("(50 %)") == 1
    logged = (tmp_path / "run.log").read_text()
    assert "\x1b" not in logged
    assert "━" not in logged
    assert len(progress_lines(logged)) == 10
    assert without_time(progress_lines(logged)[-1]) == LAST_STEP


def test_no_color_leaves_the_live_view_without_colours(tmp_path: Path) -> None:
    run = "log.warning('beware'); train(seconds=0.005)"
    assert COLOUR.search(Terminal(run, tmp_path).read())
    shown = Terminal(run, tmp_path, NO_COLOR="1").read()
    assert "\x1b[?25l" in shown
    assert not COLOUR.search(shown)


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    shown = Terminal("train()", tmp_path, columns=200, TERM="dumb").read()
    assert "\x1b" not in shown
    assert shown.startswith("step 20/200")
    assert len(progress_lines(shown)) == 10


def test_a_launchers_worker_process_shows_no_live_view(tmp_path: Path) -> None:
    run = """
    worker = multiprocessing.get_context("fork").Process(target=train)
    worker.start()
    worker.join()
    """
    shown = Terminal(run, tmp_path, columns=200).read()
    assert "\x1b[?25l" not in shown
    assert len(progress_lines(ESCAPE.sub("", shown))) == 10


def test_warnings_are_marked_on_both_and_brackets_are_no_markup(tmp_path: Path) -> None:
    run = "log.warning('[bold] %d', 1); log.info('fine')"
    assert on_pipe(run, tmp_path) == "warning: [bold] 1\nfine\n"
    shown = ESCAPE.sub("", Terminal(run, tmp_path).read())
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning: \[bold\] 1 *\s+(\d\d:\d\d:\d\d)? *fine *\s*", shown)


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    run = "train(seconds=0.005)\nresults.result_panel(" + repr(RESULTS) + ")\nprint('more')\nPath('end').touch()"
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "bash", *command(run)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("step 20/200")
    assert (tmp_path / "end").exists()
    assert len(progress_lines((tmp_path / "run.log").read_text())) == 10
    assert done.stderr == ""  # neither logging nor Python's flush at exit complains
    assert done.returncode == 0


def test_a_closed_terminal_does_not_end_the_run(tmp_path: Path) -> None:
    terminal = Terminal("train(seconds=0.01)\nterminal.error_line('over')", tmp_path)
    terminal.read_until(b"(10 %)")
    terminal.vanish()
    assert terminal.process.wait(20) == 0
    assert (tmp_path / "finished").exists()
    assert len(progress_lines((tmp_path / "run.log").read_text())) == 10


def test_a_full_disk_behind_stdout_is_said_once_and_ends_no_run(tmp_path: Path) -> None:
    run = f"train()\nresults.result_panel({RESULTS!r})\nPath('end').touch()\nassert terminal.STDOUT.lost"
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(run), cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"stdout cannot be written: No space left on device\n")
    assert (tmp_path / "end").exists()
    assert len(progress_lines((tmp_path / "run.log").read_text())) == 10


@pytest.mark.parametrize("words", [["--version"], ["runs", "."]], ids=["print", "say"])
def test_a_command_whose_output_is_lost_fails(tmp_path: Path, words: list[str]) -> None:
    make_run(tmp_path / "run", config=config_of("a"))
    with open("/dev/full", "w") as full:
        started = [sys.executable, "-m", "metalearn", *words]
        done = subprocess.run(started, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert re.fullmatch(rb".*No space left on device\n", done.stderr)  # one line


def test_the_result_on_a_pipe(tmp_path: Path) -> None:
    lines = on_pipe(f"results.result_panel({RESULTS!r})", tmp_path).splitlines()
    assert lines == [
        TEST_LINE,
        STEPS_LINE,
        "run directory: outputs/my day/run",
        "metalearn tensorboard 'outputs/my day'",
    ]


def test_the_result_has_the_interval_over_classes_beside_that_over_tasks(tmp_path: Path) -> None:
    test = RESULTS["test"] | {
        "ci95_classes": 0.00452,
        "further": {
            "first shot": {"mean": 0.5, "ci95": 0.1, "ci95_classes": 0.2},
            "mine": {"mean": 0.5, "ci95": 0.1, "ci95_classes": None},
        },
    }
    lines = on_pipe(f"results.result_panel({RESULTS | {'test': test}!r})", tmp_path).splitlines()
    assert lines[0].startswith(
        "test 5-way 1-shot: 97.31 ± 0.18 % over tasks, ± 0.45 % over classes (95 % intervals, 1,000 tasks; chance"
    )
    assert lines[2:4] == [
        "first shot: 50.00 ± 10.00 % over tasks, ± 20.00 % over classes",
        "mine: 50.00 ± 10.00 %",
    ]


def test_the_result_of_many_inner_steps_says_which_were_scored(tmp_path: Path) -> None:
    results = RESULTS | {"test": RESULTS["test"] | {"scored_steps": [0, 1, 10, 50]}}
    line = on_pipe(f"results.result_panel({results!r})", tmp_path).splitlines()[1]
    assert line == "before adaptation 20.1 %; after inner steps 1, 10, 50: 96.0, 97.1, 97.3 %"


def test_the_result_without_inner_steps_in_a_poor_encoding_and_elsewhere(tmp_path: Path) -> None:
    test = {key: value for key, value in RESULTS["test"].items() if key not in ("per_step", "accuracy_before", "step")}
    results = RESULTS | {"test": test | {"transductive": True, "checkpoint": "last"}, "run_dir": "/elsewhere/a/run"}
    lines = on_pipe(f"results.result_panel({results!r})", tmp_path, PYTHONIOENCODING="ascii").splitlines()
    assert lines == [
        "test 5-way 1-shot: 97.31 ? 0.18 % (95 % interval over 1,000 tasks; chance 20.00 %; last checkpoint; transductive)",
        "run directory: /elsewhere/a/run",
        "metalearn tensorboard /elsewhere/a",
    ]


def test_a_result_that_fewer_inner_steps_would_better_says_so(tmp_path: Path) -> None:
    hint = "hint: {} better here ({}): a smaller algorithm.inner_lr, or fewer algorithm.test_inner_steps, may help"
    for scores, said in (
        ([0.201, 0.476, 0.408, 0.342], hint.format("1 inner step scores", "47.6 %")),
        ([0.301, 0.276, 0.288, 0.242], hint.format("no inner step scores", "30.1 %")),
        ([0.201, 0.342, 0.476, 0.475], None),  # within the interval
    ):
        results = {**RESULTS, "test": {**RESULTS["test"], "accuracy": scores[-1], "per_step": scores}}  # type: ignore[dict-item]
        lines = on_pipe(f"results.result_panel({results!r})", tmp_path).splitlines()
        assert [line for line in lines if line.startswith("hint")] == ([said] if said else [])


def test_a_table_on_a_narrow_terminal_has_a_line_for_each_cell(tmp_path: Path) -> None:
    run = "terminal.table(['status', 'score', 'run'], [['done', '41.33 ± 3.62 %', 'outputs/' + 30 * 'x']])"
    wide = ESCAPE.sub("", Terminal(run, tmp_path).read())
    assert "│ done" in wide
    narrow = ESCAPE.sub("", Terminal(run, tmp_path, columns=20).read()).replace("\r", "")
    assert narrow.split("\n")[:3] == ["status: done", "score: 41.33 ± 3.62 %", f"run: outputs/{30 * 'x'}"]


def test_the_result_on_a_terminal_is_framed(tmp_path: Path) -> None:
    run = f"results.result_panel({RESULTS!r})"
    lines = ESCAPE.sub("", Terminal(run, tmp_path, columns=160).read()).split("\r\n")
    assert "maml on omniglot, conv4, seed 3" in lines[0]
    assert lines[1].strip("│ ") == TEST_LINE
    assert lines[2].strip("│ ") == STEPS_LINE
    assert lines[4:6] == ["run directory: outputs/my day/run", "metalearn tensorboard 'outputs/my day'"]


@pytest.mark.parametrize("colours", [{"FORCE_COLOR": "1"}, {}])
def test_an_error_is_one_plain_line_on_stderr(tmp_path: Path, colours: dict[str, str]) -> None:
    run = command("terminal.error_line('failed:\\n  [red] loss  was nan')")
    done = subprocess.run(run, cwd=tmp_path, env=environment(**colours), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "failed: [red] loss  was nan\n")


def test_an_error_is_red_on_a_terminal_and_not_cut(tmp_path: Path) -> None:
    run = f"terminal.error_line({'long ' * 40!r} + 'end')"
    assert Terminal(run, tmp_path).read() == f"\x1b[31m{'long ' * 40}end\x1b[0m\r\n"


def test_the_result_of_a_regression_is_an_error_without_ways_and_chance(tmp_path: Path) -> None:
    test = {"mse": 0.34564, "ci95": 0.0123, "tasks": 600, "checkpoint": "best", "transductive": False}
    shown = RESULTS | {"task": {"ways": 1, "shots": 10}, "test": test | {"per_step": [3.0, 0.5, 0.34564]}}
    assert on_pipe(f"results.result_panel({shown!r})", tmp_path).splitlines()[:2] == [
        "test 10-shot: mse 0.3456 ± 0.0123 (95 % interval over 600 tasks; best checkpoint; not transductive)",
        "before adaptation 3.0000; after each inner step 0.5000, 0.3456",
    ]


def test_a_single_task_is_no_plural(tmp_path: Path) -> None:
    shown = RESULTS | {"test": RESULTS["test"] | {"tasks": 1}}
    assert "95 % interval over 1 task;" in on_pipe(f"results.result_panel({shown!r})", tmp_path)


def test_a_score_that_is_not_a_number_is_not_shown_as_one(tmp_path: Path) -> None:
    test = {key: value for key, value in RESULTS["test"].items() if key != "per_step"}
    shown = RESULTS | {"test": test | {"accuracy": None, "ci95": None}}
    assert on_pipe(f"results.result_panel({shown!r})", tmp_path).startswith(
        "test 5-way 1-shot: no accuracy (not a number) ("
    )
