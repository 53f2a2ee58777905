"""Tensors in safetensors files, looked at without reading them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sttm.errors import ConfigError

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file.

    Args:
        file: a safetensors file.
        shape: of the tensor.
        dtype: of the tensor.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * self.dtype.itemsize


def read_headers(folder: Path) -> dict[str, Stored]:
    """Look at every tensor of a checkpoint: those of its index, or of all safetensors files in it.

    Raises:
        ConfigError: files are missing or damaged, or do not hold what the index says.
    """
    listed = _read_index(folder)
    files = sorted(set(listed.values())) if listed else _all_files(folder)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: got no {some_of(missing)}, expected all {len(files)} files that "
            f"{INDEX} names. Download the rest of the checkpoint."
        )
    found: dict[str, Stored] = {}
    for name in files:
        for key, stored in _read_header(folder / name).items():
            if key in found:
                raise ConfigError(
                    f"{folder}: got {key} in {found[key].file.name} and in {name}, expected it "
                    "once. Remove the files of the other checkpoint."
                )
            found[key] = stored
    lacking = [key for key, name in listed.items() if found.get(key) is None]
    if lacking:
        raise ConfigError(
            f"{folder}: got files without {some_of(lacking)}, expected all that {INDEX} names. "
            "Download the checkpoint again."
        )
    return found


@contextmanager
def open_files(files: Iterable[Path]) -> Iterator[Mapping[Path, Any]]:
    """Open safetensors files for reading single tensors; nothing is read yet."""
    with ExitStack() as stack:
        yield {file: stack.enter_context(_open(file)) for file in sorted(set(files))}


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(key): Path(name).name for key, name in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: got a damaged index ({error}), expected JSON with a weight_map. "
            "Download it again."
        ) from error


def _all_files(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    advice = "Convert the .bin files to safetensors first." if pickles else "Download the weights."
    raise ConfigError(
        f"{folder}: got {some_of(pickles) or 'no weights'}, expected *.safetensors. {advice}"
    )


def _read_header(path: Path) -> dict[str, Stored]:
    with _open(path) as file:
        found = {}
        for key in file.keys():  # noqa: SIM118  (no mapping)
            part = file.get_slice(key)
            dtype = DTYPES.get(part.get_dtype())
            if dtype is None:
                raise ConfigError(
                    f"{path}: got {key} of type {part.get_dtype()}, expected one of: "
                    f"{', '.join(DTYPES)}. Use the checkpoint before its quantization."
                )
            found[key] = Stored(path, tuple(part.get_shape()), dtype)
        return found


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path}: got a damaged file ({error}), expected safetensors. Download it again."
        ) from error


def some_of(names: list[str], most: int = 6) -> str:
    """List names, but not too many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
