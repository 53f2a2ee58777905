"""Read pickles from strangers: tensors, numbers, strings and containers, and nothing else.

A pickle is a program for a small machine, which may name any function of any module and call it.
Here it may name a few, and gets stand-ins of ours instead of them: a tensor with its storage,
bytes, ordered dicts and sets. Before any of it runs, every instruction is looked at, and those that
build objects or change their state are refused, and with them what would become too large or deep.
"""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from sttm.errors import VideoError
from sttm.evaluation.features.rehearsal import rehearse

_LARGEST = 2**24  # bytes; published metadata has some kilobytes
_MACHINE = ("PROTO", "FRAME", "STOP", "MARK")
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET")
_NUMBERS = ("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_MORE_NUMBERS = ("LONG4", "FLOAT", "BINFLOAT")
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE")
_MORE_STRINGS = ("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_LISTS = ("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_SET", "ADDITEMS", "FROZENSET")
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_DICTS = ("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS")
_CALLS = ("GLOBAL", "STACK_GLOBAL", "REDUCE")
_INSTRUCTIONS = frozenset(
    _MACHINE
    + _MEMO
    + _NUMBERS
    + _MORE_NUMBERS
    + _STRINGS
    + _MORE_STRINGS
    + _LISTS
    + _TUPLES
    + _DICTS
    + _CALLS
)
_OF_TORCH = _INSTRUCTIONS | {"BINPERSID"}  # it names storages, which lie behind the pickle
_ZIP = b"PK\x03\x04"
_PICKLES = 5  # that a file of torch begins with, where it is no zip
_MOST_AXES = 64  # as torch has it
_SHOWN = 200  # characters of an error: it may quote the file
# What a damaged or hostile pickle can make the machine raise.
FAILURES = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)


def read_pickle(path: Path) -> Any:
    """Read a pickle of tensors, numbers, strings and containers.

    Args:
        path: a file of at most 16 MiB.

    Raises:
        VideoError: it cannot be read, is damaged, or wants anything else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise VideoError(
            f"{path}: cannot be read ({error.strerror}), expected a pickle."
        ) from error
    try:
        return unpickle(content)
    except FAILURES as error:
        reason = str(error)[:_SHOWN]
        raise VideoError(
            f"{path}: refused ({reason}). Expected a pickle of tensors, numbers, strings and "
            "containers only. Do not open it in another way: it may be an attack. Get the "
            "published file again, or extract the features yourself."
        ) from error


def unpickle(content: bytes) -> Any:
    """Do what ``pickle.loads`` does, for tensors, numbers, strings and containers.

    Raises:
        pickle.UnpicklingError: the pickle wants something else; other errors: it is damaged.
    """
    if len(content) > _LARGEST:
        raise pickle.UnpicklingError(f"more than {_LARGEST} bytes")
    rehearse(io.BytesIO(content), _INSTRUCTIONS)
    return _Unpickler(io.BytesIO(content)).load()


def load_tensors(file: BinaryIO) -> Any:
    """Do what ``torch.load`` does for tensors, of which torch's own restricted reader takes care.

    That one calls nothing it does not know, but hashes and prints what it reads.

    Raises:
        pickle.UnpicklingError: the file wants something else; other errors: it is damaged.
    """
    if file.read(len(_ZIP)) == _ZIP:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise pickle.UnpicklingError("a compressed part, which torch never writes")
                if member.filename.casefold().endswith(".pkl"):
                    rehearse(io.BytesIO(archive.read(member)), _OF_TORCH)
    else:
        file.seek(0)
        for _ in range(_PICKLES):
            rehearse(file, _OF_TORCH)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


class _Callable:
    """What a pickle gets in place of a function: it can be called, and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a function whose state is set")


class _Unpickler(pickle.Unpickler):
    """Knows a few names."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return the stand-in of an admitted function."""
        function = _ADMITTED.get((module_name, global_name))
        if function is None:
            raise pickle.UnpicklingError(f"the name {module_name}.{global_name}")
        return _Callable(function)

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to things outside the file."""
        raise pickle.UnpicklingError("a reference to outside the file")


def _storage(content: bytes) -> Any:
    """Read the storage of a tensor; a pickle in it is read by torch's own restricted reader."""
    if type(content) is not bytes:
        raise pickle.UnpicklingError("a storage that is not made of bytes")
    storage = load_tensors(io.BytesIO(content))
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError(f"a {type(storage).__name__} in place of a storage")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """Put a tensor together; it must lie within its storage."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MOST_AXES:
        raise pickle.UnpicklingError("a tensor whose size and stride do not fit each other")
    if any(type(number) is not int or not 0 <= number <= _LARGEST for number in numbers):
        raise pickle.UnpicklingError("a tensor whose size, stride or offset is out of range")
    untyped, dtype = storage._untyped_storage, storage.dtype
    held = untyped.nbytes() // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if all(size) else 0
    if last >= max(held, 1) or prod(size) > held:
        raise pickle.UnpicklingError("a tensor beyond its storage")
    return torch.empty(0, dtype=dtype).set_(untyped, offset, tuple(size), tuple(stride)).clone()


def _encode(text: Any, encoding: Any) -> bytes:
    """Make bytes, as old protocols write them."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("bytes that are not written in latin1")
    return text.encode("latin1")


_ADMITTED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{(m, kind.__name__): kind for m in ("builtins", "__builtin__") for kind in (set, frozenset)},
}
