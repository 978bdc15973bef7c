"""`precision=auto`: what it comes to on this machine, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.loop import OuterLoop
from metalearn.engine.machine import bf16_instructions
from metalearn.engine.precision import choose_precision, for_measuring, on_device
from metalearn.engine.progress import Outcome
from metalearn.tasks import TaskShape
from tests.compose import SMALL, compose

Source = Callable[..., TaskSource]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine with instructions for bf16 and a clock of its own, on which a step takes so many seconds."""
    seconds = {"fp32": 0.2, "bf16": 0.1, "now": 0.0}
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    monkeypatch.setattr("metalearn.engine.precision.bf16_instructions", lambda: "avx512_bf16")
    monkeypatch.setattr("metalearn.engine.precision.time.perf_counter", lambda: seconds["now"])
    return seconds


@pytest.fixture
def chosen(easy: ImageClasses, source: Source, machine: dict[str, float]) -> Callable[..., str]:
    def choose(asked: str, step: Callable[[str], None] | None = None) -> str:
        def gradient(_: object, batch: object, size: int, precision: str) -> None:
            if step is not None:
                step(precision)
            machine["now"] += machine[precision]

        config = compose("algorithm=protonet", *SMALL, f"precision={asked}")
        tasks = source().tasks(0, 4, TaskShape(5, 1, 5))
        return choose_precision(config, build_algorithm(config, easy), tasks, 2, gradient)

    return choose


def _must_not_measure(precision: str) -> None:
    pytest.fail("nothing had to be measured")


@pytest.mark.parametrize("asked", ["fp32", "tf32", "bf16"])
def test_a_precision_that_is_named_is_taken(chosen: Callable[..., str], asked: str) -> None:
    assert chosen(asked, _must_not_measure) == asked


def test_auto_is_bf16_where_a_step_is_clearly_faster_with_it(
    chosen: Callable[..., str], machine: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "metalearn"):
        assert chosen("auto") == "bf16"
        assert chosen("auto", _must_not_measure) == "bf16", "measured once, then remembered"
    line = "precision=auto: bf16, as 2 tasks took 200 ms with fp32 and 100 ms with bf16 (avx512_bf16)"
    assert [record.message for record in caplog.records] == [line, line]


def test_auto_is_fp32_where_bf16_is_hardly_faster(chosen: Callable[..., str], machine: dict[str, float]) -> None:
    machine["bf16"] = 0.19
    assert chosen("auto") == "fp32"


def test_auto_is_fp32_where_the_processor_has_no_instructions(
    chosen: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metalearn.engine.precision.bf16_instructions", lambda: None)
    with caplog.at_level("INFO", "metalearn"):
        assert chosen("auto", _must_not_measure) == "fp32"
    assert "no instructions for bf16" in caplog.text


def test_auto_is_fp32_where_the_network_cannot_do_with_bf16(
    chosen: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    def step(precision: str) -> None:
        if precision == "bf16":
            raise RuntimeError('"cholesky" not implemented for BFloat16')

    with caplog.at_level("INFO", "metalearn"):
        assert chosen("auto", step) == "fp32"
        assert chosen("auto", _must_not_measure) == "fp32"
    assert "did not work with bf16" in caplog.text


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "tf32"), ((7, 5), "fp32")])
def test_on_a_gpu_auto_is_tf32_where_it_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert on_device("auto", torch.device("cuda")) == expected
    assert on_device("bf16", torch.device("cuda")) == "bf16"
    assert on_device("auto", torch.device("mps")) == "fp32"
    assert on_device("auto", CPU) == "auto", "there a measurement decides"
    assert for_measuring("auto", CPU) == "fp32"


def test_the_choice_stays_that_of_the_run_that_is_resumed(easy: ImageClasses, source: Source) -> None:
    config: dict[str, Any] = compose("algorithm=protonet", *SMALL, "precision=auto")
    outcome = Outcome()
    outcome.restore({"steps": 1, "reported": 1, "task_chunk": 2, "precision": "bf16"})
    loop = OuterLoop(config, build_algorithm(config, easy), source(), source(), outcome=outcome)
    loop.choose_task_chunk()
    assert loop.outcome.precision == "bf16"
    loop.step()
    assert loop.outcome.steps == 2


def test_instructions_are_read_from_the_system(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    cpuinfo = tmp_path / "proc" / "cpuinfo"
    assert bf16_instructions(tmp_path) is None
    for flags, expected in (
        ("fma avx512f", None),
        ("avx512f avx512_bf16", "avx512_bf16"),
        ("avx512_bf16 amx_bf16", "amx_bf16"),
    ):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        assert bf16_instructions(tmp_path) == expected
