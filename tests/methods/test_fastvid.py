"""FastVID: segments, salient tokens, and anchors that absorb the rest."""

import itertools
import math
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
    """The rule, segment by segment; frames have room enough here."""
    n = case.grid.tokens_per_frame
    groups: dict[int, dict[int, float]] = {}
    starts = slow_starts(case, method)
    bounds = [*starts, case.grid.frames]
    lengths = [b - a for a, b in itertools.pairwise(bounds)]
    budget = token_budget(method.keep, case.grid.num_tokens)
    for each_frame in (budget // case.grid.frames + 1, budget // case.grid.frames):
        dense = int(each_frame * method.density + 1e-9)
        anchor_frames = [math.ceil(length / method.interval) for length in lengths]
        anchors_each = [dense * n // m for n, m in zip(lengths, anchor_frames)]
        theirs = [
            (each_frame - dense) * length + each * m
            for length, each, m in zip(lengths, anchors_each, anchor_frames)
        ]
        if sum(theirs) == budget:
            break
    counts = [a + b for a, b in zip(theirs, proportional(lengths, budget - sum(theirs)))]
    for start, length, count, each in zip(starts, lengths, counts, anchors_each):
        frames = [list(range(f * n, f * n + n)) for f in range(start, start + length)]
        sampled = [length - 1 - i for i in range(0, length, method.interval)]
        salient: list[int] = []
        for tokens, number in zip(frames, even_split(count - each * len(sampled), length)):
            salient += [tokens[i] for i in best([case.tower[t] for t in tokens], number)]
        free = [[t for t in tokens if t not in salient] for tokens in frames]
        anchors: list[int] = []
        for frame in sampled:
            tokens = free[frame]
            assert each <= len(tokens)
            anchors += [tokens[i] for i in peaks(case.x[tokens], method.neighbours, each)]
        anchors.sort()
        joined: dict[int, list[int]] = {a: [] for a in anchors}
        for token in (t for tokens in free for t in tokens if t not in anchors):
            if anchors:
                likeness = [cosine(case.x[token], case.x[a]) for a in anchors]
                joined[anchors[best(likeness, 1)[0]]].append(token)
        groups |= {t: {t: 1.0} for t in salient}
        for anchor, members in joined.items():
            # The weight is spread over the whole group, the anchor included.
            share = (1 - method.anchor_weight) / (len(members) + 1)
            groups[anchor] = {anchor: method.anchor_weight + share} | dict.fromkeys(members, share)
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


def test_a_count_of_the_authors_is_split_as_theirs() -> None:
    """Ten frames of three tokens, one of which is an anchor: 29, since five frames lose one.

    Their five anchors are two on each of two anchor frames.
    """
    grid = VideoGrid(10, 2, 5)
    x = torch.zeros(10, 10, 12)
    x[:5, :, 0], x[5:, :, 1] = 9.0, 9.0  # a cut behind frame 4
    x[5:7, :, 2] = 9.0  # and behind frame 6
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    attention = torch.rand(100, generator=torch.Generator().manual_seed(1))
    video = VideoFeatures(x.flatten(0, 1), grid, tower_attention=attention)
    plan = FastVID(29, segments=1).plan(video)
    assert plan.info["segments"].tolist() == [0, 5, 7]
    counts = (plan.anchor // 10).bincount()
    assert counts.tolist() == [4, 2, 2, 2, 4, 2, 4, 2, 2, 5]


def test_by_hand() -> None:
    """Two frames, one segment: a salient token each, two anchors in the last for all others."""
    x = torch.tensor([[0.0, 5], [1, 0], [1.1, 0], [3, 0], [0, 5], [1, 0.1], [2, 0], [1, 0]])
    attention = torch.tensor([0.7, 0.1, 0.1, 0.1] * 2)
    method = FastVID(4, segments=1, similarity=-1.0, density=0.7, neighbours=2)
    plan = method.plan(VideoFeatures(x, VideoGrid(2, 2, 2), tower_attention=attention))
    # Two tokens a frame, floor(0.7 * 2) = 1 of them an anchor. Of 5, 6 and 7 the densest are 5 and
    # 7, each other's nearest: none is denser than the other.
    assert plan.anchor.tolist() == [0, 4, 5, 7]
    assert plan.group.tolist() == [0, 3, 3, 3, 1, 2, 3, 3]
    assert plan.weight.tolist() == pytest.approx([1, 0.08, 0.08, 0.08, 1, 1, 0.08, 0.68])


def test_what_a_plan_cannot_express_is_several_groups_per_token() -> None:
    """The authors let a token join the most similar anchor of each anchor frame.

    In a segment of up to ``interval`` frames there is one; in a longer one ours joins the most
    similar of those that they choose, and leaves out the others.
    """
    grid = VideoGrid(9, 4, 5)
    case = make_case(grid, still=False)
    plan = FastVID(0.3, segments=1, similarity=-1.0).plan(case.video)
    assert plan.info["segments"].tolist() == [0]
    frame = plan.anchor // grid.tokens_per_frame
    single = plan.sizes == 1
    anchors = {f: plan.anchor[(frame == f) & ~single].tolist() for f in (0, 4, 8)}
    assert all(anchors.values())
    assert not bool((~single & (frame != 0) & (frame != 4) & (frame != 8)).any())
    for token in range(grid.num_tokens):
        own = int(plan.anchor[plan.group[token]])
        if own == token:
            continue
        theirs = [
            max(tokens, key=lambda a: cosine(case.x[token], case.x[a]))
            for tokens in anchors.values()
        ]
        assert own == max(theirs, key=lambda a: cosine(case.x[token], case.x[a]))
