"""Files that are written to the end or not at all, and folders that take them."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sttm.errors import ConfigError, WriteError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path, error: OSError, kept: str = "") -> WriteError:
    """Build the error for a file that cannot be written.

    Args:
        path: the file.
        error: what the operating system said.
        kept: what is safe all the same, a sentence.
    """
    do = "Make room" if error.errno in _FULL else "Choose another place, or make this one writable"
    return WriteError(
        f"{path}: cannot be written ({error.strerror}). {kept}{' ' if kept else ''}{do}, then run "
        "the same command again."
    )


def check_target(path: Path) -> None:
    """Refuse to put a file where something else is: a folder, a device, a pipe.

    Raises:
        WriteError: something else is there.
    """
    if path.exists() and not path.is_file():
        raise WriteError(
            f"{path}: got a {'folder' if path.is_dir() else 'device or pipe'}, expected the name "
            "of a file to write. Choose another name."
        )


def in_utf8(text: str) -> str:
    """Escape the bytes of a file name that are in no encoding, so that it can be printed."""
    return text.encode(errors="backslashreplace").decode()


def replace_file(
    path: str | os.PathLike[str], write: Callable[[Path], None], kept: str = ""
) -> None:
    """Write a file beside its place first, then put it there: to the end or not at all.

    A link is followed: the file that it points to is replaced.

    Args:
        path: the file; its folder exists.
        write: called with the path to write to, a file that exists and is empty.
        kept: what is safe even when it cannot be written, a sentence.

    Raises:
        WriteError: it cannot be written, or something that is no regular file is there.
    """
    given, place = Path(path), Path(os.path.realpath(path))
    check_target(given)
    try:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
        os.close(handle)
        try:
            write(Path(name))
            with open(name, "rb") as file:  # noqa: PTH123 (a descriptor is needed)
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(place)
            _sync_folder(place.parent)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(given, error, kept) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name last through a loss of power, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file until the block ends; other threads and processes wait for it.

    The system lets go of it when the process ends, however it does. Where the system has no such
    locks nothing is held.
    """
    with path.open("a") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `in_utf8` and `replace_file`."""
    write_bytes(path, in_utf8(text).encode())


def write_bytes(path: Path, content: bytes, kept: str = "") -> None:
    """Write a file with this content; see `replace_file`."""

    def write(place: Path) -> None:
        place.write_bytes(content)

    replace_file(path, write, kept)


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write a JSON file, on one line if ``compact``; see `replace_file`."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    write_text(path, json.dumps(value, allow_nan=False, **layout) + "\n")


def make_folder(folder: Path, option: str = "--out") -> None:
    """Make a folder unless it is there, and check it before any work is done.

    Args:
        folder: the folder.
        option: the option that named it, for the message.

    Raises:
        ConfigError: it cannot be made, is a file or a device, or takes no file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option}: got {folder}, which cannot be made ({error.strerror}), expected a folder "
            "to write to. Choose another one."
        ) from error
    check_folder(folder, option)


def check_folder(folder: Path, option: str) -> None:
    """Check that files can be written to a folder.

    Args:
        folder: the folder, which is there.
        option: the option that named it, for the message.

    Raises:
        ConfigError: it does not.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option}: got {folder}, where no file can be written ({error.strerror}), expected a "
            "folder to write to. Choose another one, or make this one writable."
        ) from error
