"""FastV: the most attended tokens stay."""

import torch

from sttm.budget import token_budget
from sttm.grid import VideoGrid
from sttm.methods import FastV, VideoFeatures, get_method

from .evidence_cases import (
    assert_groups,
    best,
    check_promises,
    check_refusals,
    check_ties,
    make_case,
    mean_groups,
)


def test_promises() -> None:
    check_promises("fastv")
    check_ties("fastv")
    check_refusals("fastv", "prompt_attention", [])
    assert get_method("fastv", keep=0.5) == FastV(0.5)
    assert FastV.query_aware


def test_by_hand() -> None:
    attention = torch.tensor([0.1, 0.4, 0.0, 0.2, 0.4, 0.1])
    plan = FastV(3).plan(
        VideoFeatures(torch.zeros(6, 2), VideoGrid(2, 1, 3), prompt_attention=attention)
    )
    assert plan.anchor.tolist() == [1, 3, 4]
    assert plan.group.tolist() == [-1, 0, -1, 1, 2, -1]


def test_against_the_slow_twin() -> None:
    for seed in range(5):
        case = make_case(VideoGrid(6, 3, 3), seed)
        for keep in (0.2, 0.7):
            kept = best(case.prompt, token_budget(keep, 54))
            plan = FastV(keep).plan(case.video)
            assert_groups(plan, mean_groups({i: [i] for i in kept}))
