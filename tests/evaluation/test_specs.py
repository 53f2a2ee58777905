import json
from typing import Any

import numpy as np
import pytest

import sttm
from sttm.evaluation.specs import ALL_TOKENS, make_settings, parse_spec


def test_a_name() -> None:
    spec = parse_spec("sttm")
    assert (spec.label, spec.name, spec.options, spec.swept) == ("sttm", "sttm", (), True)
    assert spec.build(0.3) == sttm.STTM(keep=0.3)


def test_options_and_a_label() -> None:
    spec = parse_spec("mine=sttm:parent=top_left,weighted=true,root_level=-1")
    assert spec.label == "mine"
    assert spec.text == "sttm:parent=top_left,root_level=-1,weighted=true"
    wanted = sttm.STTM(keep=64, parent="top_left", weighted=True, root_level=-1)
    assert spec.build(64) == wanted


def test_a_label_is_made_of_the_options() -> None:
    assert parse_spec("sttm:parent=top_left").label == "sttm parent top_left"


def test_a_budget_of_its_own() -> None:
    settings = make_settings(["a=sttm:keep=none,spatial_threshold=0.8"], [1.0, 0.5, 0.1])
    assert settings[0] == ALL_TOKENS
    assert [(s.label, s.keep) for s in settings[1:]] == [("a", None)]
    assert settings[1].method == sttm.STTM(spatial_threshold=0.8)


def test_methods_times_budgets() -> None:
    settings = make_settings(["sttm", "random"], [0.5, 64])
    assert [str(s) for s in settings] == ["sttm 0.5", "sttm 64", "random 0.5", "random 64"]


def test_a_budget_in_a_spec_is_written_as_an_option() -> None:
    settings = make_settings(["a=sttm:keep=1", "b=sttm:keep=30%", "c=sttm:keep=2"], [0.5])
    assert [s.method for s in settings] == [sttm.STTM(keep=k) for k in (1.0, 0.3, 2)]
    assert parse_spec("sttm:max_tokens=1").build(None) == sttm.STTM(max_tokens=1.0)


def test_one_token_is_not_all_of_them() -> None:
    assert [s.keep for s in make_settings(["random"], [1])] == [1]
    assert make_settings(["random"], [1.0]) == [ALL_TOKENS]


@pytest.mark.parametrize(
    ("methods", "keeps", "told"),
    [
        (["stmt"], [0.5], "Did you mean 'sttm'"),
        (["sttm"], [0.0], "keep"),
        (["sttm"], [1.5], "keep"),
        (["identity"], [0.5], "got option 'keep'"),
        (["sttm:linkin=components"], [0.5], "Did you mean 'linking'"),
        (["sttm:linking"], [0.5], "expected NAME"),
        (["sttm:linking=none,linking=none"], [0.5], "expected NAME"),
        ([""], [0.5], "expected NAME"),
        (["all=sttm"], [0.5], "another word than"),
        (["sttm", "sttm"], [0.5], "twice"),
        (["sttm"], [0.5, 0.5], "keep: got 0.5 twice, expected every budget once"),
        (["sttm:keep=lots"], [0.5], "keep: got 'lots'"),
    ],
)
def test_bad_specs(methods: list[str], keeps: list[float], told: str) -> None:
    with pytest.raises(sttm.ConfigError, match=told):
        make_settings(methods, keeps)


def test_budgets_that_are_nearly_the_same_are_two() -> None:
    settings = make_settings(["sttm"], [0.1234567, 0.1234568])
    assert [s.keep for s in settings] == [0.1234567, 0.1234568]
    assert len({str(s) for s in settings}) == 2


def test_budgets_of_numpy_become_plain() -> None:
    keeps: list[Any] = [np.float32(0.3), np.int64(5)]
    settings = make_settings(["random"], keeps)
    assert json.dumps([s.keep for s in settings]) == "[0.3, 5]"
    with pytest.raises(sttm.ConfigError, match="twice"):
        make_settings(["random"], [*keeps, 0.3])
