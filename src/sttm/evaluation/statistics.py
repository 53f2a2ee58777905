"""Accuracies with intervals. Questions of one clip are not independent, so clips are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from sttm.evaluation.checks import MOST_REPEATS, check_count

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Args:
        value: the estimate from all clips; NaN if nothing was asked.
        low, high: ends of the percentile interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Tally:
    """Right answers and questions of one setting.

    Args:
        right: ``(clips, tasks)`` right answers, or the sum of their scores from 0 to 1.
        asked: ``(clips, tasks)`` questions.
    """

    right: Counts | Floats
    asked: Counts

    @classmethod
    def count(cls, answers: Sequence[tuple[int, int, bool]], clips: int, tasks: int) -> "Tally":
        """Count ``(clip, task, right)`` triples."""
        right, asked = np.zeros((clips, tasks)), np.zeros((clips, tasks), dtype=np.int64)
        for clip, task, correct in answers:
            asked[clip, task] += 1
            right[clip, task] += correct
        return cls(right, asked)

    def accuracies(self, times: Floats) -> Floats:
        """Accuracy per task, and their mean in the last column.

        The mean over tasks counts every task once, however often it was asked, so that a frequent
        kind of question does not decide the comparison. A task that is never asked is left out.

        Args:
            times: ``(rows, clips)`` how often each clip counts.

        Returns:
            ``(rows, tasks + 1)``; NaN where nothing was asked, for the mean where any of its tasks
            was not.
        """
        asked = times @ self.asked
        unknown = np.full(asked.shape, np.nan)
        tasks = np.divide(times @ self.right, asked, out=unknown, where=asked > 0)
        counted = tasks[:, self.asked.sum(0) > 0]
        mean = counted.mean(1) if counted.shape[1] else np.full(len(times), np.nan)
        return np.concatenate([tasks, mean[:, None]], 1)


class Bootstrap:
    """A cluster bootstrap: the same resampled sets of clips for everything that is compared.

    Clips are drawn from all of them, not within their kinds of scenes: with a few clips of each
    kind that would promise more than they can tell.

    Args:
        clips: number of clips; fewer than two give no intervals.
        resamples: number of resampled sets.
        seed: of the resampling.
    """

    def __init__(self, clips: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        check_count("resamples", resamples, most=MOST_REPEATS)
        generator = np.random.Generator(np.random.PCG64(seed))
        self._once = np.ones((1, clips))
        if clips < 2:
            self._times = np.zeros((1, clips))
            return
        share = np.full(clips, 1.0 / clips)
        self._times = generator.multinomial(clips, share, size=resamples).astype(np.float64)

    def accuracies(self, tally: Tally) -> list[Estimate]:
        """Estimate the accuracy of every task, and their mean last."""
        values = tally.accuracies(self._once)[0]
        return _intervals(values, tally.accuracies(self._times))

    def differences(self, tally: Tally, other: Tally) -> list[Estimate]:
        """Estimate ``tally - other`` on the same clips: every task, and their mean last."""
        values = tally.accuracies(self._once) - other.accuracies(self._once)
        return _intervals(values[0], tally.accuracies(self._times) - other.accuracies(self._times))

    def ratios(self, tally: Tally, other: Tally) -> list[Estimate]:
        """Estimate ``tally / other`` on the same clips: every task, and their mean last."""
        values = _ratio(tally.accuracies(self._once), other.accuracies(self._once))
        resampled = _ratio(tally.accuracies(self._times), other.accuracies(self._times))
        return _intervals(values[0], resampled)


def known(value: float | None) -> float | None:
    """Round for a report; None for what cannot be told (nan), or is None already."""
    return round(value, 5) if value is not None and isfinite(value) else None


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        only_first: questions that only the first of two runs answered rightly; those that both or
            neither did say nothing about their difference.
        only_second: those that only the second did.
    """
    total = only_first + only_second
    tail = sum(comb(total, count) for count in range(min(only_first, only_second) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**total)))


def _ratio(values: Floats, others: Floats) -> Floats:
    unknown = np.full(values.shape, np.nan)
    ratio: Floats = np.divide(values, others, out=unknown, where=others > 0)
    return ratio


def _intervals(values: Floats, resampled: Floats) -> list[Estimate]:
    ends = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    found = []
    for value, column in zip(values, resampled.T):
        known: Any = column[np.isfinite(column)]
        low, high = np.percentile(known, ends) if len(known) else (np.nan, np.nan)
        found.append(Estimate(float(value), float(low), float(high)))
    return found
