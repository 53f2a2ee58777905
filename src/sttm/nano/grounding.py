"""Temporal grounding: questions about the seconds in which something is to be seen.

They stand apart from ``questions``, whose tables made the tokenizer of nano, and nano was not
trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sttm.nano.chance import pick
from sttm.nano.clips import Clip
from sttm.nano.questions import Question, Task

GROUNDING_TASKS: tuple[Task, ...] = ("when",)
WHEN_DIGIT = ("When is the {digit} shown?", "When do you see the digit {digit}?")
WHEN_COLOUR = ("When is the {colour} digit shown?", "When do you see the {colour} digit?")


def grounding_questions(
    clip: Clip, seed: int, seconds: Sequence[int] | None = None
) -> list[Question]:
    """Ask when each needle is to be seen, each in one random phrasing.

    What is there from the first frame to the last is not asked for.

    Args:
        clip: of ``scenes.make_scene``.
        seed: chooses the phrasings.
        seconds: at which its frames stand; None for one after the other, one per second.

    Returns:
        questions whose answers are spans of seconds such as "4-7": it is to be seen from the
        beginning of second 4 to the beginning of second 7.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    asked = []
    for needle in clip.needles:
        text = pick(rng, WHEN_DIGIT + WHEN_COLOUR)
        names = {"digit": needle.digit, "colour": needle.colour}
        asked.append((text.format(**names), needle.start, needle.end))
    seconds = range(len(clip.frames)) if seconds is None else seconds
    return [
        Question("when", text, span_text(seconds[start], seconds[end - 1] + 1))
        for text, start, end in asked
        if end - start < len(clip.frames)
    ]


def span_text(start: int, end: int) -> str:
    """Write a span of seconds as the answers have it: "4-7"."""
    return f"{start}-{end}"
