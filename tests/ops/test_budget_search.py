"""Exact budgets against their literal twin, and what they promise, over random videos."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.methods.sttm import Parent
from sttm.ops.budget_search import cut_to, cuts_at, links_at
from sttm.ops.links import Links, Similarity, find_links, pair_cosines, parent_links
from sttm.ops.merge import Linking
from sttm.ops.merge_order import MergeOrder, cosine_order, rank_cells
from sttm.ops.naive import Settings
from sttm.ops.naive_budget import within
from sttm.ops.pyramid import used_sizes
from sttm.ops.quadtree import Pooling, Quadtree, grow
from sttm.ops.token_counts import token_counts
from sttm.plan import MergePlan
from tests.ops.merge_cases import make_video, videos

GAP = 0.2
LINKINGS: tuple[tuple[Linking, Parent], ...] = (
    ("directed", "most_similar"),
    ("directed", "top_left"),
)
# Rounding decides the order of numbers that are closer than this.
CLOSE = 2e-6
Video = tuple[torch.Tensor, VideoGrid]


@pytest.mark.parametrize(("linking", "parent"), LINKINGS)
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
    linking: Linking,
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
    twin = Settings(0.8 if spatial else None, 0.6, root_level, linking, parent, weighted)
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
        linking=linking,
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
    tree = grow(x, grid.frames, used_sizes(grid.height, grid.width, 1), Pooling())
    merges = cut_to([tree], cosine_order([tree], GAP), budget)
    assume(merges is not None)
    assert merges is not None
    (merge,) = merges
    assert merge.num_tokens == budget
    cells, used = merge.cut, merge.links
    frame = cells.anchor // grid.tokens_per_frame
    between = (frame[used.earlier] != frame[used.later]).tolist()
    if not all(between):
        # A cell was opened because even the cells are fewer than the budget: no links at all.
        assert not any(between)
        return
    candidates = similarity_of(parent_links(find_links(tree, cells), cells.num_cells))
    merged = similarity_of(used)
    left = [value for pair, value in candidates.items() if pair not in merged]
    assert not merged or not left or min(merged.values()) >= max(left)
    # Every cell that is still open is less uniform than every cell that is merged.
    if merge.spatial is not None:
        levels = cells.level[cells.anchor]
        for level in range(1, tree.num_levels):
            scores = tree.scores[level].flatten()
            emitted = set(cells.anchor[levels == level].tolist())
            assert all(
                score >= merge.spatial - 1e-6 or tree.sizes[level - 1][0] % 2
                for score, token in zip(
                    scores.tolist(), first_tokens(tree.sizes, level, grid), strict=True
                )
                if token in emitted
            )


def first_tokens(sizes: list[tuple[int, int]], level: int, grid: VideoGrid) -> list[int]:
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


@settings(deadline=None, max_examples=40)
@given(
    some=st.lists(videos(), min_size=1, max_size=2),
    gap=st.sampled_from([None, 0.0, 0.2, 0.7]),
    root_level=st.integers(-1, 2),
)
def test_the_counts_of_all_points_are_those_of_each(
    some: list[Video], gap: float | None, root_level: int
) -> None:
    trees = [
        grow(x, grid.frames, used_sizes(grid.height, grid.width, root_level), Pooling())
        for x, grid in some
    ]
    order = cosine_order(trees, gap)
    assert token_counts(trees, order).tolist() == [walked(trees, order, r) for r in ranks(order)]


def ranks(order: MergeOrder) -> range:
    return range(order.last + 1)


def walked(trees: list[Quadtree], order: MergeOrder, rank: int) -> int:
    """Count the tokens of one rank by making its cells and links."""
    cuts = cuts_at(trees, order, rank)
    links = links_at(trees, order, cuts, rank)
    return sum(cut.num_cells - len(some) for cut, some in zip(cuts, links, strict=True))


def test_the_first_rank_is_taken_where_counts_rise_again() -> None:
    """Found by trying: a bisection over the ranks goes past the first one for some budgets."""
    grid = VideoGrid(6, 5, 7)
    trees = [grow(make_video("smooth", grid, 16, 22), 6, used_sizes(5, 7, 1), Pooling())]
    order = cosine_order(trees, GAP)
    counts = token_counts(trees, order).tolist()
    assert any(a < b for a, b in itertools.pairwise(counts))
    for budget in range(min(counts), grid.num_tokens):
        first = next(rank for rank, count in enumerate(counts) if count <= budget)
        # Cells that are fewer than the budget: the last one is opened again.
        opened = cuts_at(trees, order, first)[0].num_cells < budget
        found = cut_to(trees, order, budget)
        assert found is not None
        merged = first - opened
        assert found[0].spatial == (float(order.score[merged - 1]) if merged else None)


def random_order(trees: list[Quadtree], gap: float | None) -> MergeOrder:
    """A criterion of another kind: cells and links in an order of their own, on another scale."""
    generator = torch.Generator().manual_seed(0)
    own = [
        [torch.rand(level.shape, generator=generator) for level in tree.scores[1:]]
        for tree in trees
    ]
    # A cell merges after those inside it.
    for levels, tree in zip(own, trees, strict=True):
        for number, level in enumerate(levels):
            level -= number
        assert len(levels) == tree.num_levels - 1
    cell_rank, score = rank_cells(trees, own)
    floor = None if gap is None else torch.linspace(50.0, -50.0, score.shape[0] + 1)

    def distance(tree: Quadtree, pairs: object) -> torch.Tensor:
        return 40 * pair_cosines(tree, pairs)  # type: ignore[arg-type]

    similarity: Similarity = distance
    return MergeOrder(cell_rank, score, floor, similarity)


@pytest.mark.parametrize("gap", [None, 0.0])
@pytest.mark.parametrize("kind", ["noise", "smooth", "static"])
def test_another_criterion_is_one_function(kind: str, gap: float | None) -> None:
    """Every count from the roots' to all is met in another order too, and counted right."""
    grids = [VideoGrid(3, 5, 6), VideoGrid(2, 4, 4)]
    trees = [
        grow(make_video(kind, grid, 5, 3), grid.frames, used_sizes(*size, 1), Pooling())
        for grid in grids
        for size in [(grid.height, grid.width)]
    ]
    order = random_order(trees, gap)
    counts = token_counts(trees, order).tolist()
    assert counts == [walked(trees, order, rank) for rank in ranks(order)]
    for budget in range(min(counts), sum(grid.num_tokens for grid in grids) + 1):
        merges = cut_to(trees, order, budget)
        assert merges is not None
        assert sum(merge.num_tokens for merge in merges) == budget
    assert cut_to(trees, order, min(counts) - 1) is None
