"""From an item to the text that a model is asked."""

from collections.abc import Sequence
from pathlib import Path
from string import Formatter, ascii_uppercase

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sttm.errors import ConfigError
from sttm.evaluation.tasks.items import Item
from sttm.video import read_subtitles, subtitles_at

_FIELDS = {"question", "options", "letters", "slashed"}
_OPTION_FIELDS = {"letter", "text"}
SUBTITLES = "This video's subtitles are listed below: \n{text}\n"
NO_SUBTITLES = "No subtitles available"


class Prompt(BaseModel):
    """A template of the user's turn.

    Args:
        template: with ``{question}``, ``{options}`` (one a line), ``{letters}`` ("A, B, C, or D")
            and ``{slashed}`` ("A/B/C/D"); a brace is written twice.
        option: template of an option, with ``{letter}`` and ``{text}``.
        open: template for a question without options.
        more_letters: how many letters ``{letters}`` and ``{slashed}`` name beyond the options.
        source: whose prompt it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    option: str = "{letter}. {text}"
    open: str = "{question}"
    more_letters: int = Field(default=0, ge=0, le=16)
    source: str = ""

    @field_validator("template", "open")
    @classmethod
    def _fields(cls, value: str) -> str:
        return _checked(value, _FIELDS)

    @field_validator("option")
    @classmethod
    def _option_fields(cls, value: str) -> str:
        return _checked(value, _OPTION_FIELDS)

    def render(self, item: Item) -> str:
        """Fill the template; braces in questions and options stay as they are."""
        pairs = zip(item.letters, item.options, strict=True)
        letters = ascii_uppercase[: len(item.options) + self.more_letters]
        lines = [self.option.format(letter=letter, text=text) for letter, text in pairs]
        return (self.template if item.options else self.open).format(
            question=item.question,
            options="\n".join(lines),
            letters=_listed(letters),
            slashed="/".join(letters),
        )


def subtitle_context(subtitles: Path | None, times: Sequence[float]) -> str:
    """Write what stands between the video and the question in Video-MME with subtitles.

    Args:
        subtitles: the file; None where the video has none.
        times: seconds of the sampled frames.

    Raises:
        VideoError: the file cannot be read.
    """
    lines = subtitles_at(read_subtitles(subtitles), times) if subtitles is not None else []
    return SUBTITLES.format(text="\n".join(lines) or NO_SUBTITLES)


def _checked(template: str, fields: set[str]) -> str:
    try:
        used = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigError(
            f"got {template!r} ({error}), expected every other brace written twice."
        ) from error
    if not used <= fields:
        raise ConfigError(
            f"got {{{', '.join(sorted(used - fields))}}} in a template, expected only "
            f"{', '.join(f'{{{name}}}' for name in sorted(fields))}. Write other braces twice."
        )
    return template


def _listed(letters: str) -> str:
    if len(letters) < 3:
        return " or ".join(letters)
    return f"{', '.join(letters[:-1])}, or {letters[-1]}"
