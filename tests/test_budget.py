from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    "text",
    [
        *("1e400", "1e999999999", "-1e999999999", "1e99999999999999999999", "1e999999999%"),
        *("1e-999999999", "1e-400", "1e-99999999999999999999", "9" * 5000, str(2**63)),
        *("nan", "inf", "-inf", "snan", "-0", "-0.0", "0", "0%", "-1", "-30%"),
        *("1.00000000000000000000000001", "100.00000000000000000000000001%", "101%", "2.5"),
        *("", "%", "30%%", "1_000", "\u0663\u0660%", "\uff10.3", "0x10", "\udcff", "1,5", "3 0"),
    ],
)
def test_what_is_no_budget_is_told_at_once_and_shortly(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--keep: got .*, expected a share") as caught:
        read_keep(text, "--keep")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        *(("30 %", 0.3), (" 30\t% ", 0.3), ("1e-3", 0.001), ("3e1%", 0.3), ("+.5", 0.5)),
        *(("5e2", 500), ("2.0", 2), (str(2**63 - 1), 2**63 - 1), ("1e18", 10**18)),
    ],
)
def test_ways_to_write_a_budget(text: str, keep: float | int) -> None:
    assert read_keep(text) == keep
    assert type(read_keep(text)) is type(keep)
    if keep != 1:
        assert read_keep(written_keep(keep)) == keep


@given(st.text("0123456789.eE+-% ", max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_budget_or_an_error(text: str) -> None:
    try:
        keep = read_keep(text)
    except ConfigError:
        return
    assert check_keep(keep) == keep
    assert 1 <= token_budget(keep, 100) <= 100


@pytest.mark.parametrize(
    "keep",
    [10**400, 2**63, -(10**400), Fraction(10**400, 3), Fraction(10**6000, 7), 10**9999],
    ids=range(6),
)
def test_huge_numbers_are_refused_shortly(keep: Any) -> None:
    with pytest.raises(ConfigError, match="keep: got ") as caught:
        check_keep(keep)
    assert len(str(caught.value)) < 320
