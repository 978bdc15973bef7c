"""The settings of a run, as objects: made once from a checked configuration, so that a slip in a name shows at once.

The YAML files state every value, its meaning and its limits; a test holds the fields here to their keys. A field has a default only where
runs that were stored before the setting existed lack it; the default is what those runs did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from metalearn.config.automatic import validation_tasks
from metalearn.tasks import Shape, shape_of

Config = dict[str, Any]


class _Group:
    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Self:
        """Reads one node of the configuration; ignores keys that this version does not know."""
        known = {entry.name for entry in fields(cls)}  # type: ignore[arg-type]  # every subclass is a dataclass
        return cls(**{key: value for key, value in node.items() if key in known})


@dataclass(frozen=True)
class TrainSettings(_Group):
    """`train.*`: the outer loop."""

    steps: int
    meta_batch_size: int
    optimizer: str
    lr: float
    schedule: str
    lr_final: float
    schedule_every: int
    schedule_gamma: float
    clip_norm: float | None
    task_chunk: int | str  # a number or auto
    log_every: int
    val_every: int
    val_tasks: int | str  # a number or auto
    checkpoint_every: int | str  # outer steps, or minutes as in 10min
    early_stop: int | None
    max_loss: float
    cuda_graph: bool = True
    log_seconds: float = 60.0
    keep: str = "all"
    snapshots: int = 0
    momentum: float = 0.0
    weight_decay: float = 0.0
    warmup: int = 0
    average: float | None = None
    init: str | None = None
    augment: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def earlier(cls) -> dict[str, Any]:
        """The settings that earlier versions did not have -> the value that means what those did."""
        return {entry.name: entry.default for entry in fields(cls) if entry.default is not MISSING}

    @property
    def validation_tasks(self) -> int:
        """How many validation tasks `train.val_tasks` stands for."""
        return validation_tasks(vars(self))


@dataclass(frozen=True)
class EvalSettings(_Group):
    """`eval.*`: validation and test tasks."""

    tasks: int
    seed: int
    task_chunk: int
    checkpoint: str
    transductive: bool | None
    allow_seen: bool = False
    pictures: int = 0
    ensemble: int = 1


@dataclass(frozen=True)
class Names(_Group):
    """`names.*`: the choices behind a configuration, for reports."""

    algorithm: str
    backbone: str
    dataset: str
    experiment: str | None


@dataclass(frozen=True)
class Settings:
    """All settings of a run except those of its data set, backbone and algorithm."""

    seed: int
    device: str
    precision: str
    names: Names
    train_task: Shape  # task.train
    task: Shape  # of validation and test
    train: TrainSettings
    eval: EvalSettings
    images: str = "auto"  # as runs were made before the setting, where the images fit
    features: str = "auto"

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Reads a checked configuration."""
        return cls(
            seed=config["seed"],
            device=config["device"],
            precision=config["precision"],
            names=Names.of(config["names"]),
            train_task=shape_of(config["task"]["train"], "task.train"),
            task=shape_of(config["task"]),
            train=TrainSettings.of(config["train"]),
            eval=EvalSettings.of(config["eval"]),
            images=config.get("images", "auto"),
            features=config.get("features", "auto"),
        )
