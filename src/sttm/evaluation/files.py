"""Files that are written to the end or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from sttm.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place first, then put it there.

    Raises: ConfigError: it cannot be written.
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
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}). Choose another --out."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; see `write_bytes`."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
