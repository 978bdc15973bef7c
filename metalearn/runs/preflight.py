"""What can be known to be wrong with a configuration before a file is written."""

from __future__ import annotations

from typing import Any

from metalearn.engine.build import build_algorithm, build_dataset, check_tasks
from metalearn.engine.device import choose_device
from metalearn.engine.optimizer import check_schedule
from metalearn.engine.placement import placed
from metalearn.engine.ranks import check_share, launched
from metalearn.engine.settings import Settings
from metalearn.errors import UserError
from metalearn.runs.initial import read_initial, start_from
from metalearn.runs.seen import refuse_seen_classes


def preflight(config: dict[str, Any]) -> None:
    """Everything that can be known to be wrong before a file is written: device, schedule, dataset, task, algorithm.

    Raises:
        UserError: with one line for the user. Any other exception is a fault in the program or in a plug-in.
    """
    device, settings = choose_device(config), Settings.of(config)
    check_schedule(settings.train)
    if settings.eval.ensemble > 1:
        raise UserError(
            f"eval.ensemble={settings.eval.ensemble} is for metalearn eval: train with train.snapshots={settings.eval.ensemble} "
            "and give it there"
        )
    check_share(launched(), settings.train.meta_batch_size)
    dataset = build_dataset(config)
    placed(dataset, settings.images, device)
    dataset.check_augment(settings.train.augment)
    algorithm = build_algorithm(config, dataset)  # first: an algorithm for another kind of task may have set task.train
    check_tasks(dataset, config["task"], *(("train",) if settings.train.steps else ()), "val", "test")
    if isinstance(ways := config["task"].get("max_ways", config["task"]["ways"]), int):
        algorithm.check_ways(ways)
    if settings.eval.transductive is not None:
        algorithm.set_transductive(settings.eval.transductive)
    if settings.train.init is not None:
        earlier = read_initial(settings.train.init)
        start_from(algorithm, config["algorithm"], earlier, settings.train.init)
        tested = tuple(map(str, dataset.classes("test")))
        refuse_seen_classes(earlier["train_classes"], tested, settings.eval.allow_seen)
