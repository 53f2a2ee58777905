from typing import Any

import pytest

from sttm.budget import token_budget
from sttm.errors import ConfigError


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
