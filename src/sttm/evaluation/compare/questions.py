"""The questions on which a reduced model is compared with the unreduced one: a text file."""

from dataclasses import dataclass
from pathlib import Path

from sttm.errors import ConfigError

_HERE = Path(__file__).parent
_FORM = "expected lines such as 'when: What happens first?'"


@dataclass(frozen=True)
class Question:
    """A question about any video.

    Args:
        kind: what it asks for, e.g. "when"; results are told by kind.
        text: in words.
    """

    kind: str
    text: str


def default_questions(*, nano: bool = False) -> list[Question]:
    """Return the packaged questions: for any model, or in the words that nano knows."""
    return read_questions(_HERE / ("questions-nano.txt" if nano else "questions.txt"))


def read_questions(path: Path) -> list[Question]:
    """Read questions, one a line: ``KIND: QUESTION``. Empty lines and those with # are passed over.

    Raises:
        ConfigError: the file cannot be read, holds no question, or one twice, or another line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise ConfigError(
            f"--questions: got {path}, which cannot be read ({reason}), expected a text file of "
            f"questions, {_FORM}."
        ) from error
    questions: list[Question] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        kind, _, text = (part.strip() for part in line.partition(":"))
        question = Question(kind, text)
        if not kind or not text or question in questions:
            raise ConfigError(
                f"--questions: got {line.strip()[:60]!r} in line {number} of {path}, {_FORM}, each "
                "once."
            )
        questions.append(question)
    if not questions:
        raise ConfigError(f"--questions: got {path} without a question, {_FORM}.")
    return questions
