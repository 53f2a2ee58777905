"""Exact budgets against their literal twin, and what they promise, over random videos."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops.budget_search import counted, cut_to, cuts_at
from sttm.ops.links import Links, Parent, find_links, parent_links
from sttm.ops.merge import to_plan
from sttm.ops.merge_order import MergeOrder, cosine_order
from sttm.ops.naive import Settings
from sttm.ops.naive_budget import within
from sttm.ops.pyramid import level_sizes, used_sizes
from sttm.ops.quadtree import Pooling, Quadtree, grow
from sttm.plan import MergePlan
from tests.ops.criteria import distortion_order, random_order
from tests.ops.merge_cases import make_video, videos

GAP = 0.2
CRITERIA: dict[str, Callable[[Sequence[Quadtree]], MergeOrder]] = {
    "cosine": lambda trees: cosine_order(trees, GAP),
    "cosine, no gap": lambda trees: cosine_order(trees, 0.0),
    "cosine, space only": lambda trees: cosine_order(trees, None),
    "distortion": distortion_order,
    "random": random_order,
}
# Rounding decides the order of numbers that are closer than this.
CLOSE = 2e-6
Video = tuple[torch.Tensor, VideoGrid]


@pytest.mark.parametrize("parent", ["most_similar", "top_left"])
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    video=videos(),
    share=st.floats(0.01, 1.0),
    root_level=st.integers(-1, 3),
    spatial=st.booleans(),
    temporal=st.booleans(),
    weighted=st.booleans(),
)
def test_a_budget_is_met_as_the_twin_meets_it(
    parent: Parent,
    video: Video,
    share: float,
    root_level: int,
    spatial: bool,
    temporal: bool,
    weighted: bool,
) -> None:
    x, grid = video
    budget = max(1, round(share * grid.num_tokens))
    twin = Settings(0.8 if spatial else None, 0.6, root_level, "directed", parent, weighted)
    shape = (grid.frames, grid.height, grid.width)
    reached = within([(x, shape)], twin, budget, GAP if temporal else None)
    # With one channel all cosines are 1 or -1, up to rounding.
    assume(reached is not None and reached.close > CLOSE and x.shape[1] > 1)
    assert reached is not None
    method = STTM(
        keep=budget,
        spatial_threshold="auto" if spatial else None,
        temporal_threshold="auto" if temporal else None,
        root_level=root_level,
        parent=parent,
        weighted=weighted,
    )
    plan = method.plan(VideoFeatures(x, grid)).check()
    assert plan.num_out == budget
    assert plan.group.tolist() == reached.groups[0]


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(videos(), min_size=2, max_size=3), st.floats(0.05, 1.0))
def test_a_joint_budget_is_met_as_the_twin_meets_it(some: list[Video], share: float) -> None:
    total = sum(grid.num_tokens for _, grid in some)
    budget = max(len(some), round(share * total))
    parts = [(x, (grid.frames, grid.height, grid.width)) for x, grid in some]
    reached = within(parts, Settings(), budget, GAP)
    assume(reached is not None and reached.close > CLOSE)
    assume(all(x.shape[1] > 1 for x, _ in some))
    assert reached is not None
    plans = STTM(keep=budget, budget_scope="joint").plan_batch(
        [VideoFeatures(*each) for each in some]
    )
    assert sum(plan.check().num_out for plan in plans) == budget
    assert [plan.group.tolist() for plan in plans] == reached.groups


@settings(deadline=None, max_examples=60)
@given(video=videos(), share=st.floats(0.0, 1.0))
def test_every_count_is_exact(video: Video, share: float) -> None:
    x, grid = video
    budget = max(1, round(share * grid.num_tokens))
    plan = STTM(keep=budget).plan(VideoFeatures(x, grid)).check()
    assert plan.num_out == budget
    again = STTM(keep=budget).plan(VideoFeatures(x, grid))
    assert torch.equal(plan.group, again.group)


@pytest.mark.parametrize("kind", ["noise", "smooth", "signs", "static", "zeros"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 7), (3, 1, 4), (3, 3, 5), (2, 4, 6)])
def test_every_count_from_one_to_all(kind: str, shape: tuple[int, int, int]) -> None:
    grid = VideoGrid(*shape)
    x = make_video(kind, grid, 5, 3)
    counts = [
        STTM(keep=n).plan(VideoFeatures(x, grid)).check().num_out
        for n in range(1, grid.num_tokens + 1)
    ]
    assert counts == list(range(1, grid.num_tokens + 1))


def similarity_of(links: Links) -> dict[tuple[int, int], float]:
    ends = zip(links.earlier.tolist(), links.later.tolist(), strict=True)
    return dict(zip(ends, links.similarity.tolist(), strict=True))


@settings(deadline=None, max_examples=50)
@given(video=videos(), share=st.floats(0.02, 1.0))
def test_nothing_less_similar_is_merged_while_something_similar_is_left(
    video: Video, share: float
) -> None:
    x, grid = video
    budget = max(1, round(share * grid.num_tokens))
    tree = grow(x, grid.frames, tuple(used_sizes(grid.height, grid.width, 1)), Pooling())
    (merge,) = cut_to([tree], cosine_order([tree], GAP), budget)
    assume(bool(merge.reached))
    assert merge.num_tokens == budget
    cells, used = merge.cut, merge.links.selected()
    frames = (end // grid.tokens_per_frame for end in (used.earlier, used.later))
    between = torch.ne(*frames).tolist()
    if not all(between):
        # A cell was opened because even the cells are fewer than the budget: no links at all.
        assert not any(between)
        return
    candidates = similarity_of(parent_links(find_links(tree, cells), tree.num_tokens).selected())
    merged = similarity_of(used)
    left = [value for pair, value in candidates.items() if pair not in merged]
    assert not merged or not left or min(merged.values()) >= max(left)
    # Every cell that is still open is less uniform than every cell that is merged.
    spatial = float(merge.spatial or 0.0)
    if not math.isnan(spatial):
        for level, scores in enumerate(torch.split(tree.scores, tree.coarse_sizes, dim=1), start=1):
            emitted = set(cells.anchor[cells.level == level].tolist())
            assert all(
                score >= spatial - 1e-6 or tree.sizes[level - 1][0] % 2
                for score, token in zip(
                    scores.flatten().tolist(), first_tokens(tree.sizes, level, grid), strict=True
                )
                if token in emitted
            )


def first_tokens(sizes: Sequence[tuple[int, int]], level: int, grid: VideoGrid) -> list[int]:
    """Return the first token of every cell of a level, counted by hand."""
    spans = []
    for side in (0, 1):
        starts = list(range(sizes[0][side]))
        for finer in sizes[:level]:
            odd = finer[side] % 2
            starts = [start for i, start in enumerate(starts) if i == 0 or (i - odd) % 2 == 0]
        spans.append(starts)
    return [
        (t * grid.height + y) * grid.width + x
        for t in range(grid.frames)
        for y in spans[0]
        for x in spans[1]
    ]


def test_dissimilar_tokens_are_not_forced_together() -> None:
    """A needle of one frame survives any budget that the rest can pay for."""
    grid = VideoGrid(8, 8, 8)
    generator = torch.Generator().manual_seed(0)
    wall = torch.randn(32, generator=generator)
    x = wall + 0.2 * torch.randn(grid.num_tokens, 32, generator=generator)
    needle = 5 * 64 + 27
    x[needle] = torch.randn(32, generator=generator)
    for budget in (5, 10, 51, 154, 256):
        plan = STTM(keep=budget).plan(VideoFeatures(x, grid))
        assert plan.num_out == budget
        assert int(plan.sizes[plan.group[needle]]) == 1, budget


def test_a_busy_video_gets_more_of_a_joint_budget() -> None:
    grid = VideoGrid(4, 8, 8)
    busy, still = make_video("noise", grid, 16, 0), make_video("static", grid, 16, 1)
    calm = still.clone()
    each = STTM(keep=0.25).plan_batch([VideoFeatures(busy, grid)])[0].num_out
    method = STTM(keep=0.25, budget_scope="joint")
    first, second = method.plan_batch([VideoFeatures(busy, grid), VideoFeatures(calm, grid)])
    assert first.num_out + second.num_out == 2 * each
    assert first.num_out > second.num_out
    # One video alone is the same under both.
    alone = method.plan(VideoFeatures(busy, grid))
    assert torch.equal(alone.group, STTM(keep=0.25).plan(VideoFeatures(busy, grid)).group)


@pytest.mark.parametrize("max_tokens", [1.0, 0.5, 40, 16])
def test_a_cap_leaves_thresholds_alone_below_it(max_tokens: float | int) -> None:
    grid = VideoGrid(4, 8, 8)
    x = make_video("smooth", grid, 6, 2)
    free = STTM(spatial_threshold=0.9, temporal_threshold=0.8).plan(VideoFeatures(x, grid))
    capped: MergePlan = STTM(
        spatial_threshold=0.9, temporal_threshold=0.8, max_tokens=max_tokens
    ).plan(VideoFeatures(x, grid))
    cap = max_tokens if isinstance(max_tokens, int) else int(max_tokens * grid.num_tokens)
    assert capped.num_out == min(free.num_out, cap)
    if free.num_out <= cap:
        assert torch.equal(free.group, capped.group)
    else:
        assert capped.info["tokens_after_spatial"] <= free.info["tokens_after_spatial"]


def counts_by_merging(trees: list[Quadtree], order: MergeOrder) -> list[int]:
    """Count the tokens at every rank by merging up to it."""
    found = []
    for rank in range(order.last + 1):
        left = 0
        for tree, cells in zip(trees, cuts_at(trees, order, rank), strict=True):
            left += cells.num_cells
            if order.link_floor is not None:
                links = find_links(tree, cells, order.similarity).at_least(order.link_floor[rank])
                left -= int(parent_links(links, tree.num_tokens).exists.sum())
        found.append(left)
    return found


@pytest.mark.parametrize("criterion", CRITERIA, ids=CRITERIA)
@settings(deadline=None, max_examples=25)
@given(some=st.lists(videos(), min_size=1, max_size=2), root_level=st.integers(-1, 2))
def test_the_counts_of_all_ranks_are_those_of_each(
    criterion: str, some: list[Video], root_level: int
) -> None:
    trees = [
        grow(x, grid.frames, tuple(used_sizes(grid.height, grid.width, root_level)), Pooling(True))
        for x, grid in some
    ]
    order = CRITERIA[criterion](trees)
    assert counted(trees, order)[2].tolist() == counts_by_merging(trees, order)


def test_the_first_rank_is_taken_where_counts_rise_again() -> None:
    """Found by trying: a bisection over the ranks goes past the first one for some budgets."""
    grid = VideoGrid(6, 5, 7)
    x = make_video("smooth", grid, 16, 22)
    trees = [grow(x, 6, tuple(used_sizes(5, 7, 1)), Pooling())]
    order = cosine_order(trees, GAP)
    counts = counts_by_merging(trees, order)
    assert any(a < b for a, b in itertools.pairwise(counts))
    for budget in range(min(counts), grid.num_tokens):
        rank = next(rank for rank, count in enumerate(counts) if count <= budget)
        # Cells that are fewer than the budget: the last one is opened again.
        rank -= cuts_at(trees, order, rank)[0].num_cells < budget
        spatial = torch.as_tensor(cut_to(trees, order, budget)[0].spatial)
        expected = order.score[rank - 1] if rank else torch.tensor(torch.nan)
        torch.testing.assert_close(spatial, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("criterion", CRITERIA, ids=CRITERIA)
@pytest.mark.parametrize("kind", ["noise", "signs", "static"])
@pytest.mark.parametrize("grids", [[VideoGrid(3, 4, 6)], [VideoGrid(3, 3, 5), VideoGrid(2, 4, 3)]])
def test_every_criterion_meets_every_count(
    grids: list[VideoGrid], kind: str, criterion: str
) -> None:
    trees = [
        grow(
            make_video(kind, grid, 5, 3),
            grid.frames,
            tuple(level_sizes(grid.height, grid.width, to_single=True)),
            Pooling(weighted=True),
        )
        for grid in grids
    ]
    order = CRITERIA[criterion](trees)
    least = len(grids) if order.link_floor is not None else sum(grid.frames for grid in grids)
    assert least == 1 or not cut_to(trees, order, least - 1)[0].reached
    for budget in range(least, sum(grid.num_tokens for grid in grids) + 1):
        merges = cut_to(trees, order, budget)
        assert all(merge.reached for merge in merges)
        plans = [to_plan(tree, merge).check() for tree, merge in zip(trees, merges, strict=True)]
        assert sum(plan.num_out for plan in plans) == budget


def test_a_criterion_decides_what_merges() -> None:
    """The least error counts long differences; cosines do not see them."""
    x = torch.tensor([[1.0, 0], [9, 0], [1, 0.4], [1, 0]])[[0, 1, 2, 3, 0, 1, 2, 3]]
    trees = [grow(x, 1, tuple(level_sizes(2, 4, to_single=True)), Pooling(weighted=True))]
    merged = {}
    for name in ("cosine", "distortion"):
        merges = cut_to(trees, CRITERIA[name](trees), 5)
        assert merges[0].reached
        merged[name] = to_plan(trees[0], merges[0]).group.tolist()
    assert merged == {"cosine": [0, 0, 1, 2, 0, 0, 3, 4], "distortion": [0, 1, 2, 2, 3, 4, 2, 2]}
