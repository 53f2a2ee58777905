"""Rows of JSON, JSONL, CSV and parquet files, and typed access to their fields."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sttm.errors import ConfigError

ProblemKind = Literal["file", "row", "duplicate", "answer", "video"]
DEEPEST = 20  # levels of lists and objects in a row; ours have three
_NO_TEXT = re.compile("[\\0\\ud800-\\udfff]")  # neither UTF-8 nor the names of files take halves


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with the files.

    Args:
        kind: "file" missing or unreadable, "row" malformed, "duplicate" id, "answer" missing or not
            among the options, "video" without a file.
        where: the file, with the row.
        text: what was got and expected.
    """

    kind: ProblemKind
    where: str
    text: str


class DataError(Exception):
    """A file or a row cannot be used; a `Problem` whose place the caller knows."""

    def __init__(self, text: str, kind: ProblemKind = "row") -> None:
        super().__init__(text)
        self.text = text
        self.kind: ProblemKind = kind


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        values: by field.
        file: its file, below the folder of the task.
        number: counted from 1; the line in a JSONL file.
        folder: of the task; names of files are relative to it.
    """

    values: Mapping[str, Any]
    file: Path
    number: int
    folder: Path = Path()

    @property
    def where(self) -> str:
        """Where it stands, for people."""
        return f"{self.file}, row {self.number}"

    def text(self, name: str, *, exact: bool = False) -> str:
        """Return a text that is not blank; numbers become text.

        Args:
            name: the field.
            exact: keep blanks around it: models read them.

        Raises:
            DataError: there is none.
        """
        found = self.maybe(name)
        if found is None:
            raise DataError(f"got {self._shown(name)}, expected a text")
        value = self.values[name]
        return value if exact and isinstance(value, str) else found

    def maybe(self, name: str) -> str | None:
        """Return a text, None if it is not there or blank; the text "nan" is a text."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        if isinstance(value, float):
            if not math.isfinite(value):  # pandas and JSON write gaps as the number NaN
                return None
            # pandas turns a column with gaps into floats, so 3.0 may stand for 3.
            value = int(value) if value.is_integer() else value
        return str(value).strip() or None

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, with the blanks around them; a text may be blank.

        Raises:
            DataError: there is none.
        """
        value = self.values.get(name)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise DataError(f"got {self._shown(name)}, expected a list of texts")
        rows = [Row({name: one}, self.file, self.number) for one in value]
        if any(row.maybe(name) is None and not isinstance(row.values[name], str) for row in rows):
            raise DataError(f"got {self._shown(name)}, expected texts only")
        return tuple(row.cell(name) for row in rows)

    def cell(self, name: str) -> str:
        """Return a text as it stands, which may be blank: a gap of a table is a blank text.

        Raises:
            DataError: there is no such field, or it holds no text.
        """
        value = self.values.get(name)
        if isinstance(value, str):
            return value
        gap = name in self.values and (value is None or value != value)
        return "" if gap else self.text(name, exact=True)

    def number_of(self, name: str) -> float | None:
        """Return a number, also one that is written as text; None if it is none."""
        text = self.maybe(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    def _shown(self, name: str) -> str:
        if name not in self.values:
            return f"no field {name!r} (there are {', '.join(map(str, self.values)) or 'none'})"
        return f"{name!r}: {str(self.values[name])[:60]!r}"


def rows_of(path: Path, folder: Path, problems: list[Problem]) -> Iterator[Row]:
    """Read the sound rows of a table; the suffix of the file tells its kind.

    Args:
        path: ``.json`` (a list of objects, or one object of answers), ``.jsonl``, ``.csv`` or
            ``.parquet``.
        folder: of the task; the table's name is given below it.
        problems: what is wrong with the file and its other rows is appended.

    Raises:
        ConfigError: a parquet file, and pyarrow is not installed.
    """
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    suffix = path.suffix.lower()
    try:
        if suffix not in readers:
            raise DataError(f"got {path.suffix!r}, expected {', '.join(readers)}")
        for number, values in readers[suffix](path):
            row = Row(values if isinstance(values, Mapping) else {}, name, number, folder)
            fault = values.text if isinstance(values, DataError) else _fault(values)
            if fault:
                problems.append(Problem("row", row.where, fault))
            else:
                yield row
    except DataError as error:
        problems.append(Problem("file", str(path), error.text))
    except OSError as error:
        problems.append(Problem("file", str(path), f"cannot be read ({error})"))


class _Twice(dict[str, Any]):
    """An object that names a field twice."""

    field = ""


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    content = _parsed(_text_of(path))
    if isinstance(content, _Twice):
        raise DataError(f"got the field {content.field!r} twice, expected it once")
    if isinstance(content, Mapping):
        content = [{"key": key, "value": value} for key, value in content.items()]
    if not isinstance(content, list):
        raise DataError(f"got {type(content).__name__}, expected a list of objects")
    yield from enumerate(content, start=1)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON may hold other ends of lines, such as U+2028, inside its texts.
    lines = _text_of(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        row = line.strip("\ufeff \t")  # a mark stands inside where files were joined
        if not row.strip():
            continue
        try:
            values = _parsed(row)
        except DataError as error:
            values = DataError(f"got {row[:40]!r}, expected a JSON object: it {error.text}")
        yield number, values


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    lines = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        names = lines.fieldnames or ()
        twice = [name for name in names if list(names).count(name) > 1]
        if twice:
            raise DataError(f"got the column {twice[0][:60]!r} twice, expected it once")
        for number, row in enumerate(lines, start=1):
            got = len(names) + len(row.pop(None, ())) - list(row.values()).count(None)
            if got != len(names):
                yield number, DataError(f"got {got} columns, expected {len(names)}")
            else:
                yield number, row
    except csv.Error as error:
        begins = lines.line_num + 1  # it counts the lines of whole rows
        raise DataError(f"cannot be read (line {begins}: {error})") from error


def _text_of(path: Path) -> str:
    """Read a file of UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    data = path.read_bytes()
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        raise DataError(f"cannot be read (line {line}: {error})") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise DataError("is nested too deep") from error
    except ValueError as error:  # also of a number with more digits than Python reads
        raise DataError(f"is no JSON ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, which notes a field that comes twice: nobody can tell which was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        marked = _Twice(found)
        marked.field = Counter(name for name, _ in pairs).most_common(1)[0][0]
        return marked
    return found


def _fault(row: Any) -> str:
    """Say why a row holds no question for a model; empty if nothing is wrong with it."""
    waiting = [(row, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            bad = _NO_TEXT.search(value)
            if bad:
                return f"got the character {bad[0]!r}, which stands for nothing, in {value[:40]!r}"
        elif depth > DEEPEST:
            return f"got lists or objects that are nested more than {DEEPEST} levels deep"
        elif isinstance(value, _Twice):
            return f"got the field {value.field[:60]!r} twice, expected it once"
        elif isinstance(value, Mapping):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            waiting += [(part, depth + 1) for part in value]
    if not isinstance(row, Mapping):
        return f"got {str(row).strip()[:40]!r}, expected a JSON object"
    return ""


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
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"is no parquet file ({why})") from error
    yield from enumerate(rows, start=1)
