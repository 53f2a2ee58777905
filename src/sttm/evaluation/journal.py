"""Answers on disk as they come, so that a run that was cut off goes on where it stood."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sttm.errors import ConfigError
from sttm.evaluation.specs import Keep

FORMAT = 1

AnswerKey = tuple[int, str, int, str, Keep | None, int]


@dataclass(frozen=True)
class AnswerRecord:
    """One answer; a line of ``answers.jsonl``.

    Args:
        frames: length of the clip.
        kind: of the scene.
        seed: of the clip.
        index: place of the question among those of the clip.
        method: label of the method; "all" for all tokens.
        keep: the budget; None where the method has its own.
        spec: how the method was asked for.
        task: what the question asks for.
        question: in words.
        expected: the right answer.
        answer: the model's answer; None where the budget is out of the method's reach.
        right: whether it is right; None without an answer.
        tokens_in: video tokens in front of the reduction.
        tokens_out: behind it; None without an answer.
    """

    frames: int
    kind: str
    seed: int
    index: int
    method: str
    keep: Keep | None
    spec: str
    task: str
    question: str
    expected: str
    answer: str | None
    right: bool | None
    tokens_in: int
    tokens_out: float | None

    @property
    def key(self) -> AnswerKey:
        """What no two answers of a file share."""
        return self.frames, self.kind, self.seed, self.method, self.keep, self.index


class Journal:
    """A file of answers that only grows; a context manager.

    The first line tells the settings, every other one holds an answer. A last line that was cut
    off by a kill is dropped: its question is asked again.

    Args:
        path: the file; made if it is not there.
        settings: everything that the meaning of an answer depends on, JSON values.
        info: what else to note in the header, e.g. the commit.
    Raises: ConfigError: the file is of other settings, is no journal, or cannot be written.

    Attributes:
        known: the answers in the file.
        info: what the header of the file notes.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        self.path = path
        self.known: dict[AnswerKey, AnswerRecord] = {}
        self.info: Mapping[str, Any] = info
        header = {"format": FORMAT, "settings": dict(settings), "info": dict(info)}
        try:
            self._file: BinaryIO = path.open("a+b")
            with contextlib.ExitStack() as undo:
                undo.callback(self._file.close)
                # No two runs may write into one file: the second one finds it locked.
                _lock(self._file, path)
                self._resume(header)
                undo.pop_all()
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be written ({error.strerror}). Choose another --out."
            ) from error

    def add(self, answers: Iterable[AnswerRecord]) -> None:
        """Append answers; they are with the operating system when this returns."""
        new = [answer for answer in answers if answer.key not in self.known]
        lines = "".join(json.dumps(asdict(answer)) + "\n" for answer in new)
        self._file.write(lines.encode())
        self._file.flush()
        self.known.update((answer.key, answer) for answer in new)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _resume(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        whole, _, cut = self._file.read().rpartition(b"\n")
        lines = whole.decode("utf-8", errors="replace").splitlines() if whole else []
        if cut:
            self._file.truncate(len(whole) + bool(whole))
        if not lines:
            self._file.truncate(0)
            self._file.write(json.dumps(header).encode() + b"\n")
            self._file.flush()
            return
        found = self._object(1, lines[0])
        self._check(found, header)
        self.info = found.get("info", {})
        for number, line in enumerate(lines[1:], start=2):
            answer = self._answer(number, line)
            self.known[answer.key] = answer

    def _check(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        if found.get("format") != FORMAT or not isinstance(found.get("settings"), dict):
            raise ConfigError(
                f"{self.path}: got a file of format {found.get('format')!r}, expected {FORMAT}: "
                "answers of this version. Choose another --out."
            )
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

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise ConfigError(
                f"{self.path}, line {number}: got {line[:40]!r}, expected a JSON object. Is this a "
                "file of answers? Delete the line, or choose another --out."
            )
        return value

    def _answer(self, number: int, line: str) -> AnswerRecord:
        value = self._object(number, line)
        names = {field.name for field in fields(AnswerRecord)}
        if set(value) != names:
            raise ConfigError(
                f"{self.path}, line {number}: got the fields {', '.join(sorted(value))}, expected "
                f"{', '.join(sorted(names))}. Choose another --out."
            )
        return AnswerRecord(**value)


def _lock(file: BinaryIO, path: Path) -> None:
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
