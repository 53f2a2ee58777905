"""VisionZip: dominant tokens stay, the others merge into evenly spaced contextual ones."""

from typing import Any

import pytest
import torch

from sttm.budget import token_budget
from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures, VisionZip

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
)


def slow(case: Case, keep: float, contextual: float) -> dict[int, dict[int, float]]:
    """The rule, frame by frame; a target counts as much as the mean of what joins it."""
    n = case.grid.tokens_per_frame
    groups: dict[int, dict[int, float]] = {}
    split = even_split(token_budget(keep, case.grid.num_tokens), case.grid.frames)
    for frame, count in enumerate(split):
        tokens = list(range(frame * n, frame * n + n))
        contexts = max(1, int(count * contextual + 1e-9)) if count > 1 else 0
        dominant = [tokens[i] for i in best([case.tower[t] for t in tokens], count - contexts)]
        groups |= {t: {t: 1.0} for t in dominant}
        rest = [t for t in tokens if t not in dominant]
        if not contexts:
            continue
        step = max(1, len(rest) // contexts)
        targets = [rest[i * step] for i in range(contexts)]
        joined: dict[int, list[int]] = {t: [] for t in targets}
        for token in rest:
            if token not in targets:
                likeness = [cosine(case.x[token], case.x[t]) for t in targets]
                joined[targets[best(likeness, 1)[0]]].append(token)
        for target, others in joined.items():
            groups[target] = {t: 0.5 / len(others) for t in others}
            groups[target][target] = 0.5 if others else 1.0
    return groups


@pytest.mark.parametrize("contextual", [0.0, 10 / 64, 0.5, 1.0])
def test_promises(contextual: float) -> None:
    check_promises("visionzip", contextual=contextual)
    check_ties("visionzip", contextual=contextual)


def test_refusals() -> None:
    bad: list[dict[str, Any]] = [{"contextual": 1.1}, {"contextual": -0.1}, {"contextual": None}]
    check_refusals("visionzip", "tower_attention", bad)
    assert not VisionZip.query_aware


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.75])
@pytest.mark.parametrize("contextual", [10 / 64, 0.3])
def test_against_the_slow_twin(keep: float, contextual: float) -> None:
    for seed in range(3):
        case = make_case(VideoGrid(3, 5, 7), seed)
        plan = VisionZip(keep, contextual).plan(case.video)
        assert_groups(plan, slow(case, keep, contextual))


@pytest.mark.parametrize(("count", "contexts"), [(63, 9), (64, 10), (128, 20), (191, 29)])
def test_the_published_splits(count: int, contexts: int) -> None:
    case = make_case(VideoGrid(1, 24, 24), channels=3, still=False)
    plan = VisionZip(count).plan(case.video)
    dominant = set(best(case.tower, count - contexts))
    assert dominant <= set(plan.anchor.tolist())
    assert int((plan.sizes > 1).sum()) == contexts
    assert int(plan.sizes.sum()) == 576  # nothing is dropped


def test_by_hand() -> None:
    attention = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    x = torch.tensor([[9.0, 9], [1, 0], [1, 0.1], [1, 0.2], [0.1, 1], [0, 1]])
    told = {"tower_attention": attention}
    plan = VisionZip(3, contextual=0.7).plan(VideoFeatures(x, VideoGrid(1, 2, 3), **told))
    # One dominant token; of the five others every second is a target, up to two: tokens 1 and 3.
    # 2 is most like 1 or 3 (both lie 0.1 off): 1 at cosine 0.99504, 3 at 0.99526.
    assert plan.anchor.tolist() == [0, 1, 3]
    assert plan.group.tolist() == [0, 1, 2, 2, 2, 2]
    assert plan.weight.tolist() == pytest.approx([1, 1, 1 / 6, 1 / 2, 1 / 6, 1 / 6])
