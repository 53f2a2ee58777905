from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.budget import largest_within, token_budget
from sttm.errors import ConfigError


@dataclass(frozen=True)
class Count:
    num_tokens: int


@pytest.mark.parametrize(
    ("keep", "tokens", "budget"),
    [
        (0.29, 100, 29),
        (0.57, 100, 57),
        (0.3, 10, 3),
        (0.1, 30, 3),
        (1e-9, 1000, 1),
        (1.0, 7, 7),
        (1, 7, 1),
        (512, 7, 7),
        (5, 7, 5),
        (0.999999, 7, 6),
    ],
)
def test_ratios_are_read_as_they_were_written(keep: float | int, tokens: int, budget: int) -> None:
    assert token_budget(keep, tokens) == budget


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.5, -0.1, float("nan"), True, "0.3", None])
def test_other_budgets_are_refused(keep: Any) -> None:
    with pytest.raises(ConfigError, match="keep"):
        token_budget(keep, 10)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=40), st.integers(1, 60))
def test_the_search_is_never_above_the_budget(steps: list[int], budget: int) -> None:
    counts = sorted(steps)

    def evaluate(threshold: float) -> Count:
        return Count(counts[round(threshold * (len(counts) - 1))])

    found = largest_within(evaluate, budget, 0.0, 1.0)
    within = [count for count in counts if count <= budget]
    assert (found.num_tokens if found else None) == (max(within) if within else None)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=40), st.integers(1, 60))
def test_counts_that_go_up_and_down_stay_within_the_budget(steps: list[int], budget: int) -> None:
    def evaluate(threshold: float) -> Count:
        return Count(steps[round(threshold * (len(steps) - 1))])

    found = largest_within(evaluate, budget, 0.0, 1.0)
    if steps[0] <= budget:
        assert found is not None
        assert found.num_tokens <= budget
    else:
        assert found is None
