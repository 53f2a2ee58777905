"""Pickles of strangers: what is harmless is read, everything else is refused and nothing runs."""

import builtins
import collections
import contextlib
import functools
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sttm.errors import VideoError
from sttm.evaluation.features.safe_pickle import read_pickle, unpickle


def _nested(value: Any, times: int) -> Any:
    return _nested([value], times - 1) if times else value


SHARED: dict[str, Any] = {"tensor": torch.arange(3), "pair": (1, (2,)), "deep": _nested(1, 60)}
HARMLESS: dict[str, Any] = {
    "vid": "10109006686_cnt_edit1",
    "video_time": 12.5,
    "frame_time": "0.00s,1.00s",
    "num_frames": 2,
    "big": 2**80,
    "small": -1,
    "none": None,
    "flags": [True, False],
    "nested": [1, (2, "x"), (1, 2, 3), (), {"a": [1.5]}, {3}, frozenset([4]), b"bytes", "ü"],
    "video_grid_thw": torch.tensor([[8, 26, 46]]),
    "part": torch.arange(12.0).view(3, 4)[:, 1:3],
    "half": torch.randn(2, 3).bfloat16(),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 3),
    "ordered": collections.OrderedDict(a=1),
    "again": [SHARED, SHARED, SHARED["tensor"], {"deep": SHARED["deep"]}],
}


@pytest.mark.parametrize("protocol", range(6))
def test_harmless_pickles_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(HARMLESS, protocol=protocol))
    found = read_pickle(path)
    assert str(found) == str(HARMLESS)
    assert found["part"].dtype == torch.float32
    assert found["half"].dtype == torch.bfloat16


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> Any:
        return self._call


class Plain:
    """An object with state."""

    def __init__(self) -> None:
        self.value = 1


class Stateful:
    """Sets the state of what it calls."""

    def __reduce__(self) -> Any:
        return collections.OrderedDict, (), {"__class__": "x"}


def _hostile_storage() -> bytes:
    """A tensor whose storage is a pickle that calls a function."""
    file = io.BytesIO()
    torch.save(Calls(os.mkdir, "proof"), file, _use_new_zipfile_serialization=False)
    return pickle.dumps(Calls(torch.storage._load_from_bytes, file.getvalue()))


def _zipped_storage() -> bytes:
    file = io.BytesIO()
    torch.save(Calls(os.mkdir, "proof"), file)
    return pickle.dumps(Calls(torch.storage._load_from_bytes, file.getvalue()))


def _tensor_for_storage() -> bytes:
    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    return pickle.dumps(Calls(torch.storage._load_from_bytes, file.getvalue()))


def _rebuilt(*args: Any) -> bytes:
    return pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, *args))


def _stored(count: int) -> Any:
    untyped = torch.arange(float(count)).untyped_storage()
    kind: Any = torch.storage.TypedStorage
    return kind(wrap_storage=untyped, dtype=torch.float32, _internal=True)


def _name(module: str, name: str, rest: bytes) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + rest


def pairs(times: int) -> bytes:
    """Instructions for a tuple of one thing twice, in such a tuple, in such a tuple..."""
    return b")q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(times))


def _pair(times: int) -> Any:
    """The same as a value."""
    made: Any = ()
    for _ in range(times):
        made = (made, made)
    return made


def _sets() -> bytes:
    """Two equal frozensets in frozensets, which share nothing with one another."""

    def made() -> Any:
        one: Any = frozenset()
        for _ in range(30):
            one = frozenset([one, (one,)])
        return one

    return pickle.dumps([made(), made()], protocol=2)


def _itself() -> bytes:
    made: list[Any] = []
    made.append([made])
    return pickle.dumps(made)


