"""What becomes of a text: an answer, right or wrong, or no answer at all."""

from dataclasses import dataclass

from sttm.evaluation.tasks import Item, Task

EMPTY = "empty answer"  # a kind of error
# The published evaluation and the benchmarks' own find no letter in an empty text.
_SCORES_EMPTY = ("published", "official", "official-alternative")


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
