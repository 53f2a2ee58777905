"""Token budgets: how many tokens ``keep`` stands for."""

from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from numbers import Integral, Rational, Real

from sttm.errors import ConfigError


def check_keep(keep: float | int, name: str = "keep") -> float | int:
    """Refuse a budget that is neither a ratio nor a count.

    Args:
        keep: the budget; numbers of NumPy are fine, too.
        name: what the user calls it.
    Returns: the budget as a number of Python; ``np.float32(0.3)`` is 0.3.
    Raises: ConfigError: not a ratio in (0, 1] and not an integer >= 1.
    """
    number = _plain(keep)
    is_count = isinstance(number, int) and number >= 1
    is_ratio = isinstance(number, float) and 0.0 < number <= 1.0
    if number is None or not (is_count or is_ratio):
        raise ConfigError(
            f"{name}: got {keep!r}, expected a ratio as a float in (0, 1] or a count as an "
            f"integer >= 1. {name}=0.3 stands for 30 % of the tokens, {name}=512 for 512."
        )
    return number


def token_budget(keep: float | int, num_tokens: int) -> int:
    """Return how many of ``num_tokens`` tokens ``keep`` allows.

    Args:
        keep: a ratio in (0, 1], read as the decimal number that was written (0.29 of 100 is 29),
            or a count.
        num_tokens: tokens of the video, ``N``.
    Returns: ``floor(keep * N)`` or the count, in [1, N].
    Raises: ConfigError: not a ratio in (0, 1] and not an integer >= 1.
    """
    number = check_keep(keep)
    if isinstance(number, int):
        return min(number, num_tokens)
    allowed = (Decimal(str(number)) * num_tokens).to_integral_value(ROUND_FLOOR)
    return max(1, int(allowed))


def read_keep(text: str, name: str = "keep") -> float | int:
    """Read a budget that was written down: a share such as 0.3 or 30%, or a count such as 512.

    In writing 1 is a share: all tokens. So the count 1 cannot be written.

    Args:
        text: the budget.
        name: what to call it.
    Raises: ConfigError: something else; its range is checked where it is used.
    """
    stripped = text.strip()
    try:
        number = Decimal(stripped.removesuffix("%").strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ConfigError(
            f"{name}: got {text!r}, expected a share such as 0.3 or 30%, or a count such as 512."
        )
    if stripped.endswith("%"):
        return float(number / 100)
    return int(number) if number > 1 and number == number.to_integral_value() else float(number)


def written_keep(keep: float | int) -> str:
    """Write a budget as `read_keep` reads it: ``0.3``, ``512``, and ``1`` for all tokens."""
    return f"{keep:.12g}"


def _plain(keep: object) -> float | int | None:
    """Turn any real number into one of Python; None for what is not one."""
    if isinstance(keep, bool):
        return None
    if isinstance(keep, Integral):
        return int(keep)
    if isinstance(keep, Rational):
        return float(keep)
    # By its digits: np.float32(0.29) was written as 0.29, float() makes 0.28999999 of it.
    return float(str(keep)) if isinstance(keep, Real) else None
