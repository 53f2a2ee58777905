"""Files that are written to the end or not at all."""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from sttm.errors import WriteError

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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, kept: str = "") -> None:
    """Write a file beside its place first, then put it there.

    Args:
        path: the file; its folder exists.
        content: all of it.
        kept: what is safe even when it cannot be written, a sentence.
    Raises: WriteError: it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error, kept) from error


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write a JSON file, on one line if ``compact``; see `write_bytes`."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    write_text(path, json.dumps(value, allow_nan=False, **layout) + "\n")