DEEP = b")" + b"\x85" * 3_000_000
TIME = b"\x80\x04}\x8c\x0aframe_time"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "os.system": lambda: pickle.dumps(Calls(os.system, "mkdir proof")),
    "os.mkdir, protocol 0": lambda: pickle.dumps(Calls(os.mkdir, "proof"), protocol=0),
    "builtins.eval": lambda: pickle.dumps(Calls(builtins.eval, "__import__('os').mkdir('proof')")),
    "builtins.exec": lambda: pickle.dumps(Calls(builtins.exec, "import os; os.mkdir('proof')")),
    "getattr": lambda: pickle.dumps(Calls(getattr, "text", "upper")),
    "functools.partial": lambda: pickle.dumps(Calls(functools.partial, os.mkdir, "proof")),
    "nested reduce": lambda: pickle.dumps(
        {"vid": [("a", {"deep": Calls(list, (Calls(os.mkdir, "proof"),))})]}
    ),
    "torch.load": lambda: pickle.dumps(Calls(torch.load, "file")),
    "a class": lambda: pickle.dumps(Plain),
    "an object": lambda: pickle.dumps(Plain()),
    "an object, protocol 0": lambda: pickle.dumps(Plain(), protocol=0),
    "state": lambda: pickle.dumps(Stateful()),
    "a hostile storage": _hostile_storage,
    "a hostile zipped storage": _zipped_storage,
    "a tensor for a storage": _tensor_for_storage,
    "text for a storage": lambda: pickle.dumps(Calls(torch.storage._load_from_bytes, "text")),
    "no storage": lambda: _rebuilt("storage", 0, (2,), (1,), False, {}),
    "beyond the storage": lambda: _rebuilt(_stored(3), 0, (4,), (1,), False, {}),
    "offset beyond": lambda: _rebuilt(_stored(3), 2, (2,), (1,), False, {}),
    "before the storage": lambda: _rebuilt(_stored(3), -1, (2,), (1,), False, {}),
    "negative stride": lambda: _rebuilt(_stored(3), 2, (2,), (-1,), False, {}),
    "a huge tensor of one number": lambda: _rebuilt(_stored(1), 0, (2**40,), (0,), False, {}),
    "sizes without strides": lambda: _rebuilt(_stored(3), 0, (3, 1), (1,), False, {}),
    "size that is no number": lambda: _rebuilt(_stored(3), 0, ("3",), (1,), False, {}),
    "size that is no tuple": lambda: _rebuilt(_stored(3), 0, 3, 1, False, {}),
    # A stand-in whose defaults, code or state is set.
    "BUILD on an admitted function": lambda: _name(
        "torch._utils", "_rebuild_tensor_v2", b"}X\x01\x00\x00\x00aK\x01sb."
    ),
    "INST": lambda: b"(S'mkdir proof'\nios\nsystem\n.",
    "OBJ": lambda: b"(cos\nsystem\nS'mkdir proof'\no.",
    "NEWOBJ": lambda: b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "extension": lambda: b"\x80\x02\x82\x01.",
    "persistent id": lambda: b"Pstorage\n.",
    "binary persistent id": lambda: b"\x80\x02K\x01Q.",
    # A memo place that would make a table of 16 GB.
    "memo of a size": lambda: b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "memo below 0": lambda: b"I1\np-5\n.",
    "memo that is not there": lambda: b"\x80\x02h\x05.",
    "a name from the memo": lambda: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.",
    "a name from bytes": lambda: b"\x80\x04C\x02osC\x06system\x93.",
    "a dotted name": lambda: b"\x80\x04\x8c\x0bcollections\x8c\x10OrderedDict.copy\x93.",
    "a dunder": lambda: b"\x80\x04\x8c\x0bcollections\x8c\x0c__builtins__\x93.",
    "a call of text": lambda: b"\x80\x02X\x01\x00\x00\x00a)R.",
    "a call without arguments": lambda: b"\x80\x02R.",
    "an unhashable key": lambda: b"\x80\x02}]K\x01s.",
    # Python would hash, compare or print these until it is out of stack or patience.
    "deep tuples": lambda: TIME + b")" + b"\x85" * 200_000 + b"s.",
    "a key of deep tuples": lambda: b"\x80\x02}" + DEEP + b"K\x01s.",
    "deep lists": lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "pairs of pairs": lambda: TIME + pairs(30) + b"s.",
    "a key of pairs": lambda: b"\x80\x02}" + pairs(30) + b"K\x01s.",
    "a size of pairs": lambda: _rebuilt(_stored(3), 0, _pair(30), (1,), False, {}),
    "sets of sets": _sets,
    "a list that holds itself": _itself,
    "a list that grows later": lambda: b"\x80\x02]q\x00]q\x01h\x00ah\x00h\x01aa.",
    "a size of huge numbers": lambda: _rebuilt(
        _stored(3), 0, (2**100_000,) * 1000, (1,) * 1000, False, {}
    ),
    "many instructions": lambda: pickle.dumps([0] * 2**21),
    "many things": lambda: pickle.dumps([list(range(1000))] * 2000),
    "a long text many times": lambda: pickle.dumps(
        [Calls(__import__("_codecs").encode, text, "latin1") for text in ["x" * 2**20] * 100]
    ),
    "nothing to work on": lambda: b"\x80\x02\x85.",
    "no mark": lambda: b"\x80\x02K\x01t.",
    "a mark to work on": lambda: b"\x80\x02(\x85.",
    "a deep storage": lambda: pickle.dumps(
        Calls(torch.storage._load_from_bytes, b"\x80\x02}" + DEEP + b"K\x01s.")
    ),
    "other bytes": lambda: _name(
        "_codecs", "encode", b"X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7\x86R."
    ),
    "decode": lambda: pickle.dumps(Calls(__import__("_codecs").decode, b"a", "utf-8")),
    "longer than the file": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
    "cut off": lambda: pickle.dumps(HARMLESS)[:-20],
    "no end": lambda: pickle.dumps(HARMLESS)[:-1],
    "text": lambda: b"this is no pickle",
    "nothing": lambda: b"",
    "a future protocol": lambda: b"\x80\x09K\x01.",
    "an unknown instruction": lambda: b"\x80\x04\xff.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(HOSTILE[name]())
    with pytest.raises(VideoError, match="refused"):
        read_pickle(tmp_path / "a.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pkl"]


