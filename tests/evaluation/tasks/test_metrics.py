"""Accuracies, by hand."""

from collections.abc import Sequence

import pytest

from sttm.errors import ConfigError
from sttm.evaluation.tasks import Item, Scored, get_task


def _item(name: str, video: str, answer: str | None = "A", **groups: str) -> Item:
    return Item("any", name, video, None, "Which?", ("a", "b"), answer, groups)


def _scored(kinds: dict[str, list[bool | None]]) -> list[Scored]:
    return [
        Scored(_item(f"{kind}{i}", f"{kind}{i}", task_type=kind), right)
        for kind, rights in kinds.items()
        for i, right in enumerate(rights)
    ]


def test_micro_and_macro_differ() -> None:
    scored = _scored({"plotQA": [True, True, True, False], "count": [False, False]})
    found = get_task("mlvu").metrics(scored)
    assert list(found) == ["micro", "macro"]
    assert found["micro"].value == pytest.approx(3 / 6)
    assert found["macro"].value == pytest.approx((3 / 4 + 0) / 2)
    assert (found["micro"].n, found["micro"].missing) == (6, 0)
    share = found["macro"].groups["task_type"]["plotQA"]
    assert (share.value, share.n) == (0.75, 4)


def test_what_was_not_answered_is_missing_and_not_wrong() -> None:
    scored = _scored({"plotQA": [True, None], "count": [None]})
    planned = [one.item for one in scored] + [_item("later", "later", task_type="count")]
    micro = get_task("mlvu").metrics(scored, planned)["micro"]
    assert (micro.value, micro.n, micro.missing) == (1.0, 1, 3)
    count = micro.groups["task_type"]["count"]
    assert (count.value, count.n, count.missing) == (None, 0, 2)
    macro = get_task("mlvu").metrics(scored, planned)["macro"]
    assert (macro.value, macro.missing) == (1.0, 3)


def test_nothing_gives_no_value() -> None:
    micro = get_task("mlvu").metrics([])["micro"]
    assert (micro.value, micro.n, micro.missing, micro.groups) == (None, 0, 0, {})


def test_hidden_answers_are_not_missing() -> None:
    scored = [Scored(_item("a", "a"), True), Scored(_item("b", "b", answer=None), None)]
    micro = get_task("egoschema").metrics(scored)["micro"]
    assert (micro.value, micro.n, micro.missing, micro.hidden) == (1.0, 1, 0, 1)


def test_scoring_a_question_twice_is_refused() -> None:
    one = Scored(_item("a", "a"), True)
    with pytest.raises(ConfigError, match="'a' twice"):
        get_task("mlvu").metrics([one, one])


def _tries(sample: str, kind: str, rights: Sequence[bool | None]) -> list[Scored]:
    return [
        Scored(_item(f"{sample}_try{k}", sample, task_type=kind), right)
        for k, right in enumerate(rights)
    ]


def test_vnbench_counts_samples_that_are_right_in_all_tries() -> None:
    right, wrong = [True] * 4, [True, True, True, False]
    scored = [
        *_tries("1_ret_insert1", "ret_insert2", right),
        *_tries("2_ret_insert1", "ret_insert2", wrong),
        *_tries("3_ret_edit", "ret_edit", right),
        *_tries("4_cnt_edit1", "cnt_edit1", wrong),
        *_tries("5_ord_edit", "ord_edit", [True, None, True, True]),
        *_tries("6_ord_edit", "ord_edit", right),
    ]
    found = get_task("vnbench").metrics(scored)
    micro, official = found["micro"], found["all_tries"]
    assert list(found) == ["micro", "all_tries"]
    assert micro.value == pytest.approx(21 / 23)
    assert (micro.n, micro.missing) == (23, 1)
    assert micro.groups["task_type"]["ret_insert2"].n == 8
    assert (official.unit, official.n, official.missing) == ("samples", 5, 1)
    # ret_insert 1/2, ret_edit 1, cnt_edit1 0, ord_edit 1
    assert official.value == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    # The types of the two insertions are swapped back.
    assert official.groups["task_type"]["ret_insert1"].value == 0.5
    assert "ret_insert2" not in official.groups["task_type"]
    families = official.groups["family"]
    assert families["ret"].value == pytest.approx(0.75)
    assert (families["cnt"].value, families["ord"].value) == (0.0, 1.0)


def test_a_sample_of_fewer_tries_is_missing() -> None:
    official = get_task("vnbench").metrics(_tries("1", "ret_edit", [True, True]))["all_tries"]
    assert (official.value, official.n, official.missing) == (None, 0, 1)


def test_nextqa_folds_types_in_its_official_metric_only() -> None:
    scored = _scored(
        {"CW": [True], "CH": [False], "TP": [True], "TN": [False, False], "DO": [True]}
    )
    found = get_task("nextqa").metrics(scored)
    assert found["micro"].value == found["official"].value == pytest.approx(3 / 6)
    assert found["micro"].groups["task_type"]["TP"].value == 1.0
    types = found["official"].groups["task_type"]
    assert "TP" not in types
    assert types["TN"].value == pytest.approx(1 / 3)
    families = found["official"].groups["family"]
    assert {name: share.n for name, share in families.items()} == {
        "Acc_C": 2,
        "Acc_T": 3,
        "Acc_D": 1,
    }
    assert families["Acc_C"].value == 0.5
