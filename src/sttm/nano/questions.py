"""Short English questions about a generated clip, each with exactly one right answer.

Needles of a clip differ in digit and in colour, so either names a needle. Two needles are
compared in time only when the first has gone before the second appears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sttm.nano.clips import Clip, Needle
from sttm.nano.scenes import relation

Task = Literal[
    "digit",
    "colour",
    "quadrant",
    "count",
    "order",
    "background",
    "texture",
    "pan",
    "relation",
    "when",
]

TASKS: tuple[Task, ...] = ("digit", "colour", "quadrant", "count", "order")
SCENE_TASKS: tuple[Task, ...] = (*TASKS, "background", "texture", "pan", "relation")

# Phrasings by what they need: {digit} and {colour} name a needle; {a}, {b} are two digits.
DIGIT_ALONE = (
    "Which digit appears?",
    "What digit is shown in the video?",
    "Which digit do you see?",
)
DIGIT_BY_COLOUR = (
    "Which digit is {colour}?",
    "What digit is shown in {colour}?",
    "What is the {colour} digit?",
)
COLOUR_ALONE = (
    "What colour is the digit?",
    "What color is the digit?",
    "Which colour does the digit have?",
)
COLOUR_BY_DIGIT = (
    "What colour is the digit {digit}?",
    "What color is the {digit}?",
    "Which colour does the {digit} have?",
)
QUADRANT_ALONE = (
    "In which corner is the digit?",
    "Where is the digit?",
    "In which quadrant does the digit appear?",
)
QUADRANT_BY_DIGIT = (
    "In which corner is the {digit}?",
    "Where is the digit {digit}?",
    "In which quadrant does the {digit} appear?",
)
QUADRANT_BY_COLOUR = ("In which corner is the {colour} digit?", "Where is the {colour} digit?")
COUNT = (
    "How many digits appear?",
    "How many digits are there?",
    "How many different digits are shown in the video?",
)
ORDER_OF_TWO = (
    "Which digit came first, {a} or {b}?",
    "Which came first, {a} or {b}?",
    "Which appeared first, the {a} or the {b}?",
)
ORDER_FIRST = ("Which digit came first?", "What was the first digit?")
# Of scenes only.
BACKGROUND = ("What colour is the background?", "Which colour does the background have?")
BACKGROUND_START = (
    "What colour is the background at the start?",
    "Which colour does the background have at the start?",
)
BACKGROUND_END = (
    "What colour is the background at the end?",
    "Which colour does the background have at the end?",
)
TEXTURE = ("What pattern is on the background?", "Which pattern does the background have?")
TEXTURE_START = (
    "What pattern is on the background at the start?",
    "Which pattern does the background have at the start?",
)
TEXTURE_END = (
    "What pattern is on the background at the end?",
    "Which pattern does the background have at the end?",
)
PAN = ("Which way does the camera pan?", "In which direction does the camera pan?")
RELATION_BY_DIGIT = (
    "Seen from the white shape, where is the {digit}?",
    "On which side of the white shape is the {digit}?",
)
RELATION_BY_COLOUR = (
    "Seen from the white shape, where is the {colour} digit?",
    "On which side of the white shape is the {colour} digit?",
)


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Attributes:
        task: what it asks for.
        text: the question, one English sentence.
        answer: a numeral, a colour, a quadrant such as "top left", or for scenes a pattern, a
            direction or a side.
    """

    task: Task
    text: str
    answer: str


