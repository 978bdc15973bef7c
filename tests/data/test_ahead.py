"""Answers do not depend on what was made ahead, and no more is made than is likely to be used."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalearn.data.ahead import Ahead, Request
from metalearn.tasks import TaskShape

SHAPE = TaskShape(5, 1, 1)


def request(first: int, count: int = 4) -> Request:
    return Request(first, count, SHAPE)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 2)), max_size=12))
def test_every_request_is_answered_as_if_alone(asked: list[tuple[int, int]]) -> None:
    ahead = Ahead(lambda asked: ("made", asked))
    for first, count in asked:
        assert ahead(request(first, count)) == ("made", request(first, count))
    ahead.close()


def made_where(firsts: list[int]) -> tuple[list[int], list[int]]:
    """Which of the requests were answered from what the thread had made, and all that it made."""
    in_thread: list[int] = []
    here, answered = threading.get_ident(), []

    def make(asked: Request) -> int:
        if threading.get_ident() != here:
            in_thread.append(asked.first)
        return threading.get_ident()

    ahead = Ahead(make)
    for first in firsts:
        if ahead(request(first)) != here:
            answered.append(first)
    ahead.close()
    return answered, in_thread


def test_the_tasks_of_the_next_steps_are_made_ahead() -> None:
    answered, in_thread = made_where([0, 4, 8, 12])
    assert answered == [4, 8, 12]
    assert set(in_thread) <= {4, 8, 12, 16, 20}


def test_the_share_of_one_of_several_processes_is_made_ahead() -> None:
    """Each of three takes 4 of 12 tasks: from the second step on, its stride is known."""
    answered, _ = made_where([4, 16, 28, 40])
    assert answered == [28, 40]


def test_a_jump_costs_time_alone() -> None:
    answered, _ = made_where([0, 4, 100, 104, 108, 0, 4])
    assert answered == [4, 108, 4], "where the jump leads is known one request later"


def test_at_most_two_answers_wait() -> None:
    ahead = Ahead(lambda asked: asked)
    for first in (0, 4, 8, 50, 54):
        ahead(request(first))
        assert len(ahead._waiting) == 2
    ahead.close()
    assert not ahead._waiting


def test_what_fails_in_the_thread_is_raised_where_it_is_asked_for_and_only_there() -> None:
    def make(asked: Request) -> int:
        if asked.first == 8:
            raise MemoryError("no room for 8")
        return asked.first

    ahead = Ahead(make)
    assert ahead(request(0)) == 0
    assert ahead(request(4)) == 4
    with pytest.raises(MemoryError, match="no room for 8"):
        ahead(request(8))
    assert ahead(request(12)) == 12
    ahead.close()
