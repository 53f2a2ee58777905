"""Uploaded files, as OpenAI's files API has them."""

import contextlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from sttm.files import write_json
from sttm.server.config import MIB, Limits
from sttm.server.errors import ApiError
from sttm.video import Sampling

FILE_PREFIX = "file-"
REQUEST_PREFIX = "request-"  # of what comes with a request and goes with it
_UPLOAD_PREFIX = "upload-"  # of what is not complete
_LEFT_SECONDS = 86400  # after which nobody is at work on these
_CHUNK = 1 << 20
_NAME = 200  # characters of a file's name that are kept


@dataclass(frozen=True)
class UploadedFile:
    """One uploaded file.

    Args:
        id: names it in requests.
        filename: that the client gave; only ever shown.
        bytes: its size.
        created_at: seconds since 1970.
        purpose: that the client gave.
        videos: the watched videos that were made of it: key in the store -> sampled frames.
    """

    id: str
    filename: str
    bytes: int
    created_at: int
    purpose: str
    videos: dict[str, Sampling] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the JSON object that clients get."""
        return {"object": "file", "status": "processed", **asdict(self), "videos": [*self.videos]}


_RECORD = TypeAdapter(UploadedFile)


class Uploads:
    """The uploaded files of a server, which survive its restart.

    Args:
        folder: holds them; exists.
        limits: on bytes.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._files = {record.id: record for record in self._read()}
        self._drop_left()

    def _read(self) -> Iterator[UploadedFile]:
        for path in sorted(self._folder.glob(f"{FILE_PREFIX}*.json")):
            try:
                record = _RECORD.validate_json(path.read_bytes())
            except ValidationError:
                continue  # half written by another version: it cannot be asked for
            if record.id == path.stem and self.path(record.id).is_file():
                yield record

    def _drop_left(self) -> None:
        """Delete what a server that was killed has left: files of requests, halves of uploads."""
        for pattern in (f"{REQUEST_PREFIX}*", f"{_UPLOAD_PREFIX}*", f"{FILE_PREFIX}*.video"):
            for path in self._folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # another server deletes, too
                    is_old = path.stat().st_mtime < time.time() - _LEFT_SECONDS
                    if is_old and not path.with_suffix(".json").exists():
                        path.unlink()

    def path(self, file_id: str) -> Path:
        """Return where the content of a known file is."""
        return self._folder / f"{file_id}.video"

    def list(self) -> list[UploadedFile]:
        """Return all files, the newest first."""
        return sorted(self._files.values(), key=lambda file: -file.created_at)

    def get(self, file_id: str) -> UploadedFile:
        """Return a file.

        Raises:
            ApiError: there is none of this id.
        """
        found = self._files.get(file_id)
        if found is None:
            raise ApiError(
                404,
                "got the id of no uploaded file, expected one that GET /v1/files lists.",
                "file_not_found",
            )
        return found

    def add(self, content: BinaryIO, filename: str, purpose: str) -> UploadedFile:
        """Store a file.

        Args:
            content: read to its end.
            filename: for people.
            purpose: for the client.

        Raises:
            ApiError: it is too large, or all files together are.
        """
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=_UPLOAD_PREFIX)
        try:
            with os.fdopen(handle, "wb") as file:
                size = 0
                while chunk := content.read(_CHUNK):
                    size += len(chunk)
                    self._check(size)
                    file.write(chunk)
            record = UploadedFile(
                id=f"{FILE_PREFIX}{secrets.token_hex(12)}",
                filename=filename[:_NAME],
                bytes=size,
                created_at=int(time.time()),
                purpose=purpose[:_NAME],
            )
            with self._lock:
                self._check(size)
                Path(name).replace(self.path(record.id))
                write_json(self._record(record.id), asdict(record))
                self._files[record.id] = record
        finally:
            Path(name).unlink(missing_ok=True)
        return record

    def note_video(self, file_id: str, key: str, sampling: Sampling) -> None:
        """Remember that a file was watched, also after a restart."""
        with self._lock:
            record = self._files.get(file_id)
            if record is not None and key not in record.videos:
                record = replace(record, videos={**record.videos, key: sampling})
                write_json(self._record(file_id), asdict(record))
                self._files[file_id] = record

    def of_video(self, key: str) -> UploadedFile | None:
        """Return a file that a watched video was made of; None if it is not here."""
        return next((file for file in self.list() if key in file.videos), None)

    def remove(self, file_id: str) -> None:
        """Delete a file; a video that was watched stays watched.

        Raises:
            ApiError: there is none of this id.
        """
        with self._lock:
            self.get(file_id)
            del self._files[file_id]
            self._record(file_id).unlink(missing_ok=True)
            self.path(file_id).unlink(missing_ok=True)

    def _record(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.json"

    def _check(self, size: int) -> None:
        most = int(self._limits.upload_mib * MIB)
        held = sum(file.bytes for file in self._files.values())
        if size > self._limits.video_bytes or held + size > most:
            raise ApiError(
                413,
                f"got a file of {size} bytes or more, expected at most {self._limits.video_bytes}, "
                f"and {most} of all files together, which hold {held} now. "
                "Delete some, or cut the video.",
                "file_too_large",
            )
