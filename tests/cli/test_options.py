import pytest

import sttm
from sttm.cli.options import Reduction, describe_method, parse_reduction
from sttm.methods import Method


def method_of(keep: str | None = None, thresholds: str | None = None) -> Method | None:
    return parse_reduction(keep, thresholds, model="some/model").method


@pytest.mark.parametrize(
    ("text", "keep"), [("0.3", 0.3), ("30%", 0.3), (" 29 % ", 0.29), ("512", 512), ("2", 2)]
)
def test_budgets(text: str, keep: float | int) -> None:
    method = method_of(keep=text)
    assert method == sttm.STTM(keep=keep)
    assert type(getattr(method, "keep", None)) is type(keep)


@pytest.mark.parametrize("text", ["1", "1.0", "100%"])
def test_all_of_it_is_no_merging(text: str) -> None:
    assert method_of(keep=text) is None


@pytest.mark.parametrize("text", ["", "x", "0", "0%", "-3", "1.5", "101%", "nan", "inf", "0.3/0.2"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(sttm.ConfigError, match="keep"):
        method_of(keep=text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.85/0.65", (0.85, 0.65)),
        (" 0.9 / none ", (0.9, None)),
        ("None/0.6", (None, 0.6)),
        (None, (0.80, 0.60)),
    ],
)
def test_thresholds(text: str | None, wanted: tuple[float | None, float | None]) -> None:
    spatial, temporal = wanted
    assert method_of(thresholds=text) == sttm.STTM(
        spatial_threshold=spatial, temporal_threshold=temporal
    )


@pytest.mark.parametrize("text", ["none", "none/none"])
def test_two_steps_off_is_no_merging(text: str) -> None:
    assert method_of(thresholds=text) is None


@pytest.mark.parametrize("text", ["", "0.8", "0.8/0.6/0.4", "a/b", "2/0.5", "0.8/nan"])
def test_bad_thresholds(text: str) -> None:
    with pytest.raises(sttm.ConfigError, match="threshold"):
        method_of(thresholds=text)


def test_contradictions() -> None:
    with pytest.raises(sttm.ConfigError, match="--keep and --thresholds"):
        parse_reduction("0.3", "0.8/0.6", model=None)
    with pytest.raises(sttm.ConfigError, match="--keep and --full"):
        parse_reduction("0.3", None, model=None, full=True)


def test_full_and_layer() -> None:
    assert parse_reduction(None, None, model=None, layer=3, full=True) == Reduction(None, 3)


def test_nano_has_a_budget_by_default() -> None:
    assert parse_reduction(None, None, model=None).method == sttm.STTM(keep=0.3)


def test_a_missed_budget_is_told() -> None:
    plan = sttm.MergePlan.identity(10)
    assert Reduction(None).unused_budget(plan) == ""
    assert Reduction(sttm.STTM()).unused_budget(plan) == ""
    assert Reduction(sttm.STTM(keep=10)).unused_budget(plan) == ""
    assert "allows 12" not in Reduction(sttm.STTM(keep=12)).unused_budget(plan)
    told = Reduction(sttm.get_method("random", keep=9)).unused_budget(plan)
    assert told.startswith("--keep 9 allows 9 tokens; 10 remain")


def test_descriptions() -> None:
    assert describe_method(None) == "all tokens"
    assert describe_method(method_of()) == "sttm, thresholds 0.80/0.60"
    assert describe_method(method_of(thresholds="0.9/none")) == "sttm, thresholds 0.90/none"
    assert describe_method(method_of(keep="30%")) == "sttm, keep 0.3"
    assert describe_method(sttm.get_method("identity")) == "identity"
