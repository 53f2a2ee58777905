"""Old public names still work, and say the new ones."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

import sttm.chat
import sttm.models
from sttm import STTM, VideoGrid, get_method
from sttm.chat import Answer
from sttm.chat.identity import method_key


def test_old_names_give_the_same_objects_and_warn() -> None:
    with pytest.deprecated_call(match="PrefilledVideo"):
        assert sttm.chat.WatchedVideo is sttm.chat.PrefilledVideo
    with pytest.deprecated_call(match="VideoLayout"):
        assert sttm.models.EncodedVideo is sttm.models.VideoLayout
    answer = Answer("Yes.", (1,), prompt_tokens=7, ttft=0.1, seconds=0.2)
    with pytest.deprecated_call(match="prompt_tokens"):
        assert answer.tokens == 7
    with pytest.raises(AttributeError, match="no attribute 'Wanted'"):
        _ = sttm.chat.Wanted


def test_the_old_name_of_the_budgets_scope_is_no_part_of_a_method() -> None:
    with pytest.warns(DeprecationWarning, match="budget_scope") as caught:
        old = STTM(keep=0.3, share="joint")
    # A warning that named the library's own file would not be shown.
    assert caught[0].filename == __file__
    assert old == STTM(keep=0.3, budget_scope="joint")
    assert "share" not in f"{old} {method_key(old)} {asdict(old)}"
    assert replace(old, keep=0.5) == STTM(keep=0.5, budget_scope="joint")
    with pytest.warns(DeprecationWarning, match="budget_scope"):
        assert get_method("sttm", keep=0.3, share="joint") == old


def test_plans_from_features_and_grid_alone() -> None:
    method: Any = STTM(keep=2)
    with pytest.deprecated_call(match="VideoFeatures"):
        plan = method.plan(torch.ones(4, 3), VideoGrid(1, 2, 2))
    assert plan.num_out == 2
