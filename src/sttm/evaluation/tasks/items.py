"""One question about one video, whatever data set it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LETTERS = "ABCDEFGHIJ"
SHORT, MEDIUM = 60, 120  # seconds: the authors of STTM call shorter videos "short" and "medium"


@dataclass(frozen=True)
class Item:
    """A question of a task.

    Args:
        task: name of the task.
        question_id: unique within the task.
        video_id: the video; questions with the same one share a prefill.
        video: its file; None if it is made (the needle task) or was not looked for.
        question: in words, without options.
        options: texts without letters; empty for an open question.
        answer: the right letter, or the right text of an open question; None if it is hidden.
        groups: what accuracies are split by, e.g. ``{"duration": "short"}``.
        extra: other facts of the data set, e.g. ``{"try": "2"}``.
        subtitles: subtitle file, if the task wants one and there is one.
    """

    task: str
    question_id: str
    video_id: str
    video: Path | None
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    subtitles: Path | None = None

    @property
    def letters(self) -> str:
        """The letters of the options, e.g. ``"ABCD"``; empty for an open question."""
        return LETTERS[: len(self.options)]


def duration_group(seconds: float) -> str:
    """Name the length of a video as the authors of STTM do."""
    return "short" if seconds < SHORT else "medium" if seconds < MEDIUM else "long"
