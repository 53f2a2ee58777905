"""FastVID: segments, salient tokens, and anchors that absorb the rest."""

import itertools
from typing import Any

import pytest
import torch

from sttm.budget import token_budget
from sttm.grid import VideoGrid
from sttm.methods import FastVID, VideoFeatures

from .evidence_cases import (
    Case,
    assert_groups,
    best,
    check_promises,
    check_refusals,
    check_ties,
    cosine,
    even_split,
    make_case,
    peaks,
    proportional,
)


def slow_starts(case: Case, method: FastVID) -> list[int]:
    means = case.x.view(case.grid.frames, case.grid.tokens_per_frame, -1).mean(1)
    alike = [cosine(a, b) for a, b in itertools.pairwise(means)]
    ends = set(best([-value for value in alike], min(method.segments - 1, len(alike))))
    ends |= {i for i, value in enumerate(alike) if value < method.similarity}
    return [0, *(i + 1 for i in sorted(ends))]


def slow(case: Case, method: FastVID) -> dict[int, dict[int, float]]:
    """The rule, segment by segment; anchor frames have room enough here."""
    n = case.grid.tokens_per_frame
    groups: dict[int, dict[int, float]] = {}
    starts = slow_starts(case, method)
    bounds = [*starts, case.grid.frames]
    lengths = [b - a for a, b in itertools.pairwise(bounds)]
    budget = token_budget(method.keep, case.grid.num_tokens)
    for start, length, count in zip(starts, lengths, proportional(lengths, budget)):
        dense = int(count * method.density + 1e-9)
        frames = [list(range(f * n, f * n + n)) for f in range(start, start + length)]
        salient: list[int] = []
        for tokens, number in zip(frames, even_split(count - dense, length)):
            salient += [tokens[i] for i in best([case.tower[t] for t in tokens], number)]
        free = [[t for t in tokens if t not in salient] for tokens in frames]
        sampled = free[:: method.interval]
        anchors: list[int] = []
        for tokens, number in zip(sampled, proportional([1] * len(sampled), dense)):
            assert number <= len(tokens)
            anchors += [tokens[i] for i in peaks(case.x[tokens], method.neighbours, number)]
        joined: dict[int, list[int]] = {a: [] for a in anchors}
        for token in (t for tokens in free for t in tokens if t not in anchors):
            if anchors:
                likeness = [cosine(case.x[token], case.x[a]) for a in anchors]
                joined[anchors[best(likeness, 1)[0]]].append(token)
        groups |= {t: {t: 1.0} for t in salient}
        for anchor, members in joined.items():
            own = method.anchor_weight if members else 1.0
            others = {m: (1 - own) / len(members) for m in members}
            groups[anchor] = {anchor: own, **others}
    return groups


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("segments", [1, 3, 8])
def test_promises(density: float, segments: int) -> None:
    check_promises("fastvid", density=density, segments=segments, similarity=0.5)
    check_ties("fastvid", density=density, segments=segments)


def test_refusals() -> None:
    bad: list[dict[str, Any]] = [
        {"segments": 0},
        {"similarity": 2},
        {"density": -0.1},
        {"interval": 0},
        {"anchor_weight": 0.0},
        {"neighbours": True},
    ]
    check_refusals("fastvid", "tower_attention", bad)
    assert not FastVID.query_aware


@pytest.mark.parametrize(
    "method",
    [
        FastVID(0.25),
        FastVID(0.25, segments=2, similarity=0.5),
        FastVID(0.4, segments=1, similarity=-1.0, interval=3, anchor_weight=1.0),
        FastVID(0.15, segments=3, similarity=0.0, density=0.6, interval=2, neighbours=3),
    ],
    ids=str,
)
def test_against_the_slow_twin(method: FastVID) -> None:
    for seed in range(3):
        case = make_case(VideoGrid(11, 4, 5), seed)
        plan = method.plan(case.video)
        assert plan.info["segments"].tolist() == slow_starts(case, method)
        assert_groups(plan, slow(case, method))


def test_by_hand() -> None:
    """Two frames, one segment: a salient token each, one anchor for all others."""
    x = torch.tensor([[0.0, 5], [1, 0], [1.1, 0], [3, 0], [0, 5], [1, 0.1], [2, 0], [1, 0]])
    attention = torch.tensor([0.7, 0.1, 0.1, 0.1] * 2)
    method = FastVID(3, segments=1, similarity=-1.0, density=0.4, neighbours=2)
    plan = method.plan(VideoFeatures(x, VideoGrid(2, 2, 2), tower_attention=attention))
    # floor(0.4 * 3) = 1 anchor, in frame 0. Of 1, 2, 3 the densest is 1 or 2; both see each other
    # at 0.005 and the third at 2 and 1.805: token 2, which is also the farthest from a denser one.
    assert plan.anchor.tolist() == [0, 2, 4]
    assert plan.group.tolist() == [0, 1, 1, 1, 2, 1, 1, 1]
    assert plan.weight.tolist() == pytest.approx([1, 0.08, 0.6, 0.08, 1, 0.08, 0.08, 0.08])
