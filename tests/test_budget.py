from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sttm import STTM
from sttm.budget import check_keep, read_keep, token_budget, written_keep
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


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.5, -0.1, float("nan"), True, "0.3", None, 0.3j])
def test_other_budgets_are_refused(keep: Any) -> None:
    with pytest.raises(ConfigError, match="keep"):
        token_budget(keep, 10)


@pytest.mark.parametrize("keep", [np.bool_(True), np.int64(0), np.float32(1.5), np.float64("nan")])
def test_other_budgets_of_numpy_are_refused(keep: Any) -> None:
    with pytest.raises(ConfigError, match="keep"):
        STTM(keep=keep)


@pytest.mark.parametrize(
    ("keep", "plain", "budget"),
    [
        (np.int64(5), 5, 5),
        (np.uint8(1), 1, 1),
        (np.float64(0.29), 0.29, 29),
        (np.float32(0.29), 0.29, 29),
        (np.float16(0.29), 0.29, 29),
        (Fraction(29, 100), 0.29, 29),
    ],
)
def test_numbers_of_other_kinds(keep: Any, plain: float | int, budget: int) -> None:
    found = check_keep(keep)
    assert found == plain
    assert type(found) is type(plain)
    assert token_budget(keep, 100) == budget
    assert STTM(keep=keep).keep == keep


@pytest.mark.parametrize(
    ("text", "keep"),
    [("0.3", 0.3), ("30%", 0.3), (" 29 % ", 0.29), ("512", 512), ("2", 2), ("1", 1.0)],
)
def test_written_budgets(text: str, keep: float | int) -> None:
    found = read_keep(text)
    assert found == keep
    assert type(found) is type(keep)
    assert read_keep(written_keep(keep)) == keep


@pytest.mark.parametrize(
    ("keep", "text"), [(0.3, "0.3"), (0.1234567, "0.1234567"), (1234567, "1234567"), (1.0, "1")]
)
def test_budgets_are_written_in_full(keep: float | int, text: str) -> None:
    assert written_keep(keep) == text
