"""Checks of methods' options."""

from sttm.errors import ConfigError


def check_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    """Refuse what is not a number in [low, high], or in (low, high] with ``above``.

    Raises:
        ConfigError: out of range, or no number.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = number and low <= float(str(value)) <= high
    if not inside or (above and float(str(value)) == low):
        bracket = "(" if above else "["
        raise ConfigError(
            f"{name}: got {value!r}, expected a number in {bracket}{low:g}, {high:g}]."
        )


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not an integer of at least ``least``.

    Raises:
        ConfigError: out of range, or no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: got {value!r}, expected an integer >= {least}.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some words.

    Raises:
        ConfigError: another value.
    """
    if value not in choices:
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")


def check_threshold(name: str, value: object) -> None:
    """Refuse what is neither a cosine nor ``"auto"`` nor None.

    Raises:
        ConfigError: another value.
    """
    if value is None or value == "auto":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -1.0 <= float(str(value)) <= 1.0:
        raise ConfigError(
            f"{name}: got {value!r}, expected a cosine in [-1, 1], 'auto', or None to switch the "
            "step off."
        )