def make_questions(clip: Clip, seed: int) -> list[Question]:
    """Every kind of question that is unambiguous for this clip, each in one random phrasing.

    Args:
        clip: a generated clip. Without needles only the count can be asked.
        seed: chooses the phrasings and the order of the two digits in a comparison.

    Returns:
        questions in a fixed order of tasks; the same clip and seed give the same list.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    needles = clip.needles
    questions = [_ask(rng, "count", COUNT, str(len(needles)))]
    if len(needles) == 1:
        questions += _about_the_only(needles[0], rng)
    for needle in needles:
        questions += _about_one(needle, rng)
    return questions + _about_order(needles, rng)


def _ask(
    rng: np.random.Generator, task: Task, phrasings: Sequence[str], answer: str, **names: object
) -> Question:
    text = phrasings[int(rng.integers(len(phrasings)))]
    return Question(task, text.format(**names), answer)


def _about_the_only(needle: Needle, rng: np.random.Generator) -> list[Question]:
    return [
        _ask(rng, "digit", DIGIT_ALONE, str(needle.digit)),
        _ask(rng, "colour", COLOUR_ALONE, needle.colour),
        _ask(rng, "quadrant", QUADRANT_ALONE, needle.quadrant),
    ]


def _about_one(needle: Needle, rng: np.random.Generator) -> list[Question]:
    digit, colour = str(needle.digit), needle.colour
    where = QUADRANT_BY_DIGIT + QUADRANT_BY_COLOUR
    return [
        _ask(rng, "digit", DIGIT_BY_COLOUR, digit, colour=colour),
        _ask(rng, "colour", COLOUR_BY_DIGIT, colour, digit=digit),
        _ask(rng, "quadrant", where, needle.quadrant, digit=digit, colour=colour),
    ]


def _about_order(needles: tuple[Needle, ...], rng: np.random.Generator) -> list[Question]:
    questions = []
    for i, early in enumerate(needles):
        for late in needles[i + 1 :]:
            if early.end <= late.start:
                a, b = (early, late) if rng.integers(2) else (late, early)
                pair = {"a": a.digit, "b": b.digit}
                questions.append(_ask(rng, "order", ORDER_OF_TWO, str(early.digit), **pair))
    if len(needles) > 1:
        first = needles[0]
        if all(first.end <= n.start for n in needles[1:]):
            questions.append(_ask(rng, "order", ORDER_FIRST, str(first.digit)))
    return questions


def scene_questions(clip: Clip, seed: int) -> list[Question]:
    """Every kind of question that is unambiguous for this scene, each in one random phrasing.

    How many digits there are is asked only where all are visible for about as long (the longest
    at most four times as long as the shortest).

    Args:
        clip: of ``scenes.make_scene``.
        seed: chooses the phrasings and the order of the two digits in a comparison.

    Returns:
        questions in a fixed order of tasks; the same clip and seed give the same list.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    lengths = [n.length for n in clip.needles]
    questions = make_questions(clip, seed)
    if max(lengths) > 4 * min(lengths):
        questions = [q for q in questions if q.task != "count"]
    questions += _about_background(clip, rng)
    if clip.kind == "pan" and clip.backdrops[0].travel:
        questions.append(_ask(rng, "pan", PAN, clip.backdrops[0].direction))
    return questions + _about_sides(clip, rng)


def _about_background(clip: Clip, rng: np.random.Generator) -> list[Question]:
    start, end = clip.backdrops[0], clip.backdrops[-1]
    questions = []
    if start is end:
        questions.append(_ask(rng, "background", BACKGROUND, start.colour))
        questions.append(_ask(rng, "texture", TEXTURE, start.pattern))
    if start is not end or rng.integers(4) == 0:
        questions.append(_ask(rng, "background", BACKGROUND_START, start.colour))
        questions.append(_ask(rng, "background", BACKGROUND_END, end.colour))
        questions.append(_ask(rng, "texture", TEXTURE_START, start.pattern))
        questions.append(_ask(rng, "texture", TEXTURE_END, end.pattern))
    return questions


def _about_sides(clip: Clip, rng: np.random.Generator) -> list[Question]:
    """Where the camera stands still and no cut changes the landmark while the needle is there."""
    still = {b.start: b for b in clip.backdrops if b.travel == 0}
    questions = []
    for needle in clip.needles:
        for landmark in clip.landmarks:
            home = still.get(landmark.start)
            if home is None or not (home.start <= needle.start and needle.end <= home.end):
                continue
            side = relation(needle, landmark)
            if side is not None:
                where = RELATION_BY_DIGIT + RELATION_BY_COLOUR
                names = {"digit": needle.digit, "colour": needle.colour}
                questions.append(_ask(rng, "relation", where, side, **names))
    return questions
