"""Numbers and texts that come from outside: refused where they cannot be meant."""

from numbers import Integral
from typing import Any

from sttm.budget import MOST
from sttm.errors import ConfigError

MOST_FRAMES = 100_000
MOST_PROCESSES = 1024
MOST_REPEATS = 100_000  # of one thing that is timed or drawn
MOST_SAMPLES = 1_000_000  # clips of one length

_SHOWN = 60  # characters of a wrong value that a message repeats


def check_count(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """Refuse what is no whole number in a range.

    Args:
        name: what the user calls it.
        value: the number; whole numbers of NumPy are fine, too.
        least: the smallest that is allowed.
        most: the largest that is allowed.

    Returns:
        the number as one of Python.

    Raises:
        ConfigError: something else.
    """
    # A bool is a number of Python, but nobody's count.
    number = None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if number is None or not least <= number <= most:
        end = f"at least {least}" if most == MOST else f"{least} to {most}"
        raise ConfigError(f"{name}: got {shown(value)}, expected a whole number, {end}.")
    return number


def check_text(name: str, value: Any, example: str) -> str:
    """Refuse what is no text.

    Args:
        name: what the user calls it.
        value: the text.
        example: one that is right.

    Raises:
        ConfigError: something else.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name}: got {shown(value)}, expected text such as {example!r}.")
    return value


def shown(value: object) -> str:
    """Repeat a wrong value, shortened; of a huge integer only that it is one."""
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
