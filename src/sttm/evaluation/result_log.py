"""Answers on disk as they come, so that a run that was cut off goes on where it stood."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sttm.errors import ConfigError
from sttm.files import cannot_write

FORMAT = 1


class Record(Protocol):
    """A dataclass of JSON values, with a key."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable:
        """What no two records of a file share."""
        ...


R = TypeVar("R", bound=Record)


class ResultLog(Generic[R]):
    """A file of answers that only grows; a context manager.

    The first line tells the settings, every other one holds an answer. A last line that was cut
    off by a kill is dropped: its question is asked again. Of two lines with one key the later one
    counts. A file without answers takes the new first line: a run that was refused after it had
    begun the file leaves nothing that could contradict the next one.

    Args:
        path: the file; made if it is not there.
        settings: everything that the meaning of an answer depends on, JSON values.
        info: what else to note in the header, e.g. the commit.
        record: the class of the answers.
        replaceable: whether a known answer may still be replaced by another, e.g. an error.

    Raises:
        ConfigError: the file is of other settings, or is no result log.
        WriteError: it cannot be written.

    Attributes:
        known: the answers in the file.
        info: what the header of the file notes.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        info: Mapping[str, Any],
        record: type[R],
        *,
        replaceable: Callable[[R], bool] | None = None,
    ) -> None:
        self.path = path
        self.known: dict[Any, R] = {}
        self.info: Mapping[str, Any] = info
        self._record = record
        self._replaceable = replaceable or (lambda _: False)
        header = {"format": FORMAT, "settings": dict(settings), "info": dict(info)}
        try:
            # Unbuffered: nothing is left behind for close() to write when the disk is full.
            self._file: io.FileIO = path.open("a+b", buffering=0)
            with contextlib.ExitStack() as undo:
                undo.callback(self._file.close)
                # No two runs may write into one file: the second one finds it locked.
                _lock(self._file, path)
                self._resume(header)
                undo.pop_all()
        except OSError as error:
            raise cannot_write(path, error) from error

    def add(self, answers: Iterable[R]) -> None:
        """Append answers; they are with the operating system when this returns.

        Raises:
            WriteError: they cannot be written, e.g. the disk is full; the file then holds what it
                held before.
        """
        new = [answer for answer in answers if self._is_new(answer)]
        lines = "".join(json.dumps(asdict(answer), allow_nan=False) + "\n" for answer in new)
        try:
            self._write(lines.encode())
        except OSError as error:
            kept = f"{len(self.known)} answers are there and kept."
            raise cannot_write(self.path, error, kept) from error
        self.known.update((answer.key, answer) for answer in new)

    def _is_new(self, answer: R) -> bool:
        known = self.known.get(answer.key)
        return known is None or (self._replaceable(known) and known != answer)

    def _write(self, data: bytes) -> None:
        """Write all of it or nothing."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise

    def __enter__(self) -> "ResultLog[R]":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _resume(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        whole, _, cut = self._file.read().rpartition(b"\n")
        lines = whole.decode("utf-8", errors="replace").splitlines() if whole else []
        if cut:
            self._file.truncate(len(whole) + bool(whole))
        if lines:
            found = _object(self.path, 1, lines[0])
            _check_format(self.path, found)
        if len(lines) < 2:
            self._file.truncate(0)
            self._write(json.dumps(header).encode() + b"\n")
            return
        self._check(found, header)
        self.info = found.get("info", {})
        self.known = _records(self.path, lines, self._record)

    def _check(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        old, new = found["settings"], header["settings"]
        changed = [
            f"{name} {old.get(name)!r} (now {new.get(name)!r})"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise ConfigError(
                f"{self.path}: got answers of another setting: {', '.join(changed)}. Expected the "
                "same: they cannot be mixed. Choose another --out, or repeat the old setting."
            )


@dataclass(frozen=True)
class StoredLog(Generic[R]):
    """What a result log holds.

    Args:
        settings: what the answers depend on.
        info: what else was noted when it was begun.
        answers: by key.
    """

    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    answers: Mapping[Any, R]


def read_log(path: Path, record: type[R]) -> StoredLog[R]:
    """Read a result log that may still be growing; a last line that was cut off is left out.

    Raises:
        ConfigError: no such file, or not a log of such answers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}), expected the answers of a run."
        ) from error
    whole = content.rpartition(b"\n")[0]
    lines = whole.decode("utf-8", errors="replace").splitlines() if whole else [""]
    found = _object(path, 1, lines[0])
    _check_format(path, found)
    return StoredLog(found["settings"], found.get("info", {}), _records(path, lines, record))


def _check_format(path: Path, found: Mapping[str, Any]) -> None:
    if found.get("format") != FORMAT or not isinstance(found.get("settings"), dict):
        raise ConfigError(
            f"{path}: got a file of format {found.get('format')!r}, expected {FORMAT}: "
            "answers of this version. Choose another --out."
        )


def _records(path: Path, lines: list[str], record: type[R]) -> dict[Any, R]:
    """Read all lines but the first."""
    known: dict[Any, R] = {}
    names = {field.name for field in fields(record)}
    # A field with a default may be younger than the file.
    needed = {field.name for field in fields(record) if _required(field)}
    for number, line in enumerate(lines[1:], start=2):
        value = _object(path, number, line)
        if not needed <= set(value) <= names:
            raise ConfigError(
                f"{path}, line {number}: got the fields {', '.join(sorted(value))}, expected "
                f"{', '.join(sorted(names))}. Choose another --out."
            )
        answer = record(**value)
        known[answer.key] = answer
    return known


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}, line {number}: got {line[:40]!r}, expected a JSON object. Is this a "
            "file of answers? Delete the line, or choose another --out."
        )
    return value


def _lock(file: io.FileIO, path: Path) -> None:
    """Hold the file for this process, where the system can; released when it is closed."""
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{path}: another run is writing to it. Wait for it, or choose another --out."
        ) from error
