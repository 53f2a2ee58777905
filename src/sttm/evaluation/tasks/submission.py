"""Answers for a server that has the right ones: EgoSchema."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sttm.errors import ConfigError
from sttm.evaluation.tasks.items import LETTERS
from sttm.files import write_json, write_text

NO_ANSWER = -1  # counts as wrong, and is no option


class Submission(BaseModel):
    """How to hand in answers.

    Args:
        columns: of the CSV file: the question, and the number of the option.
        url: where to hand them in.
        note: what to know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, str]
    url: str
    note: str = ""

    def write(self, answers: Mapping[str, str | None], path: Path) -> int:
        """Write option numbers from 0, as JSON or CSV by the suffix of the file.

        Args:
            answers: letters by question id; None becomes -1, which is no option.
            path: ends in ``.json`` or ``.csv``.

        Returns:
            how many questions have no answer.

        Raises:
            ConfigError: another suffix.
            WriteError: the file cannot be written.
        """
        numbers = {
            name: NO_ANSWER if letter is None else LETTERS.index(letter)
            for name, letter in answers.items()
        }
        if path.suffix == ".json":
            write_json(path, numbers)
        elif path.suffix == ".csv":
            text = io.StringIO()
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(self.columns)
            rows.writerows(numbers.items())
            write_text(path, text.getvalue())
        else:
            raise ConfigError(f"{path}: got {path.suffix!r}, expected .json or .csv.")
        return list(numbers.values()).count(NO_ANSWER)
