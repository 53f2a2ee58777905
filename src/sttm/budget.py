"""Token budgets: how many tokens ``keep`` stands for."""

from decimal import ROUND_FLOOR, Decimal

from sttm.errors import ConfigError


def check_keep(keep: float | int, name: str = "keep") -> None:
    """Refuse a budget that is neither a ratio nor a count.

    Args:
        keep: the budget.
        name: what the user calls it.
    Raises: ConfigError: not a float in (0, 1] and not an integer >= 1.
    """
    is_count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    is_ratio = isinstance(keep, float) and 0.0 < keep <= 1.0
    if not (is_count or is_ratio):
        raise ConfigError(
            f"{name}: got {keep!r}, expected a ratio as a float in (0, 1] or a count as an "
            f"integer >= 1. {name}=0.3 stands for 30 % of the tokens, {name}=512 for 512."
        )


def token_budget(keep: float | int, num_tokens: int) -> int:
    """Return how many of ``num_tokens`` tokens ``keep`` allows.

    Args:
        keep: a ratio in (0, 1], read as the decimal number that was written (0.29 of 100 is 29),
            or a count.
        num_tokens: tokens of the video, ``N``.
    Returns: ``floor(keep * N)`` or the count, in [1, N].
    Raises: ConfigError: not a float in (0, 1] and not an integer >= 1.
    """
    check_keep(keep)
    if isinstance(keep, int):
        return min(keep, num_tokens)
    allowed = (Decimal(str(float(keep))) * num_tokens).to_integral_value(ROUND_FLOOR)
    return max(1, int(allowed))
