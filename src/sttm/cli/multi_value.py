"""Options that take several values in a row, as in ``--frames 16 32 64``."""

from collections.abc import Iterator, Sequence
from typing import Any

from sttm.cli.command import Command


class MultiValue(Command):
    """A command whose repeatable options need their name only once; arguments come before them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the name in front of every value, then parse as usual."""
        names = {
            name
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        return super().parse_args(ctx, list(_repeat(args, names)))


def _repeat(args: Sequence[str], names: set[str]) -> Iterator[str]:
    name, seen = None, False
    for arg in args:
        if arg.startswith("-") and len(arg) > 1 and not arg[1].isdigit() and arg[1] != ".":
            name, seen = (arg if arg in names else None), False
        elif name is not None and seen:
            yield name
        else:
            seen = True
        yield arg
