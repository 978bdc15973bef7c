"""The outer loop with everybody who listens to it: the tracker, the console, the keeper of checkpoints, a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metalearn.engine.interrupts import Interrupts
from metalearn.engine.loop import OuterLoop
from metalearn.errors import Interrupted, Pruned
from metalearn.runs.checkpoint import Keeper

Listener = Callable[[int, dict[str, float]], None]  # (outer step, tag -> value)
Counter = Callable[[int], None]  # (outer steps done), after every one of them
ShouldPrune = Callable[[int, float], bool]  # (outer step, validation score) -> whether to stop here


def train(
    loop: OuterLoop,
    keeper: Keeper,
    interrupts: Interrupts,
    listeners: Sequence[Listener] = (),
    should_prune: ShouldPrune | None = None,
    counters: Sequence[Counter] = (),
) -> None:
    """Iterates the loop to its end, passes on what it reports and lets the keeper save.

    Args:
        listeners: called where something was due: losses, a validation.
        should_prune: called after every validation.
        counters: called after every outer step, before the listeners.

    Raises:
        Diverged: as the loop does; last.pt holds the state before that.
        Interrupted: by a signal; last.pt holds the state after the last outer step.
        Pruned: `should_prune` said so before the last outer step; last.pt holds the state there.
    """
    loop.choose_task_chunk()
    try:
        with interrupts.held():
            for reported in loop:
                for count in counters:
                    count(reported.step)
                if reported.values:
                    for listen in listeners:
                        listen(reported.step, reported.values)
                # Before saving: a run that is resumed does not ask again.
                pruned = (
                    should_prune is not None
                    and reported.score is not None
                    and should_prune(reported.step, reported.score.value)
                )
                keeper.saw(reported, loop, last=pruned)
                if pruned and reported.step < loop.settings.train.steps:
                    raise Pruned(reported.step)
    except Interrupted:
        with interrupts.held():
            keeper.save_last(loop)
        raise
