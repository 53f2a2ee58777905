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
    mean_groups,
)


def slow(case: Case, keep: float, threshold: float) -> dict[int, dict[int, float]]:
    """The rule, token by token."""
    per_frame, total = case.grid.tokens_per_frame, case.grid.num_tokens
    budget = token_budget(keep, total)
    pairs = {i: cosine(case.x[i], case.x[i - per_frame]) for i in range(per_frame, total)}
    similar = [i for i in pairs if pairs[i] >= threshold]
    joins = sorted(similar, key=lambda i: (-pairs[i], i))[: total - budget]
    chain = list(range(total))
    for i in sorted(joins):
        chain[i] = chain[i - per_frame]
    groups = {a: [i for i in range(total) if chain[i] == a] for a in sorted(set(chain))}
    importance = [sum(case.prompt[i] for i in g) / len(g) for g in groups.values()]
    kept = best(importance, budget)
    return mean_groups({a: g for n, (a, g) in enumerate(groups.items()) if n in kept})


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
def test_against_the_slow_twin(keep: float, threshold: float) -> None:
    for seed in range(4):
        case = make_case(VideoGrid(7, 2, 3), seed)
        plan = FrameFusion(keep, threshold).plan(case.video)
        assert_groups(plan, slow(case, keep, threshold))


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
