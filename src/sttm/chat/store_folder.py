"""A folder of saved videos that several processes share; what it acknowledged outlives them.

Each video is a file named by its key. There is no index that could be lost or differ: the folder is
the index, a file's time of change is when it was used last, and its header says the rest. Whoever
writes or deletes holds the lock of the folder; who reads needs none, since files are only ever
replaced or deleted as a whole.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sttm.chat.saved_video import Header, OtherFormatError, read_file, read_header
from sttm.errors import SavedCacheError, StoreWarning, WriteError
from sttm.files import locked, make_folder

Place = Literal["device", "host", "disk"]
_SUFFIX = ".sttm"
_KEY = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = f".*{_SUFFIX}.*"  # how replace_file names what it has not finished


@dataclass(frozen=True)
class StoredVideo:
    """What a store knows of one of its videos.

    Args:
        key: see `VideoStore.key`.
        name: the file that was watched, as it was named then; of several the last one.
        contents: digests of the videos that were watched, one behind the other.
        method: that reduced it, with its options; None if all tokens were kept.
        tokens_in: video tokens in front of the reduction.
        tokens_out: video tokens behind it.
        bytes: that it takes where it is.
        where: the fastest place that holds it.
        created: when it was watched.
        last_used: when it was watched or asked for last.
    """

    key: str
    name: str
    contents: tuple[str, ...]
    method: str | None
    tokens_in: int
    tokens_out: int
    bytes: int
    where: Place
    created: datetime
    last_used: datetime

    @property
    def videos(self) -> int:
        """Count the videos that were watched."""
        return len(self.contents)


class StoreFolder:
    """Files by key in a folder, the least recently used of which go first.

    Args:
        path: the folder; made if it is not there.
        limit: bytes that all videos may take.

    Raises:
        ConfigError: no file can be written there.

    Warns:
        StoreWarning: files were half-written, because a process or the machine stopped, or are
            damaged; they were deleted.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self._limit = limit
        make_folder(path, "store")
        dropped = self.drop_broken()
        if dropped:
            warnings.warn(
                f"{path}: {len(dropped)} files were half-written or damaged and are deleted: "
                f"{', '.join(dropped[:3])}{'...' if len(dropped) > 3 else ''}. Their videos will "
                "be watched again when they are asked for.",
                StoreWarning,
                stacklevel=3,
            )

    def file(self, key: str) -> Path | None:
        """Return the file of a video, which may not be there; None for what is no key."""
        return self.path / f"{key}{_SUFFIX}" if _KEY.fullmatch(key) else None

    def write(self, key: str, save: Callable[[Path], None]) -> None:
        """Write the file of a video, and delete others if all take too many bytes.

        Args:
            key: of the video.
            save: writes it to a path, to the end or not at all.

        Raises:
            WriteError: it cannot be written, or takes too many bytes by itself.
        """
        path = self.path / f"{key}{_SUFFIX}"
        with self._locked():
            save(path)
            size = path.stat().st_size
            if size > self._limit:
                _delete(path)
                raise WriteError(
                    f"{path}: got a video of {size} bytes, expected at most the {self._limit} of "
                    "the store. Give it more, or keep fewer tokens."
                )
            self._make_room(but=path)

    def touch(self, key: str) -> None:
        """Note that a video is used now."""
        path = self.file(key)
        if path is not None:
            with suppress(FileNotFoundError):
                os.utime(path)

    def remove(self, key: str) -> bool:
        """Delete a video; returns whether it was there."""
        path = self.file(key)
        with self._locked():
            return path is not None and _delete(path)

    def entries(self) -> Iterator[StoredVideo]:
        """Yield the videos whose headers can be read and tell the file's own key, in no order."""
        for path in self._files():
            try:
                header, stat = read_header(path), path.stat()
            except (SavedCacheError, FileNotFoundError):  # damaged, or deleted meanwhile
                continue
            if header.key == path.stem:  # else it was put here by hand, and is never found
                yield _entry(path, header, stat)

    def drop_broken(self) -> list[str]:
        """Delete what is half-written or cut off; returns the files' names."""
        with self._locked():  # whoever writes holds it, so nobody is in the middle of these
            broken = [*self.path.glob(_UNFINISHED)]
            broken += [path for path in self._files() if _problem(path, whole=False)]
            return sorted(path.name for path in broken if _delete(path))

    def drop_oldest(self) -> list[str]:
        """Delete the least recently used videos beyond the limit; returns the files' names."""
        with self._locked():
            return self._make_room()

    def drop_damaged(self, key: str) -> str | None:
        """Read a video's file in full, and delete it if something is wrong: says what."""
        path = self.file(key)
        with self._locked():
            problem = None if path is None else _problem(path, whole=True)
            if path is not None and problem is not None:
                _delete(path)
            return problem

    def problems(self) -> list[str]:
        """Read everything; one sentence for each file with something wrong."""
        found = []
        for path in sorted(self._files()):
            if _problem(path, whole=True) is not None:
                with self._locked():  # it may have been replaced in that moment
                    found.append(_problem(path, whole=True))
        return [problem for problem in found if problem is not None]

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.path / ".lock")

    def _files(self) -> list[Path]:
        return [path for path in self.path.glob(f"*{_SUFFIX}") if _KEY.fullmatch(path.stem)]

    def _by_age(self) -> list[tuple[int, int, Path]]:
        """List (time of last use, bytes, file), the least recently used first."""
        found = []
        for path in self._files():
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
        return sorted(found)

    def _make_room(self, but: Path | None = None) -> list[str]:
        files = self._by_age()
        total = sum(size for _, size, _ in files)
        dropped = []
        for _, size, path in files:
            if total <= self._limit:
                break
            if path != but and _delete(path):
                total -= size
                dropped.append(path.name)
        return dropped


def _problem(path: Path, *, whole: bool) -> str | None:
    """Say what is wrong with a file; None if nothing is, or if it is gone.

    Another version of sttm may use the folder, too: its files are wrong only if all is read.
    """
    try:
        if whole:
            read_file(path, path.stem)
        else:
            read_header(path)
    except OtherFormatError as error:
        return str(error) if whole else None
    except SavedCacheError as error:
        return str(error) if path.exists() else None
    return None


def _delete(path: Path) -> bool:
    """Delete a file; returns whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _entry(path: Path, header: Header, stat: os.stat_result) -> StoredVideo:
    return StoredVideo(
        key=path.stem,
        name=header.sources[-1].path,
        contents=tuple(source.content for source in header.sources),
        method=header.method,
        tokens_in=header.tokens_in,
        tokens_out=sum(r.tokens_out for r in header.reports) or header.tokens_in,
        bytes=stat.st_size,
        where="disk",
        created=datetime.fromtimestamp(header.created or stat.st_mtime, UTC),
        last_used=datetime.fromtimestamp(stat.st_mtime, UTC),
    )
