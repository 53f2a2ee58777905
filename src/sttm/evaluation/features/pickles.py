"""Read pickles from strangers: tensors, numbers, strings and containers, and nothing else.

A pickle is a program for a small machine, which may name any function of any module and call it.
Here it may name a few, and gets stand-ins of ours instead of them: a tensor with its storage,
bytes, ordered dicts and sets. Before any of it runs, every instruction is looked at, and those that
build objects or change their state are refused.
"""

import collections
import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from sttm.errors import VideoError

_LARGEST = 2**24  # bytes; published metadata has some kilobytes
_MACHINE = ("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK")
_PLACES = ("PUT", "BINPUT", "LONG_BINPUT")
_MEMO = (*_PLACES, "MEMOIZE", "GET", "BINGET", "LONG_BINGET")
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
)


def read_pickle(path: Path) -> Any:
    """Read a pickle of tensors, numbers, strings and containers.

    Args:
        path: a file of at most 16 MiB.
    Raises: VideoError: it cannot be read, is damaged, or wants anything else.
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
        raise VideoError(
            f"{path}: refused ({error}). Expected a pickle of tensors, numbers, strings and "
            "containers only. Do not open it in another way: it may be an attack. Get the "
            "published file again, or extract the features yourself."
        ) from error


def unpickle(content: bytes) -> Any:
    """Do what ``pickle.loads`` does, for tensors, numbers, strings and containers.

    Raises: pickle.UnpicklingError: the pickle wants something else; other errors: it is damaged.
    """
    _inspect(content)
    return _Unpickler(io.BytesIO(content)).load()


def _inspect(content: bytes) -> None:
    """Look at every instruction without following any."""
    if len(content) > _LARGEST:
        raise pickle.UnpicklingError(f"more than {_LARGEST} bytes")
    for done, (instruction, argument, place) in enumerate(pickletools.genops(content)):
        if instruction.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"instruction {instruction.name} at byte {place}")
        if instruction.name in _PLACES and argument not in range(done + 1):
            # Real picklers count up; the machine would make a table as long as this number.
            raise pickle.UnpicklingError(f"memo place {argument} at byte {place}")


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
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError(f"a {type(storage).__name__} in place of a storage")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """Put a tensor together; it must lie within its storage."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *size, *stride)
    if any(type(number) is not int or number < 0 for number in numbers) or len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of size {size}, stride {stride}, offset {offset}")
    untyped, dtype = storage._untyped_storage, storage.dtype
    held = untyped.nbytes() // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if all(size) else 0
    dense = 1
    for n in size:
        dense *= n
    if last >= max(held, 1) or dense > held:
        raise pickle.UnpicklingError(f"a tensor of size {size} beyond its storage")
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
