"""What TensorBoard's table says of a run."""

from __future__ import annotations

import pytest

from metalearn.runs.hparams import chosen, hparams
from tests.compose import compose


def test_a_plain_run_has_few() -> None:
    assert len(chosen(compose("algorithm=protonet"))) < 12
    assert {"algorithm", "dataset", "backbone", "ways", "shots", "seed"} <= set(hparams(compose()))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("train.optimizer", ("adam", "sgd")),
        ("train.steps", (10, 1000)),
        ("train.schedule", ("cosine", "constant")),
        ("backbone.filters", (8, 64)),
        ("dataset.classes", (100, 500)),
        ("task.train.ways", (5, 20)),
        ("task.train.ways", (7, 20)),
        ("task.queries", (5, 15)),
        ("eval.tasks", (10, 1000)),
        ("algorithm.inner_lr", (0.1, 0.5)),
        ("precision", ("fp32", "bf16")),
        ("seed", (0, 1)),
        ("backbone", ("conv4", "mlp")),
    ],
)
def test_two_jobs_of_a_sweep_never_have_equal_ones(key: str, values: tuple[object, object]) -> None:
    one, other = (hparams(compose("algorithm=maml", f"{key}={value}")) for value in values)
    assert one != other


def test_what_changes_no_result_is_left_out() -> None:
    assert hparams(compose("train.log_every=3", "device=cpu", "train.task_chunk=2")) == hparams(compose())
