"""The `test` entry of results.json and eval-<time>.json: its keys, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from metalearn.errors import NotFinite
from metalearn.runs.groups import Group, grouped, means

if TYPE_CHECKING:  # whoever only reads results needs no torch
    from metalearn.engine.evaluate import Scores
    from metalearn.kinds import Scale


@dataclass(frozen=True)
class Interval:
    """A mean over test tasks with half the widths of its 95 % intervals."""

    mean: float
    ci95: float
    ci95_classes: float | None


@dataclass(frozen=True)
class EnsembleRecord:
    """The `ensemble` entry of a test: which checkpoints' probabilities were averaged, beside the first of them alone on the same tasks."""

    steps: list[int]  # outer steps behind each member, the one that a single evaluation takes first
    members: list[float]  # the score of each
    alone: Interval  # of the first member
    difference: Interval  # of the ensemble's score and that, task by task

    @classmethod
    def of(cls, scores: Scores, steps: list[int], members: list[float]) -> EnsembleRecord:
        """Of an ensemble's scores, which hold those of its first member alone."""
        from metalearn.engine.ensemble import ALONE
        from metalearn.intervals import interval95

        alone = scores.further[ALONE]
        return cls(
            steps,
            members,
            *(
                Interval(float(values.mean()), interval95(values), scores.ci95_classes(values))
                for values in (alone, scores.score[-1] - alone)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TestRecord:
    """The `test` entry: the score of one checkpoint on fixed test tasks."""

    kind: Scale
    score: float  # mean over tasks of the kind's score
    ci95: float  # half the width of its 95 % interval over tasks
    ci95_classes: float | None  # the same over tasks and classes; None where there is none
    tasks: int
    loss: float
    transductive: bool
    checkpoint: str  # best or last
    step: int  # outer steps behind the checkpoint
    scored_steps: list[int]  # inner steps done in each scored state, [S]
    per_step: list[float]  # the score in each of these states, [S]; the last one is `score`
    further: dict[str, Interval]  # what else the algorithm's paper reports
    # Half the width of each state's 95 % interval over tasks, [S].
    per_step_ci95: list[float] = field(default_factory=list)
    chance: float | None = None  # the mean score of guessing, where it differs from task to task
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)  # of test tasks: by what -> group -> its scores
    # Where groups have names: by what -> all with the same weight.
    mean_of_groups: dict[str, Group] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = (
        None  # ece, nll, brier and bins of all queries together; None where tasks have no classes
    )
    seen_classes: int = 0  # upright test classes that the model was trained on (eval.allow_seen)
    seen_in_pretraining: dict[str, Any] | None = (
        None  # those that its backbone was (seen.py); None: it was not pre-trained
    )
    ensemble: EnsembleRecord | None = None  # None: of one checkpoint
    seconds: float | None = None  # of the test; an evaluation does not record it here

    @classmethod
    def of(
        cls,
        scores: Scores,
        *,
        transductive: bool,
        checkpoint: str,
        step: int,
        seconds: float | None = None,
        seen_classes: int = 0,
        seen_in_pretraining: dict[str, Any] | None = None,
    ) -> TestRecord:
        """Averages over tasks.

        Raises:
            NotFinite: a task has no score.
        """
        from metalearn.intervals import interval95

        if scores.not_finite:
            raise NotFinite(scores.not_finite, scores.loss.numel())
        groups = grouped(scores)
        return cls(
            kind=scores.kind,
            score=scores.mean,
            ci95=scores.ci95,
            ci95_classes=scores.ci95_classes(scores.score[-1]),
            tasks=scores.loss.numel(),
            loss=float(scores.loss.mean()),
            transductive=transductive,
            checkpoint=checkpoint,
            step=step,
            scored_steps=scores.steps,
            per_step=[float(score) for score in scores.score.mean(1)],
            per_step_ci95=[interval95(score) for score in scores.score],
            further={
                name: Interval(float(values.mean()), interval95(values), scores.ci95_classes(values))
                for name, values in scores.further.items()
            },
            chance=scores.chance,
            groups=groups,
            mean_of_groups=means(scores, groups),
            calibration=scores.calibration,
            seconds=seconds,
            seen_classes=seen_classes,
            seen_in_pretraining=seen_in_pretraining,
        )

    @property
    def tags(self) -> dict[str, float]:
        """The test scores by the tags of metrics.csv."""
        main = {f"test/{self.kind.score}": self.score, "test/ci95": self.ci95}
        if self.ci95_classes is not None:
            main["test/ci95_classes"] = self.ci95_classes
        return (
            main | {"test/loss": self.loss} | {f"test/{name}": interval.mean for name, interval in self.further.items()}
        )

    def to_json(self) -> dict[str, Any]:
        """The entry; the states before the last one are left out where there are none."""
        score, record = self.kind.score, {}
        if len(self.per_step) > 1:
            record = {
                f"{score}_before": self.per_step[0],
                "per_step": self.per_step,
                "per_step_ci95": self.per_step_ci95,
                "scored_steps": self.scored_steps,
            }
        if self.further:
            record["further"] = {name: asdict(interval) for name, interval in self.further.items()}
        if self.groups:
            record["groups"] = {
                what: {name: group.to_json(score) for name, group in groups.items()}
                for what, groups in self.groups.items()
            }
        if self.mean_of_groups:
            record["mean_of_groups"] = {what: group.to_json(score) for what, group in self.mean_of_groups.items()}
        return {
            score: self.score,
            "ci95": self.ci95,
            "ci95_classes": self.ci95_classes,
            "tasks": self.tasks,
            "loss": self.loss,
            "transductive": self.transductive,
            "checkpoint": self.checkpoint,
            "adapt_steps": self.scored_steps[-1],
            **({} if self.chance is None else {"chance": self.chance}),
            **({} if self.calibration is None else {"calibration": dict(self.calibration)}),
            **record,
            **({} if self.ensemble is None else {"ensemble": asdict(self.ensemble)}),
            "step": self.step,
            **({} if self.seen_classes == 0 else {"seen_classes": self.seen_classes}),
            **({} if self.seen_in_pretraining is None else {"seen_in_pretraining": self.seen_in_pretraining}),
            **({} if self.seconds is None else {"seconds": self.seconds}),
        }
