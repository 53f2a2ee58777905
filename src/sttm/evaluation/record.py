"""What a run writes: a line per question, an error included."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sttm.chat.records import Encoded
from sttm.evaluation.tasks import Item, Task

ANSWERS = "answers.jsonl"
RUN = "run.json"

# Kinds of errors that are results: nothing is gained by asking again.
OUT_OF_REACH = "budget out of reach"
EMPTY = "empty answer"
# The published evaluation and the benchmarks' own find no letter in an empty text.
_SCORES_EMPTY = ("published", "official", "official-alternative")

Prefill = Literal["own", "first", "shared"]


@dataclass(frozen=True)
class Read:
    """What was read out of a text.

    Args:
        parsed: the letter or text; None if there is none.
        right: whether that is the right one; None if it is not scored.
        error: `EMPTY`, or None.
        message: what is wrong.
    """

    parsed: str | None
    right: bool | None
    error: str | None = None
    message: str | None = None


def read_answer(task: Task, item: Item, text: str, parser: str | None) -> Read:
    """Read an answer.

    Args:
        task: of the question.
        item: the question.
        text: what the model wrote; with nothing in it an error. The parser says whether that is
            scored: only for "clean" it is no answer, the others have it wrong, as their sources do
            (or leave it out, where those do).
        parser: see `Task.parse`; None for the task's own.
    """
    if text.strip():
        parsed = task.parse(text, item, parser)
        return Read(parsed, task.right(parsed, item, parser))
    scores_empty = (parser or task.parsing.default) in _SCORES_EMPTY
    right = task.right(None, item, parser) if scores_empty else None
    how = "not scored" if right is None else "counted as wrong, as this parser's source does"
    return Read(None, right, EMPTY, f"the model wrote nothing; {how}.")


@dataclass(frozen=True)
class TimedAnswer:
    """One answer, and the time that it took; seconds.

    Args:
        text: the answer.
        new_tokens: tokens of the answer, its end included; None where it came in a batch.
        tokens_out: video tokens behind the reduction.
        shared: whether the prefill of the video served other questions, too.
        prefill: the forward over the video and what stands in front of it; 0 where the question
            went through in the same forward.
        first_forward: the forward over the question (with the video, if not shared).
        answering: from the question to the last token, ``first_forward`` included.
    """

    text: str
    new_tokens: int | None
    tokens_out: int
    shared: bool
    prefill: float
    first_forward: float
    answering: float

    @property
    def ttft(self) -> float:
        """The language model's time from video and question to the first token."""
        return self.prefill + self.first_forward


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
class AnswerRecord:
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
        new_tokens: tokens of the answer, its end included; None in a batch.
        times: where the time went; None in a batch, or where the model could not be asked.
        warnings: what is wrong with the video's file, of which only some frames could be decoded.
        setting: method and budget, e.g. ``sttm 0.3``; empty in files of earlier versions.
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
    setting: str = ""

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
    def settled(self) -> bool:
        """Whether nothing would be gained by asking again."""
        return self.error in (None, OUT_OF_REACH)

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


def failed(item: Item, kind: str, message: str, setting: str = "") -> AnswerRecord:
    """Record that a question could not be asked or answered."""
    return AnswerRecord(**_of(item), error=kind, message=message, setting=setting)


def answered(
    item: Item,
    found: TimedAnswer,
    read: Read,
    *,
    setting: str,
    video: Encoded,
    video_s: float,
    waited: float,
) -> AnswerRecord:
    """Record an answer, an empty one too.

    Args:
        item: the question.
        found: the answer.
        read: what was read out of it.
        setting: method and budget.
        video: what it is about.
        video_s: decoding and encoding the video.
        waited: how much of that and of a shared prefill passed for this question alone; 0 where an
            earlier question had both.
    """
    first: Prefill = "first" if waited else "shared"
    shared = video_s + found.prefill - waited
    answer_s = found.prefill + found.answering
    times = Times(
        first if found.shared else "own",
        round(video_s, 6),
        round(found.ttft, 6),
        round(answer_s, 6),
        round(video_s + answer_s - shared, 6),
    )
    return AnswerRecord(
        **_of(item),
        **vars(read),
        text=found.text,
        tokens_in=video.tokens,
        tokens_out=found.tokens_out,
        new_tokens=found.new_tokens,
        times=None if found.new_tokens is None else times,
        warnings=video.source.warnings,
        setting=setting,
    )
