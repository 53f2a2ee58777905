"""Rows of JSON, JSONL, CSV and parquet files, and typed access to their fields."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sttm.errors import ConfigError


class FileError(Exception):
    """A file cannot be read as a table."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class RowError(Exception):
    """A row is malformed."""

    def __init__(self, text: str, kind: Literal["row", "answer"] = "row") -> None:
        super().__init__(text)
        self.text = text
        self.kind = kind


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        values: by field.
        file: its file, below the folder of the task.
        number: counted from 1; the line in a JSONL file.
        broken: why it cannot be read; empty for a sound one.
        folder: of the task; names of files are relative to it.
    """

    values: Mapping[str, Any]
    file: Path
    number: int
    broken: str = ""
    folder: Path = Path()

    @property
    def where(self) -> str:
        """Where it stands, for people."""
        return f"{self.file}, row {self.number}"

    def text(self, name: str, *, exact: bool = False) -> str:
        """Give a text that is not blank; numbers become text.

        Args:
            name: the field.
            exact: keep blanks around it: models read them.
        Raises: RowError: there is none.
        """
        found = self.maybe(name)
        if found is None:
            raise RowError(f"got {self._shown(name)}, expected a text")
        value = self.values[name]
        return value if exact and isinstance(value, str) else found

    def maybe(self, name: str) -> str | None:
        """Give a text, None if it is not there or blank."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        # pandas turns a column with gaps into floats, so 3.0 may stand for 3.
        whole = isinstance(value, float) and value.is_integer()
        text = str(int(value) if whole else value).strip()
        return text if text and text != "nan" else None

    def texts(self, name: str) -> tuple[str, ...]:
        """Give a list of texts, with the blanks around them.

        Raises: RowError: there is none.
        """
        value = self.values.get(name)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise RowError(f"got {self._shown(name)}, expected a list of texts")
        rows = [Row({name: one}, self.file, self.number) for one in value]
        if any(row.maybe(name) is None for row in rows):
            raise RowError(f"got {self._shown(name)}, expected texts that are not blank")
        return tuple(row.text(name, exact=True) for row in rows)

    def number_of(self, name: str) -> float | None:
        """Give a number, also one that is written as text; None if it is none."""
        text = self.maybe(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    def _shown(self, name: str) -> str:
        if name not in self.values:
            return f"no field {name!r} (there are {', '.join(map(str, self.values)) or 'none'})"
        return f"{name!r}: {str(self.values[name])[:60]!r}"


def rows_of(path: Path, folder: Path) -> Iterator[Row]:
    """Read a table; its kind is told by the suffix.

    Args:
        path: ``.json`` (a list of objects, or one object of answers), ``.jsonl``, ``.csv`` or
            ``.parquet``.
        folder: of the task; the table's name is given below it.
    Raises:
        FileError: it cannot be read as a whole.
        ConfigError: a parquet file, and pyarrow is not installed.
    """
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise FileError(f"got {path.suffix!r}, expected {', '.join(readers)}")
    try:
        for number, values in readers[path.suffix](path):
            if isinstance(values, Mapping):
                yield Row(values, name, number, folder=folder)
            else:
                broken = f"got {str(values).strip()[:40]!r}, expected a JSON object"
                yield Row({}, name, number, broken)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"cannot be read ({error})") from error


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise FileError(f"is no JSON ({error})") from error
    if isinstance(content, Mapping):
        content = [{"key": key, "value": value} for key, value in content.items()]
    if not isinstance(content, list):
        raise FileError(f"got {type(content).__name__}, expected a list of objects")
    yield from enumerate(content, start=1)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError:
                yield number, line


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from enumerate(csv.DictReader(lines), start=1)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: got a parquet file, expected pyarrow to read it: pip install 'sttm[eval]'."
        ) from error
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FileError(f"is no parquet file ({str(error).splitlines()[0]})") from error
    yield from enumerate(rows, start=1)
