"""What a comparison with numbers from an original implementation gave, and the table of all."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch

TOLERANCE = 1e-5  # of features of about unit variance, in float32


@dataclass(frozen=True)
class Comparison:
    """One case.

    Args:
        source: what is compared: a method or a score.
        case: its input and parameters.
        same: whether tokens, groups or answers are the same.
        difference: the largest difference of the numbers that belong to them; None if the case has
            none.
    """

    source: str
    case: str
    same: bool
    difference: float | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs but rounding."""
        return self.same and (self.difference is None or self.difference <= TOLERANCE)


def table(comparisons: Iterable[Comparison]) -> str:
    """Return one line per source: cases, how many of them are equal, the largest difference."""
    lines = [f"{'source':<34} {'cases':>5} {'equal':>5}  largest difference"]
    for source, group in groupby(comparisons, key=lambda c: c.source):
        cases = list(group)
        differences = [c.difference for c in cases if c.difference is not None]
        largest = f"{max(differences):.1e}" if differences else "-"
        equal = sum(c.equal for c in cases)
        lines.append(f"{source:<34} {len(cases):>5} {equal:>5}  {largest}")
    return "\n".join(lines)


def paired(rows: torch.Tensor, others: torch.Tensor) -> tuple[bool, float]:
    """Pair every row with the nearest of the others, whatever the order.

    Args:
        rows: ``(n, C)``.
        others: ``(m, C)``.

    Returns:
        whether that uses each of the others exactly once, and the largest difference of a pair.
    """
    distance = torch.cdist(rows.double(), others.double())
    nearest = distance.argmin(dim=1)
    one_to_one = sorted(nearest.tolist()) == list(range(len(others)))
    return one_to_one, float((rows - others[nearest]).abs().max())
