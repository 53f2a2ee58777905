"""FrameFusion: what repeats the frame before merges, then the least attended is dropped."""

from typing import Any

import pytest
import torch

from sttm.budget import token_budget
from sttm.grid import VideoGrid
from sttm.methods import FrameFusion, VideoFeatures

from .evidence_cases import (
    Case,
    assert_groups,
    best,
    check_promises,
    check_refusals,
    check_ties,
    cosine,
    make_case,
)


def slow(case: Case, keep: float, threshold: float, least: float) -> dict[int, dict[int, float]]:
    """The rounds of merging, then pruning, token by token."""
    per_frame, total = case.grid.tokens_per_frame, case.grid.num_tokens
    budget = token_budget(keep, total)
    groups = {i: {i: 1.0} for i in range(total)}  # by first token: weights of its members
    while len(groups) > budget:
        feature = {
            a: sum((w * case.x[i].double() for i, w in g.items()), torch.zeros(6).double())
            for a, g in groups.items()
        }
        before: dict[int, int] = {}  # the one that stands at the same place, next earlier in time
        for a in groups:
            earlier = [b for b in groups if b < a and b % per_frame == a % per_frame]
            if earlier:
                before[a] = max(earlier)
        pairs = {a: cosine(feature[a], feature[b]) for a, b in before.items()}
        similar = sorted((a for a in pairs if pairs[a] >= threshold), key=lambda a: (-pairs[a], a))
        joins = similar[: len(groups) - budget]
        head = {a: a for a in groups}
        for a in sorted(joins):
            head[a] = head[before[a]]
        merged: dict[int, dict[int, float]] = {}
        for h in sorted(set(head.values())):
            chain = [a for a in groups if head[a] == h]
            merged[h] = {i: w / len(chain) for a in chain for i, w in groups[a].items()}
        share, groups = len(joins) / len(groups), merged
        if share < least or not joins:
            break
    kept = best([case.prompt[a] for a in groups], budget)
    return {a: g for n, (a, g) in enumerate(groups.items()) if n in kept}


@pytest.mark.parametrize("threshold", [0.6, 0.9, -1.0])
def test_promises(threshold: float) -> None:
    check_promises("framefusion", threshold=threshold)
    check_ties("framefusion", threshold=threshold)


def test_refusals() -> None:
    bad: list[dict[str, Any]] = [{"threshold": 1.5}, {"threshold": "high"}, {"threshold": True}]
    check_refusals("framefusion", "prompt_attention", bad)
    assert FrameFusion.query_aware


@pytest.mark.parametrize("keep", [0.15, 0.4, 0.8])
@pytest.mark.parametrize("threshold", [0.6, 0.95])
@pytest.mark.parametrize("least", [0.0, 0.1, 1.0])
def test_against_the_slow_twin(keep: float, threshold: float, least: float) -> None:
    for seed in range(4):
        case = make_case(VideoGrid(7, 2, 3), seed)
        plan = FrameFusion(keep, threshold, least).plan(case.video)
        assert_groups(plan, slow(case, keep, threshold, least))


def test_by_hand() -> None:
    """Three frames of two places: place 0 stands still, place 1 turns by 90 degrees."""
    x = torch.tensor([[1.0, 0], [1, 0], [1, 0.1], [0, 1], [1, 0], [0, 1]])
    told = {"prompt_attention": torch.tensor([0.1, 0.0, 0.2, 0.3, 0.3, 0.5])}
    grid = VideoGrid(3, 1, 2)
    plan = FrameFusion(3).plan(VideoFeatures(x, grid, **told))
    assert plan.group.tolist() == [0, 1, 0, 2, 0, 2]
    assert plan.info == {"merged": 3, "pruned": 0}
    plan = FrameFusion(2).plan(
        VideoFeatures(x, grid, **told)
    )  # place 1 of frame 0 is not attended to
    assert plan.group.tolist() == [0, -1, 0, 1, 0, 1]
    assert plan.info == {"merged": 3, "pruned": 1}
    plan = FrameFusion(5).plan(
        VideoFeatures(x, grid, **told)
    )  # one merge is enough: the most similar pair
    assert plan.group.tolist() == [0, 1, 2, 3, 4, 3]


def test_a_round_that_merges_just_enough_is_followed_by_another() -> None:
    """One of ten tokens merges, the share at which merging goes on; then one of nine."""
    x = torch.eye(10)
    # At place 0 frame 1 resembles frame 0; frame 2 resembles neither before, but their mean.
    for frame, degrees in enumerate((0, 40, -30)):
        angle = torch.tensor(degrees).deg2rad()
        x[2 * frame, :2] = torch.stack([angle.cos(), angle.sin()])
        x[2 * frame, 2:] = 0
    told = {"prompt_attention": torch.linspace(1.0, 0.1, 10)}
    plan = FrameFusion(8).plan(VideoFeatures(x, VideoGrid(5, 1, 2), **told))
    assert plan.info == {"merged": 2, "pruned": 0}
    assert plan.group.tolist() == [0, 1, 0, 2, 0, 3, 4, 5, 6, 7]
