"""Read pickles from strangers: tensors, numbers, strings and containers, and nothing else.

A pickle is a program for a small machine, which may name any function of any module and call it.
Here it may name a few, and gets stand-ins of ours instead of them: a tensor with its storage,
bytes, ordered dicts and sets. Before any of it runs, `check_program` looks at every instruction. It
refuses those that build objects or change their state, and counts what would be built: where memo
places make one thing part of many others, a few bytes of pickle become a structure that nobody can
walk (tuples in tuples deeper than the stack of Python, or two of each in the next one, thirty
times), and Python hashes, compares and prints such things without looking.
"""

import collections
import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from sttm.errors import VideoError

_LARGEST = 2**24  # bytes; published metadata has some kilobytes
_DEEPEST = 100  # containers in one another
_MOST = 2**20  # things, those that are used again counted again; instructions
_UNIT = 64  # characters or bytes that count as one thing
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_INSTRUCTIONS = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", *_PUTS, *_GETS),
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"),
        *("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE"),
    )
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
    check_program(io.BytesIO(content), _INSTRUCTIONS)
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
                    check_program(io.BytesIO(archive.read(member)), _OF_TORCH)
    else:
        file.seek(0)
        for _ in range(_PICKLES):
            check_program(file, _OF_TORCH)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def check_program(content: BinaryIO, admitted: Container[str]) -> None:
    """Go through the pickle that begins here, and stop behind it; nothing is built.

    Args:
        content: where a pickle begins.
        admitted: names of the instructions that it may have.

    Raises:
        pickle.UnpicklingError: it has another one, or builds something too large, too deep or
            endless;
        ValueError: it is damaged.
    """
    stack = _Stack()
    for done, (instruction, argument, byte) in enumerate(pickletools.genops(content)):
        name = instruction.name
        if name not in admitted:
            raise pickle.UnpicklingError(f"instruction {name} at byte {byte}")
        if done >= _MOST:
            raise pickle.UnpicklingError(f"more than {_MOST} instructions")
        if name in _PUTS:
            stack.keep(argument, latest=done)
        elif name in _GETS:
            stack.fetch(argument)
        else:
            stack.follow(instruction, argument)


@dataclass(eq=False)
class _Value:
    """What an instruction would leave on the stack.

    Args:
        size: how many things it is made of, itself included.
        depth: how many containers it is.
        shared: whether it was taken out of the memo, so that it must not grow any more.
    """

    size: int = 1
    depth: int = 1
    shared: bool = False


class _Stack:
    """The machine's stack and memo, of sizes in place of values; None is a mark on the stack."""

    def __init__(self) -> None:
        self._stack: list[_Value | None] = []
        self._memo: dict[int, _Value] = {}
        self._total = 0

    def keep(self, place: Any, *, latest: int) -> None:
        """Put what is on top into the memo."""
        place = len(self._memo) if place is None else place
        if not 0 <= place <= latest:
            # Real picklers count up; the machine would make a table as long as this number.
            raise pickle.UnpicklingError(f"memo place {place}")
        value = self._pop()
        self._stack.append(value)
        self._memo[place] = value

    def fetch(self, place: Any) -> None:
        """Use something again."""
        if place not in self._memo:
            raise pickle.UnpicklingError(f"memo place {place}, which is empty")
        value = self._memo[place]
        value.shared = True
        self._push(value, value.size)

    def follow(self, instruction: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take from the stack what an instruction takes, and put there what it gives."""
        before, after = list(instruction.stack_before), list(instruction.stack_after)
        if after == [pickletools.markobject]:
            self._stack.append(None)
            return
        taken: list[_Value] = []
        if before[-1:] == [pickletools.stackslice]:
            taken += self._pop_to_mark()
            del before[-2:]
        grows = bool(after) and before[:1] == after and after != [pickletools.anyobject]
        taken += [self._pop() for _ in before[grows:]]
        if grows:
            self._grow(taken)
        elif after:
            # Only texts, bytes and numbers have a length in the pickle itself.
            length = len(argument) // _UNIT if isinstance(argument, str | bytes | bytearray) else 0
            depth = 1 + max((value.depth for value in taken), default=0)
            value = _Value(1 + length + sum(value.size for value in taken), depth)
            self._push(value, 1 + length)

    def _grow(self, more: list[_Value]) -> None:
        """Add to the list, dict or set on top."""
        value = self._pop()
        if value.shared:
            raise pickle.UnpicklingError("a container that grows where it is used, or holds itself")
        value.size += sum(one.size for one in more)
        value.depth = max([value.depth, *(1 + one.depth for one in more)])
        self._push(value, 0)

    def _push(self, value: _Value, new: int) -> None:
        self._total += new
        if self._total > _MOST:
            raise pickle.UnpicklingError(f"more than {_MOST} things")
        if value.depth > _DEEPEST:
            raise pickle.UnpicklingError(f"more than {_DEEPEST} containers in one another")
        self._stack.append(value)

    def _pop(self) -> _Value:
        value = self._stack.pop() if self._stack else None
        if value is None:
            raise pickle.UnpicklingError("an instruction without what it works on")
        return value

    def _pop_to_mark(self) -> list[_Value]:
        taken: list[_Value] = []
        while self._stack and self._stack[-1] is not None:
            taken.append(self._pop())
        if not self._stack:
            raise pickle.UnpicklingError("an instruction without a mark")
        self._stack.pop()
        return taken


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
