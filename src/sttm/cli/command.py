"""What all commands have in common: each option once, no option for nothing, text in UTF-8."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from sttm.budget import written_keep
from sttm.errors import ConfigError

if TYPE_CHECKING:
    from sttm.evaluation.specs import Keep, Setting

_GIVEN = "sttm.given"  # in the context: names of the parameters that the command line gives
_PATH = "path"  # how parsers that leave a file's name a text call its type
_SHOWN = 60  # characters of a wrong text that a message repeats


class Command(TyperCommand):
    """A command that takes an option once unless it takes many values.

    The parser would take the last of several values, which is right for nobody: two that differ
    contradict each other, and two that do not are a slip.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and check what no single option knows.

        Raises:
            ConfigError: an option comes twice, or a text is not in UTF-8.
        """
        # The parser takes what it reads out of the list that it is given.
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        if not ctx.resilient_parsing:
            check_once(given)
        ctx.meta[_GIVEN] = frozenset(
            parameter.name
            for parameter in given
            # The parser lists all arguments, also those that are not there.
            if parameter.param_type_name != "argument" or _is_there(values.get(parameter.name))
        )
        rest: list[str] = super().parse_args(ctx, args)
        for parameter in self.params:
            _check_text(parameter, ctx.params.get(str(parameter.name)))
        return rest


def check_once(given: Sequence[Any]) -> None:
    """Refuse an option that comes twice.

    Args:
        given: the parameters in the order of the command line, each as often as it comes.

    Raises:
        ConfigError: one comes twice that does not take many values.
    """
    counts = Counter(parameter.name for parameter in given)
    for parameter in given:
        if counts[parameter.name] > 1 and not _may_repeat(parameter):
            raise ConfigError(
                f"{flag(parameter)}: got it {counts[parameter.name]} times, expected it once at "
                "most. Drop the others."
            )


def refuse_idle(context: typer.Context, names: Iterable[str] | None, beside: str, why: str) -> None:
    """Refuse options that would do nothing.

    Args:
        context: of the command.
        names: of their parameters; None for all of them.
        beside: what makes them do nothing, e.g. another option.
        why: a clause about it.

    Raises:
        ConfigError: one of them was given.
    """
    given = context.meta[_GIVEN] & (context.meta[_GIVEN] if names is None else frozenset(names))
    found = [flag(parameter) for parameter in context.command.params if parameter.name in given]
    if found:
        raise ConfigError(
            f"got {', '.join(found)} with {beside}, expected none of these: {why}. Drop "
            f"{'it' if len(found) == 1 else 'them'}."
        )


def refuse_unused(
    context: typer.Context,
    settings: Sequence["Setting"],
    keeps: Sequence["Keep"],
    name: str = "methods",
) -> None:
    """Refuse methods or budgets of the command line that nothing runs with.

    Args:
        context: of a command with methods and ``--keep``.
        settings: what runs.
        keeps: the budgets; 1.0 stands for all tokens.
        name: of the parameter with the methods.

    Raises:
        ConfigError: there are some.
    """
    runs = [setting for setting in settings if setting.method is not None]
    if is_given(context, name) and not runs:
        raise ConfigError(
            f"got --{name} with no other budget than 1, expected one below it, e.g. --keep 0.3: "
            f"1 keeps all tokens, with no method. Add one, or drop --{name}."
        )
    if is_given(context, "keep"):
        used = {setting.keep for setting in runs}
        unused = [written_keep(keep) for keep in keeps if keep not in used and keep != 1.0]
        if unused:
            raise ConfigError(
                f"got --keep {' '.join(unused)}, at which no method runs: each has a budget of its "
                f"own. Drop it, or the budget in --{name}."
            )


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the command line itself gives a parameter, and not its default."""
    return name in context.meta[_GIVEN]


def flag(parameter: Any) -> str:
    """Name a parameter as the user writes it: ``--max-frames``, or ``VIDEO``."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return str(max(parameter.opts, key=len))


def _is_there(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and bool(value))


def _may_repeat(parameter: Any) -> bool:
    return bool(parameter.multiple) or parameter.nargs == -1 or parameter.name == "help"


def _check_text(parameter: Any, value: Any) -> None:
    """Refuse bytes that are no UTF-8, which no model reads; files may be named with them.

    Raises:
        ConfigError: there are some.
    """
    kind = getattr(getattr(parameter, "type", None), "name", None)
    texts = value if isinstance(value, list | tuple) else [value]
    for text in texts:
        if not isinstance(text, str) or kind == _PATH:
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if not Path(text).exists():
                raise ConfigError(
                    f"{flag(parameter)}: got {text[:_SHOWN]!r}, whose character {error.start + 1} "
                    "is not in UTF-8, expected text in UTF-8. Set the terminal's encoding to "
                    "UTF-8, or convert the text."
                ) from error
