"""Token budgets: how many tokens ``keep`` allows, and the threshold that comes nearest to it."""

from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal
from typing import Protocol, TypeVar

from sttm.errors import ConfigError


def check_keep(keep: float | int) -> None:
    """Refuse a budget that is neither a ratio nor a count.

    Raises: ConfigError: not a float in (0, 1] and not an integer >= 1.
    """
    is_count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    is_ratio = isinstance(keep, float) and 0.0 < keep <= 1.0
    if not (is_count or is_ratio):
        raise ConfigError(
            f"keep: got {keep!r}, expected a ratio as a float in (0, 1] or a count as an "
            "integer >= 1. keep=0.3 keeps 30 % of the tokens, keep=512 keeps 512."
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


class Counted(Protocol):
    """Something with a number of tokens."""

    @property
    def num_tokens(self) -> int:
        """Tokens left."""
        ...


Candidate = TypeVar("Candidate", bound=Counted)


def largest_within(
    evaluate: Callable[[float], Candidate], budget: int, low: float, high: float, steps: int = 20
) -> Candidate | None:
    """Find the threshold whose count is as large as possible, but at most the budget.

    Bisection: it assumes that a higher threshold keeps more tokens. Where temporal merging makes
    that untrue, the result is still never above the budget, only perhaps not the best one.

    Args:
        evaluate: what a threshold leads to.
        budget: most tokens allowed.
        low: the threshold with the fewest tokens.
        high: the threshold with the most.
        steps: bisections; the thresholds end up ``(high - low) / 2**steps`` apart.
    Returns: what stands at the threshold found, or None if even ``low`` is above the budget.
    """
    best = evaluate(low)
    if best.num_tokens > budget:
        return None
    top = evaluate(high)
    if top.num_tokens <= budget:
        return top
    for _ in range(steps):
        if best.num_tokens == budget:
            break
        middle = (low + high) / 2
        found = evaluate(middle)
        if found.num_tokens > budget:
            high = middle
            continue
        low = middle
        if found.num_tokens >= best.num_tokens:
            best = found
    return best
