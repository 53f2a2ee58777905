"""What a pickle would build, worked out from its instructions before any of them is followed.

Where memo places make one thing part of many others, a few bytes of pickle become a structure that
nobody can walk: tuples in tuples deeper than the stack of Python, or two of each in the next one,
thirty times. Python hashes, compares and prints such things without looking. Here they are counted.
"""

import pickle
import pickletools
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, BinaryIO

_DEEPEST = 100  # containers in one another
_MOST = 2**20  # things, those that are used again counted again; instructions
_UNIT = 64  # characters or bytes that count as one thing
_PLACES = ("PUT", "BINPUT", "LONG_BINPUT")
_FETCHES = ("GET", "BINGET", "LONG_BINGET")


def rehearse(content: BinaryIO, admitted: Container[str]) -> None:
    """Go through the pickle that begins here, and stop behind it; nothing is built.

    Args:
        content: where a pickle begins.
        admitted: names of the instructions that it may have.

    Raises:
        pickle.UnpicklingError: it has another one, or builds something too large, too deep or
            endless;
        ValueError: it is damaged.
    """
    stage = _Stage()
    for done, (instruction, argument, byte) in enumerate(pickletools.genops(content)):
        name = instruction.name
        if name not in admitted:
            raise pickle.UnpicklingError(f"instruction {name} at byte {byte}")
        if done >= _MOST:
            raise pickle.UnpicklingError(f"more than {_MOST} instructions")
        if name == "MEMOIZE" or name in _PLACES:
            stage.keep(argument, latest=done)
        elif name in _FETCHES:
            stage.fetch(argument)
        else:
            stage.follow(instruction, argument)


@dataclass(eq=False)
class _Thing:
    """A thing that would be there.

    Args:
        size: how many things it is made of, itself included.
        depth: how many containers it is.
        shared: whether it was taken out of the memo, so that it must not grow any more.
    """

    size: int = 1
    depth: int = 1
    shared: bool = False


class _Stage:
    """The stack and the memo, with things in place of values; None is a mark on the stack."""

    def __init__(self) -> None:
        self._stack: list[_Thing | None] = []
        self._memo: dict[int, _Thing] = {}
        self._total = 0

    def keep(self, place: Any, *, latest: int) -> None:
        """Put what is on top into the memo."""
        place = len(self._memo) if place is None else place
        if not 0 <= place <= latest:
            # Real picklers count up; the machine would make a table as long as this number.
            raise pickle.UnpicklingError(f"memo place {place}")
        thing = self._pop()
        self._stack.append(thing)
        self._memo[place] = thing

    def fetch(self, place: Any) -> None:
        """Use something again."""
        if place not in self._memo:
            raise pickle.UnpicklingError(f"memo place {place}, which is empty")
        thing = self._memo[place]
        thing.shared = True
        self._push(thing, thing.size)

    def follow(self, instruction: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take from the stack what an instruction takes, and put there what it gives."""
        before, after = list(instruction.stack_before), list(instruction.stack_after)
        if after == [pickletools.markobject]:
            self._stack.append(None)
            return
        taken: list[_Thing] = []
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
            depth = 1 + max((thing.depth for thing in taken), default=0)
            thing = _Thing(1 + length + sum(thing.size for thing in taken), depth)
            self._push(thing, 1 + length)

    def _grow(self, more: list[_Thing]) -> None:
        """Add to the list, dict or set on top."""
        thing = self._pop()
        if thing.shared:
            raise pickle.UnpicklingError("a container that grows where it is used, or holds itself")
        thing.size += sum(one.size for one in more)
        thing.depth = max([thing.depth, *(1 + one.depth for one in more)])
        self._push(thing, 0)

    def _push(self, thing: _Thing, new: int) -> None:
        self._total += new
        if self._total > _MOST:
            raise pickle.UnpicklingError(f"more than {_MOST} things")
        if thing.depth > _DEEPEST:
            raise pickle.UnpicklingError(f"more than {_DEEPEST} containers in one another")
        self._stack.append(thing)

    def _pop(self) -> _Thing:
        thing = self._stack.pop() if self._stack else None
        if thing is None:
            raise pickle.UnpicklingError("an instruction without what it works on")
        return thing

    def _pop_to_mark(self) -> list[_Thing]:
        taken: list[_Thing] = []
        while self._stack and self._stack[-1] is not None:
            taken.append(self._pop())
        if not self._stack:
            raise pickle.UnpicklingError("an instruction without a mark")
        self._stack.pop()
        return taken
