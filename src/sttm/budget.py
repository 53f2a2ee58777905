"""Token budgets: how many tokens ``keep`` stands for."""

import re
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from numbers import Integral, Rational, Real

from sttm.errors import BudgetError, ConfigError

__all__ = ["check_keep", "read_keep", "token_budget", "written_keep"]

MOST = 2**63 - 1  # tokens; more than any video has, and every tensor's length is below it
# Only what people write: Decimal also reads "1_0", "infinity" and the digits of other scripts.
_WRITTEN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHOWN = 60  # characters of a wrong value that a message repeats


def check_keep(keep: float | int, name: str = "keep") -> float | int:
    """Refuse a budget that is neither a ratio nor a count.

    Args:
        keep: the budget; numbers of NumPy are fine, too.
        name: what the user calls it.

    Returns:
        the budget as a number of Python; ``np.float32(0.3)`` is 0.3.

    Raises:
        ConfigError: not a ratio in (0, 1] and not an integer from 1 to `MOST`.
    """
    number = _plain(keep)
    is_count = isinstance(number, int) and 1 <= number <= MOST
    is_ratio = isinstance(number, float) and 0.0 < number <= 1.0
    if number is None or not (is_count or is_ratio):
        raise ConfigError(
            f"{name}: got {_shown(keep)}, expected a ratio as a float in (0, 1] or a count as an "
            f"integer from 1 to {MOST}. {name}=0.3 stands for 30 % of the tokens, {name}=512 for "
            "512."
        )
    return number


def token_budget(keep: float | int, num_tokens: int) -> int:
    """Return how many of ``num_tokens`` tokens ``keep`` allows.

    Args:
        keep: a ratio in (0, 1], read as the decimal number that was written (0.29 of 100 is 29),
            or a count.
        num_tokens: tokens of the video, ``N``.

    Returns:
        ``floor(keep * N)`` or the count, in [1, N].

    Raises:
        ConfigError: not a ratio in (0, 1] and not an integer >= 1.
    """
    number = check_keep(keep)
    if isinstance(number, int):
        return min(number, num_tokens)
    allowed = (Decimal(str(number)) * num_tokens).to_integral_value(ROUND_FLOOR)
    return max(1, int(allowed))


def joint_budget(keep: float | int, num_tokens: Sequence[int]) -> int:
    """Return how many tokens ``keep`` allows several videos together.

    Args:
        keep: a ratio of all their tokens, or a count; see `token_budget`.
        num_tokens: tokens of every video.

    Raises:
        BudgetError: fewer tokens than videos.
    """
    budget = token_budget(keep, sum(num_tokens))
    if budget < len(num_tokens):
        raise BudgetError(
            f"budget_scope='joint': got a budget of {budget} tokens for {len(num_tokens)} videos, "
            "expected at least one token for each. Allow more."
        )
    return budget


def read_keep(text: str, name: str = "keep") -> float | int:
    """Read a budget that was written down: a share such as 0.3 or 30%, or a count such as 512.

    In writing 1 is a share: all tokens. So the count 1 cannot be written.

    Args:
        text: the budget, in ASCII digits; a space before the percent sign is fine.
        name: what to call it.

    Raises:
        ConfigError: something else, or out of range.
    """
    stripped = text.strip() if isinstance(text, str) else ""
    is_share = stripped.endswith("%")
    number = _decimal(stripped.removesuffix("%").rstrip())
    whole = 100 if is_share else 1
    # Compared before it is converted: 1e999999999 would be an integer of a billion digits.
    if number is not None and 0 < number <= (whole if is_share else MOST):
        if number > whole and number == number.to_integral_value():
            return int(number)
        share = float(number / whole)  # 0 for what is too small for a float
        if number <= whole and share > 0:
            return share
    raise ConfigError(
        f"{name}: got {_shown(text)}, expected a share such as 0.3 or 30% (above 0, at most 1), "
        "or a count such as 512 (below 2**63)."
    )


def written_keep(keep: float | int) -> str:
    """Write a budget as `read_keep` reads it: ``0.3``, ``512``, and ``1`` for all tokens."""
    return str(keep) if isinstance(keep, int) else f"{keep:.12g}"


def _decimal(digits: str) -> Decimal | None:
    """Read a number exactly; None if there is none."""
    try:
        return Decimal(digits) if _WRITTEN.fullmatch(digits) else None
    except InvalidOperation:  # an exponent beyond those of decimals
        return None


def _plain(keep: object) -> float | int | None:
    """Turn any real number into one of Python; None for what is not one."""
    if isinstance(keep, bool):
        return None
    try:
        if isinstance(keep, Integral):
            return int(keep)
        if isinstance(keep, Rational):
            return float(keep)
        # By its digits: np.float32(0.29) was written as 0.29, float() makes 0.28999999 of it.
        return float(str(keep)) if isinstance(keep, Real) else None
    except (OverflowError, ValueError):  # a fraction too large for a float
        return None


def _shown(value: object) -> str:
    """Repeat a wrong value, shortened; of a huge integer only that it is one."""
    if isinstance(value, int) and abs(value) > MOST:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