def test_the_hostile_pickles_would_do_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "builtins.eval", "nested reduce", "INST", "OBJ", "a hostile storage"):
        with contextlib.suppress(TypeError):  # after the harm was done
            pickle.loads(HOSTILE[name]())
        assert (tmp_path / "proof").is_dir(), name
        (tmp_path / "proof").rmdir()


def test_a_refused_pickle_leaves_nothing_behind() -> None:
    with pytest.raises(pickle.UnpicklingError, match="BUILD"):
        unpickle(HOSTILE["BUILD on an admitted function"]())
    good = unpickle(pickle.dumps({"a": torch.ones(2)}))
    assert torch.equal(good["a"], torch.ones(2))


def test_what_is_used_again_is_read_as_it_is() -> None:
    """As long as it is counted; a pair of pairs of pairs is no attack in itself."""
    made = {"pairs": _pair(15), "row": [list(range(10))] * 100}
    assert unpickle(pickle.dumps(made)) == made
    with pytest.raises(pickle.UnpicklingError, match="more than 1048576 things"):
        unpickle(pickle.dumps(_pair(30)))


@pytest.mark.parametrize("protocol", range(6))
def test_the_depth_has_a_limit(protocol: int) -> None:
    assert unpickle(pickle.dumps(_nested(1, 99), protocol)) == _nested(1, 99)
    with pytest.raises(pickle.UnpicklingError, match="100 containers in one another"):
        unpickle(pickle.dumps(_nested(1, 100), protocol))


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    with path.open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(VideoError, match="more than 16777216 bytes"):
        read_pickle(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file"):
        read_pickle(tmp_path / "a.pkl")
