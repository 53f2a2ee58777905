"""Questions about composed clips, each with exactly one right answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sttm.nano.clips import QUADRANTS
from training.real.clips import FRAMES, Clip, Needle
from training.real.sources import BACKGROUNDS, KINDS
from training.text import question_text

TASKS = ("kind", "quadrant", "count", "order", "change", "when", "cut", "background")
THIRDS = ("early", "middle", "late")

KIND_ALONE = ("What appears?", "What do you see appear?")
KIND_BY_QUADRANT = ("What appears at the {quadrant}?", "What do you see at the {quadrant}?")
QUADRANT = ("Where is the {kind}?", "In which corner is the {kind}?")
COUNT = ("How many things appear?", "How many things are there?")
ORDER_OF_TWO = ("Which came first, the {a} or the {b}?", "Which was first, the {a} or the {b}?")
ORDER_FIRST = ("What came first?", "What was the first thing?")
CHANGE = ("What replaces the {kind}?", "What comes in place of the {kind}?")
WHEN = ("When does the {kind} appear?", "When is the {kind} there?")
CUT = ("When is the cut?", "When does the scene change?")
BACKGROUND = ("What is in the background?", "Which video is in the background?")
BACKGROUND_START = ("What is in the background at the start?",)
BACKGROUND_END = ("What is in the background at the end?",)


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Args:
        task: one of `TASKS`.
        text: an English sentence.
        answer: a kind, a corner, a number, a third of the clip or the name of a background.
    """

    task: str
    text: str
    answer: str


def sentences() -> Iterator[str]:
    """Give every question and answer, to train the tokenizer on."""
    tables = [v for k, v in globals().items() if k.isupper() and k not in ("TASKS", "THIRDS")]
    phrasings = [text for table in tables if isinstance(table, tuple) for text in table]
    kinds, corners = list(KINDS), list(QUADRANTS)
    for text in phrasings:
        if text in kinds + corners:
            continue
        for i, kind in enumerate(kinds):
            names = {"kind": kind, "a": kind, "b": kinds[i - 1], "quadrant": corners[i % 4]}
            yield question_text(text.format(**names))
    for answer in (*kinds, *corners, *THIRDS, *BACKGROUNDS, "1", "2", "3", "4"):
        yield from [answer] * 20
    yield from ["system\nYou are a helpful assistant.\nuser\n"] * 5


def make_questions(clip: Clip, rng: np.random.Generator) -> list[Question]:
    """Ask every kind of question that has one answer, each in one random phrasing."""

    def ask(task: str, phrasings: Sequence[str], answer: str, **names: str) -> Question:
        text = phrasings[int(rng.integers(len(phrasings)))]
        return Question(task, text.format(**names), answer)

    found = [ask("count", COUNT, str(len(clip.needles)))] if clip.needles else []
    if len(clip.needles) == 1:
        found.append(ask("kind", KIND_ALONE, clip.needles[0].kind))
    corners = [needle.quadrant for needle in clip.needles]
    for needle in clip.needles:
        if corners.count(needle.quadrant) == 1:
            found.append(ask("kind", KIND_BY_QUADRANT, needle.kind, quadrant=needle.quadrant))
        found.append(ask("quadrant", QUADRANT, needle.quadrant, kind=needle.kind))
        found.append(ask("when", WHEN, _third(needle.start), kind=needle.kind))
    for i, early in enumerate(clip.needles):
        for late in clip.needles[i + 1 :]:
            a, b = (early, late) if rng.integers(2) else (late, early)
            found.append(ask("order", ORDER_OF_TWO, early.kind, a=a.kind, b=b.kind))
            if _same_place(early, late):
                found.append(ask("change", CHANGE, late.kind, kind=early.kind))
    if len(clip.needles) > 1:
        found.append(ask("order", ORDER_FIRST, clip.needles[0].kind))
    if len(clip.scenes) == 2:
        found.append(ask("cut", CUT, _third(clip.scenes[1].start)))
    first, last = clip.scenes[0].shot.source, clip.scenes[-1].shot.source
    if all(scene.shot.source == first for scene in clip.scenes) and first in BACKGROUNDS:
        found.append(ask("background", BACKGROUND, first))
    if first != last and {first, last} <= set(BACKGROUNDS):
        found.append(ask("background", BACKGROUND_START, first))
        found.append(ask("background", BACKGROUND_END, last))
    return found


def _same_place(early: Needle, late: Needle) -> bool:
    return (early.x, early.y, early.end) == (late.x, late.y, late.start)


def _third(frame: int) -> str:
    return THIRDS[3 * frame // FRAMES]
