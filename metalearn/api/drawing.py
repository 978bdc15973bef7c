"""`draw_tasks`: the tasks themselves, without a learner."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from metalearn.api.composing import errors_name_wishes, settings_composer, written
from metalearn.errors import UserError

if TYPE_CHECKING:
    from metalearn.tasks import TaskBatch


def draw_tasks(
    *overrides: str,
    split: str = "test",
    first: int = 0,
    count: int = 1,
    config_dir: str | None = None,
    plugins: tuple[str, ...] = (),
    **settings: Any,
) -> TaskBatch:
    """The tasks that a run with these settings meets: `draw_tasks(dataset="omniglot", task="20way_1shot").support.x`.

    Args:
        overrides, config_dir, plugins, settings: as for `train`.
        split: "train" (drawn with `seed`, of the size of `task.train`, images without random changes), "val" or "test" (with `eval.seed`).
        first: the number of the first task, 0 or more. Task i is the same in every call with these settings.
        count: T, 1 or more.

    Returns:
        On the CPU: `support.x` [T, N*K, ...], `support.y` [T, N*K], the same of `query`; `classes` [T, N]: numbers of classes within the split.

    Raises:
        UserError: a setting is wrong, or the split cannot serve such tasks.
    """
    if split not in ("train", "val", "test") or first < 0 or count < 1:
        raise UserError(
            f"draw_tasks: split={split!r}, first={first}, count={count} is not allowed (train, val or test; at least 0; at least 1)"
        )
    asked = [*overrides, *written(settings)]
    with settings_composer(asked, config_dir, plugins) as composing:
        config, _ = composing.job(asked, 0)
    import torch

    from metalearn.engine.build import build_dataset
    from metalearn.engine.settings import Settings

    typed = Settings.of(config)
    training = split == "train"
    shape = typed.train_task if training else typed.task
    with errors_name_wishes():
        dataset = build_dataset(config)
        dataset.check(split, shape)
    with closing(dataset.source(split, typed.seed if training else typed.eval.seed, torch.device("cpu"))) as source:
        return source.tasks(first, count, shape)
