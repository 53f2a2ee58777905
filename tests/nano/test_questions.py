from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.nano.clips import COLOUR_NAMES, QUADRANTS, Clip, Needle, make_clip
from sttm.nano.questions import TASKS, Question, make_questions


def named(text: str, needles: tuple[Needle, ...]) -> list[Needle]:
    """Needles that fit the digit or the colour a question names; all when it names none."""
    words = re.findall(r"\w+", text)
    digits = [int(w) for w in words if w.isdigit()]
    colours = [w for w in words if w in COLOUR_NAMES]
    return [
        n
        for n in needles
        if (not digits or n.digit in digits) and (not colours or n.colour in colours)
    ]


def answers(question: Question, needles: tuple[Needle, ...]) -> set[str]:
    """Every answer that a reader of the needle list could give: a slow, literal twin."""
    fit = named(question.text, needles)
    if question.task == "count":
        return {str(len(fit))}
    if question.task == "digit":
        return {str(n.digit) for n in fit}
    if question.task == "colour":
        return {n.colour for n in fit}
    if question.task == "quadrant":
        return {n.quadrant for n in fit}
    frames = sorted({t for n in fit for t in range(n.start, n.end)})
    by_frame = [[n for n in fit if n.start <= t < n.end] for t in frames]
    return {str(n.digit) for n in by_frame[0]}


def empty(needles: tuple[Needle, ...]) -> Clip:
    return Clip(np.zeros((32, 128, 128, 3), np.uint8), needles, 1.0, 0)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**31), frames=st.sampled_from([1, 2, 3, 8, 24]))
def test_every_question_has_exactly_the_given_answer(seed: int, frames: int) -> None:
    clip = make_clip(seed, frames, size=64)
    for question in make_questions(clip, seed):
        assert answers(question, clip.needles) == {question.answer}, question


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), frames=st.sampled_from([2, 3, 6]))
def test_compared_needles_are_never_visible_together(seed: int, frames: int) -> None:
    clip = make_clip(seed, frames, size=64)
    for question in make_questions(clip, seed):
        if question.task != "order" or " or " not in question.text:
            continue
        a, b = named(question.text, clip.needles)
        assert a.end <= b.start or b.end <= a.start


def test_all_tasks_and_answers_come_up() -> None:
    asked = [q for s in range(200) for q in make_questions(make_clip(s, 16, size=64), s)]
    assert {q.task for q in asked} == set(TASKS)
    given_answers = {q.answer for q in asked}
    assert given_answers >= {*map(str, range(10)), *COLOUR_NAMES, *QUADRANTS}
    assert len({re.sub(r"\d", "#", q.text) for q in asked}) > 30


def test_order_does_not_give_itself_away() -> None:
    """The first number of "3 or 7" is right about half of the time."""
    pairs = []
    for s in range(300):
        for q in make_questions(make_clip(s, 16, size=64, num_needles=3), s):
            if q.task == "order" and " or " in q.text:
                pairs.append(re.findall(r"\d", q.text)[0] == q.answer)
    assert 0.42 < sum(pairs) / len(pairs) < 0.58


def test_the_same_seed_asks_the_same() -> None:
    clip = make_clip(1, 8)
    assert make_questions(clip, 3) == make_questions(clip, 3)
    assert make_questions(clip, 3) != make_questions(clip, 4)


def test_without_needles_only_the_count_is_asked() -> None:
    (question,) = make_questions(empty(()), 0)
    assert (question.task, question.answer) == ("count", "0")


@pytest.mark.parametrize(("start", "asked"), [(4, 0), (5, 0), (6, 2)])
def test_overlapping_needles_are_not_compared(start: int, asked: int) -> None:
    needles = (Needle(3, "red", 4, 2, 5, 5, 20), Needle(7, "blue", start, 1, 90, 90, 20))
    order = [q for q in make_questions(empty(needles), 0) if q.task == "order"]
    assert len(order) == asked
