"""HoliTom: the segments that merge the most over time, then space."""

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch

from sttm.budget import token_budget
from sttm.grid import VideoGrid
from sttm.methods import HoliTom, VideoFeatures
from sttm.methods.holitom import best_segments

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
    peaks,
)


def gain(alike: torch.Tensor, starts: list[int]) -> int:
    """Tokens that a cut merges away."""
    total = 0
    for start, end in zip(starts, [*starts[1:], len(alike)]):
        still = [p for p in range(alike.shape[1]) if all(alike[start + 1 : end, p])]
        total += (end - start - 1) * len(still)
    return total


def test_the_best_of_all_cuts() -> None:
    g = torch.Generator().manual_seed(0)
    for frames in range(1, 9):
        for density in (0.3, 0.6, 0.9):
            alike = torch.rand(frames, 4, generator=g) < density
            cuts = [
                [0, *inner]
                for size in range(frames)
                for inner in itertools.combinations(range(1, frames), size)
            ]
            found = best_segments(alike)
            assert found[0] == 0
            assert found == sorted(set(found))
            assert gain(alike, found) == max(gain(alike, cut) for cut in cuts)


def slow(case: Case, method: HoliTom, starts: list[int]) -> dict[int, dict[int, float]]:
    """The rule for given segments, set by set."""
    n, frames = case.grid.tokens_per_frame, case.grid.frames
    budget = token_budget(method.keep, case.grid.num_tokens)
    pair = {
        i: cosine(case.x[i], case.x[i - n]) if i >= n else 9.0 for i in range(case.grid.num_tokens)
    }
    still: list[tuple[int, int, list[int]]] = []
    moving = [list(range(f * n, f * n + n)) for f in range(frames)]
    for start, end in zip(starts, [*starts[1:], frames]):
        inner = range(start + 1, end)
        alike = [p for p in range(n) if all(pair[f * n + p] > method.threshold for f in inner)]
        still.append((start, end, alike if len(inner) else []))
        for f in range(start, end):
            moving[f] = [t for t in moving[f] if t - f * n not in still[-1][2]]
    groups: dict[int, list[int]] = {}
    left = sum(len(p) for _, _, p in still) + sum(len(m) for m in moving)
    if left <= budget:
        for start, end, places in still:
            groups |= {start * n + p: [f * n + p for f in range(start, end)] for p in places}
        loose = [m for members in groups.values() for m in members[1:]]
        order = sorted(loose, key=lambda i: (pair[i], i))
        for token in order[: budget - left]:
            groups = {a: [m for m in members if m != token] for a, members in groups.items()}
            groups[token] = [token]
        groups |= {t: [t] for tokens in moving for t in tokens}
        return mean_groups(groups)
    clusters, tokens_each = slow_counts(
        [len(p) for _, _, p in still], list(map(len, moving)), budget
    )
    written: dict[int, dict[int, float]] = {}
    for (start, end, places), count in zip(still, clusters):
        if not count:
            continue
        means = [case.x[[f * n + p for f in range(start, end)]].mean(0) for p in places]
        centres = peaks(torch.stack(means), min(method.neighbours, count), count)
        own = {}
        for at in range(len(places)):
            near = [-float((means[at] - means[c]).double().square().sum()) for c in centres]
            own[at] = at if at in centres else centres[best(near, 1)[0]]
        for centre in centres:
            members = [at for at in own if own[at] == centre]
            weight = method.centre_weight if len(members) > 1 else 1.0
            parts = {at: (1 - weight) / max(1, len(members) - 1) for at in members} | {
                centre: weight
            }
            written[start * n + places[centre]] = {
                f * n + places[at]: part / (end - start)
                for at, part in parts.items()
                for f in range(start, end)
            }
    for tokens, count in zip(moving, tokens_each):
        written |= {
            tokens[i]: {tokens[i]: 1.0} for i in best([case.tower[t] for t in tokens], count)
        }
    return written


def slow_counts(still: list[int], moving: list[int], budget: int) -> tuple[list[int], list[int]]:
    """Raise one ratio from 0 until the sets have grown to the budget, one cluster or token a time.

    A set of still tokens grows where its part passes a half, one of a frame's moving tokens where
    it passes a whole number.
    """
    steps = [(Fraction(2 * k + 1, 2 * n), s) for s, n in enumerate(still) for k in range(n)]
    steps += [(Fraction(k, n), len(still) + f) for f, n in enumerate(moving) for k in range(n)]
    counts = [0] * (len(still) + len(moving))
    for _, which in sorted(steps)[:budget]:
        counts[which] += 1
    return counts[: len(still)], counts[len(still) :]


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 0.8, 1.0])
def test_promises(threshold: float) -> None:
    check_promises("holitom", threshold=threshold)
    check_ties("holitom", threshold=threshold)


def test_refusals() -> None:
    bad: list[dict[str, Any]] = [{"threshold": -1.5}, {"neighbours": 0}]
    check_refusals("holitom", "tower_attention", bad)
    assert not HoliTom.query_aware


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_against_the_slow_twin(keep: float, threshold: float) -> None:
    method = HoliTom(keep, threshold)
    for seed in range(3):
        case = make_case(VideoGrid(8, 3, 3), seed)
        plan = method.plan(case.video)
        starts = plan.info["segments"].tolist()
        assert plan.info["merged_over_time"] > 0
        assert_groups(plan, slow(case, method, starts))


def test_by_hand() -> None:
    """Place 0 stands still for two frames, and again; place 1 never does."""
    a, b, c = [1.0, 0, 0], [0.0, 1, 0], [0.0, 0, 1]
    x = torch.tensor([a, a, a, b, b, c, b, a])
    told = {"tower_attention": torch.tensor([0.6, 0.4, 0.6, 0.4, 0.2, 0.8, 0.9, 0.1])}
    grid = VideoGrid(4, 1, 2)
    plan = HoliTom(6).plan(VideoFeatures(x, grid, **told))
    assert plan.info["segments"].tolist() == [0, 2]
    assert plan.info["merged_over_time"] == 2
    assert plan.group.tolist() == [0, 1, 0, 2, 3, 4, 3, 5]
    # Six sets of one token each: a small ratio gives every frame its moving token, only one above
    # a half gives the still ones a cluster.
    assert HoliTom(3).plan(VideoFeatures(x, grid, **told)).anchor.tolist() == [1, 3, 5]
    plan = HoliTom(5).plan(VideoFeatures(x, grid, **told))
    assert plan.group.tolist() == [0, 1, 0, 2, -1, 3, -1, 4]
    plan = HoliTom(7).plan(
        VideoFeatures(x, grid, **told)
    )  # one merge too many: of equally alike tokens the first
    assert plan.group.tolist() == [0, 1, 2, 3, 4, 5, 4, 6]
