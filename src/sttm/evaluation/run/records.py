"""What a run writes: a line per question, an error included."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sttm.chat.records import Encoded
from sttm.evaluation.run.reading import EMPTY, Read
from sttm.evaluation.runner import TimedAnswer
from sttm.evaluation.tasks.items import Item

ANSWERS = "answers.jsonl"
RUN = "run.json"

Prefill = Literal["own", "first", "shared"]


@dataclass(frozen=True)
class Times:
    """Where the time of one answer went; seconds, as if the question had come alone.

    A video is decoded, encoded and prefilled once for all its questions. Those times stand at every
    question, since each would have waited for them; ``prefill`` says which one really did.

    Args:
        prefill: "first": the question waited for the video and its prefill; "shared": it used both
            of an earlier one; "own": the method depends on the question, so that it had a prefill
            to itself.
        video_s: decoding, processing and encoding the video, or loading its features.
        ttft_s: the language model's first forward, from the encoded video and the question to the
            first token, the reduction included; of a shared prefill its two parts together.
        answer_s: from the encoded video to the last token.
        paid_s: what this question added to the run: less than the others together where it shared.
    """

    prefill: Prefill
    video_s: float
    ttft_s: float
    answer_s: float
    paid_s: float

    @property
    def seconds(self) -> float:
        """End to end: from the file to the last token."""
        return self.video_s + self.answer_s


@dataclass(frozen=True)
class EvalAnswer:
    """One question, and what became of it; a line of ``answers.jsonl``.

    Args:
        question_id: unique in the task.
        video_id: the video.
        question: in words.
        options: texts without letters.
        expected: the right answer; None if it is hidden.
        groups: what accuracies are split by.
        extra: other facts of the data set.
        error: kind of what went wrong; None if it was answered.
        message: what went wrong.
        text: what the model wrote; None where it could not be asked.
        parsed: the letter or text read out of it; None if there is none.
        right: whether that is the right one; None where it is not scored: after an error, an empty
            answer only if the parser leaves it out, or if the right one is hidden.
        tokens_in: video tokens in front of the reduction.
        tokens_out: behind it.
        new_tokens: tokens of the answer, its end included.
        times: where the time went; None where the model could not be asked.
        warnings: what is wrong with the video's file, of which only some frames could be decoded.
    """

    question_id: str
    video_id: str
    question: str
    options: tuple[str, ...]
    expected: str | None
    groups: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    message: str | None = None
    text: str | None = None
    parsed: str | None = None
    right: bool | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    new_tokens: int | None = None
    times: Times | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # As JSON gives them back.
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "warnings", tuple(self.warnings))
        object.__setattr__(self, "groups", dict(self.groups))
        object.__setattr__(self, "extra", dict(self.extra))
        times: Any = self.times
        if isinstance(times, dict):
            object.__setattr__(self, "times", Times(**times))

    @property
    def key(self) -> str:
        """What no two answers of a run share."""
        return self.question_id

    @property
    def empty(self) -> bool:
        """Whether the model was asked and wrote nothing."""
        return self.error == EMPTY

    @property
    def retention(self) -> float | None:
        """Tokens out / tokens in; None where the model could not be asked."""
        return self.tokens_out / self.tokens_in if self.tokens_out and self.tokens_in else None

    def item(self, task: str) -> Item:
        """Restore what the task had asked, without its files."""
        return Item(
            task,
            self.question_id,
            self.video_id,
            None,
            self.question,
            self.options,
            self.expected,
            self.groups,
            self.extra,
        )

    def asks(self, item: Item) -> bool:
        """Whether it answers this question and no other under its id."""
        return self.item(item.task) == replace(item, video=None, subtitles=None)


def _of(item: Item) -> dict[str, Any]:
    return {
        "question_id": item.question_id,
        "video_id": item.video_id,
        "question": item.question,
        "options": item.options,
        "expected": item.answer,
        "groups": item.groups,
        "extra": item.extra,
    }


def failed(item: Item, kind: str, message: str) -> EvalAnswer:
    """Record that a question could not be asked or answered."""
    return EvalAnswer(**_of(item), error=kind, message=message)


def answered(
    item: Item,
    found: TimedAnswer,
    read: Read,
    *,
    video: Encoded,
    video_s: float,
    first: bool,
) -> EvalAnswer:
    """Record an answer, an empty one too.

    Args:
        item: the question.
        found: the answer.
        read: what was read out of it.
        video: what it is about.
        video_s: decoding and encoding the video.
        first: whether the video was decoded, encoded and prefilled for this question.
    """
    prefill: Prefill = "own" if not found.shared else "first" if first else "shared"
    answer_s = found.prefill + found.answering
    shared = 0.0 if first else video_s + found.prefill
    return EvalAnswer(
        **_of(item),
        error=read.error,
        message=read.message,
        text=found.text,
        parsed=read.parsed,
        right=read.right,
        tokens_in=video.tokens,
        tokens_out=found.tokens_out,
        new_tokens=found.new_tokens,
        times=Times(
            prefill,
            round(video_s, 6),
            round(found.ttft, 6),
            round(answer_s, 6),
            round(video_s + answer_s - shared, 6),
        ),
        warnings=video.source.warnings,
    )
