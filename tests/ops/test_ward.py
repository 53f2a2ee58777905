"""Ward's clustering on the grid: against its twin, its costs, its promises, its bounds."""

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sttm.grid import VideoGrid
from sttm.ops import ward
from sttm.ops.naive_ward import Clustering
from sttm.ops.ward import MergeTree, cheapest_merges, merge_trees, merges_within
from tests.ops.merge_cases import MARGIN, make_video

GRIDS = st.builds(VideoGrid, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
KINDS = st.sampled_from(["noise", "smooth", "static", "zeros"])
ALL_SHAPES = ((1, 1, 1), (1, 1, 7), (5, 1, 1), (2, 3, 3), (3, 4, 2))


def tree_of(x: torch.Tensor, grid: VideoGrid, *, exact: bool = True) -> MergeTree:
    return merge_trees([(x, grid)], exact=exact)[0]


def labels(tree: MergeTree, merges: int) -> torch.Tensor:
    return tree.labels(cheapest_merges([tree], merges)[0])


def squared_error(x: torch.Tensor, label: torch.Tensor) -> float:
    wide = x.double()
    _, group = torch.unique(label, return_inverse=True)
    mean = torch.zeros(int(group.max()) + 1, wide.shape[1], dtype=torch.float64)
    mean.index_add_(0, group, wide).div_(torch.bincount(group)[:, None])
    return float((wide - mean[group]).square().sum())


@pytest.mark.parametrize("few_pairs", [1 / 16, 1.0])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    grid=GRIDS,
    kind=KINDS,
    channels=st.integers(1, 5),
    seed=st.integers(0, 9999),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_merges_equal_those_of_the_twin(
    few_pairs: float, grid: VideoGrid, kind: str, channels: int, seed: int, dtype: torch.dtype
) -> None:
    x = make_video(kind, grid, channels, seed).to(dtype)
    twin = Clustering(x.double(), (grid.frames, grid.height, grid.width), few_pairs)
    assume(twin.close > MARGIN)
    before = x.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ward, "FEW_PAIRS", few_pairs)
        tree = tree_of(x, grid)
    assert torch.equal(x, before)
    found = {tuple(pair): i for i, pair in enumerate(tree.pairs.T.tolist())}
    assert list(found) == [merge.pair for merge in twin.merges]
    unit = float(x.double().abs().max()) ** 2
    for values, name in ((tree.cost, "cost"), (tree.price, "price")):
        wanted = torch.tensor([getattr(m, name) for m in twin.merges], dtype=torch.float64)
        torch.testing.assert_close(values * unit, wanted, rtol=1e-4, atol=1e-6 * unit)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 30), (2, 5, 5)])
def test_equal_tokens_join_as_in_the_twin(shape: tuple[int, int, int]) -> None:
    grid = VideoGrid(*shape)
    x = torch.ones(grid.num_tokens, 3)
    tree, twin = tree_of(x, grid), Clustering(x.double(), shape)
    assert tree.pairs.T.tolist() == [list(merge.pair) for merge in twin.merges]
    assert tree.cost.tolist() == [0.0] * (grid.num_tokens - 1)


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_every_count_is_met_and_its_error_is_the_sum_of_the_costs(
    shape: tuple[int, int, int],
) -> None:
    grid = VideoGrid(*shape)
    x = make_video("smooth", grid, 6, 3)
    tree = tree_of(x, grid)
    unit = float(x.abs().max()) ** 2
    assert tree.energy * unit == pytest.approx(float(x.double().square().sum()), rel=1e-6)
    before = -1.0
    for merges in range(grid.num_tokens):
        made = cheapest_merges([tree], merges)[0]
        label = tree.labels(made)
        assert len(set(label.tolist())) == grid.num_tokens - merges
        assert torch.equal(label[label], label)
        assert bool((label <= torch.arange(grid.num_tokens)).all())
        error = squared_error(x, label)
        assert float(tree.cost[made].sum()) * unit == pytest.approx(error, rel=1e-4, abs=1e-6)
        assert error >= before
        before = error


@settings(deadline=None, max_examples=30)
@given(grid=GRIDS, kind=KINDS, seed=st.integers(0, 999), channels=st.sampled_from([3, 8, 200]))
def test_a_limit_is_used_as_far_as_prices_go(
    grid: VideoGrid, kind: str, seed: int, channels: int
) -> None:
    x = make_video(kind, grid, channels, seed)
    tree = tree_of(x, grid)
    energy = float(x.double().square().sum())
    counts = []
    for limit in (0.0, 0.01, 0.1, 0.3, 0.6, 1.0):
        count = merges_within([tree], limit)
        assert squared_error(x, labels(tree, count)) <= limit * energy * (1 + 1e-4) + 1e-12
        if count < grid.num_tokens - 1:
            assert squared_error(x, labels(tree, count + 1)) > limit * energy * (1 - 1e-4)
        counts.append(count)
    assert counts == sorted(counts)


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("keep", [0.5, 0.3, 0.1, 0.05])
def test_hardly_anything_is_won_by_one_other_merge(kind: str, keep: float) -> None:
    """Undoing the dearest merge and making the cheapest one that is left wins less than 1 %."""
    grid = VideoGrid(8, 14, 14)
    x = make_video(kind, grid, 16, 5)
    tree = tree_of(x, grid)
    made = cheapest_merges([tree], grid.num_tokens - int(keep * grid.num_tokens))[0]
    label = tree.labels(made)
    _, group, size = torch.unique(label, return_inverse=True, return_counts=True)
    one, other = group[ward.grid_edges(grid, label.device)].unbind(0)
    one, other = one[one != other], other[one != other]
    mean = torch.zeros(len(size), 16, dtype=torch.float64).index_add_(0, group, x.double())
    mean /= size[:, None]
    cost = (mean[one] - mean[other]).square().sum(1) * size[one] * size[other]
    cheapest = float((cost / (size[one] + size[other])).min())
    dearest = float(tree.cost[made].max()) * float(x.abs().max()) ** 2
    assert dearest - cheapest < 0.01 * squared_error(x, label)


def hard_video(name: str, grid: VideoGrid) -> torch.Tensor:
    """Return ``(N, 4)`` features in which few groups are each other's cheapest neighbour."""
    number = torch.arange(grid.num_tokens).double()
    generator = torch.Generator().manual_seed(0)
    if name == "specks":
        x = torch.ones(grid.num_tokens, 4)
        speck = torch.rand(grid.num_tokens, generator=generator) < 0.2
        x[speck] = torch.randn(int(speck.sum()), 4, generator=generator)
        return x
    scale = {
        "even": torch.ones_like(number),
        "ramp": number,
        "parabola": number**2,
        "fade": 0.997**number,
        "steep fade": 0.8 ** (number // grid.tokens_per_frame),
    }[name]
    return scale.float()[:, None].repeat(1, 4)


@pytest.mark.parametrize("name", ["even", "specks", "ramp", "parabola", "fade", "steep fade"])
@pytest.mark.parametrize("shape", [(32, 14, 14), (1, 1, 3000)])
def test_rounds_are_few(name: str, shape: tuple[int, int, int]) -> None:
    grid = VideoGrid(*shape)
    tree = tree_of(hard_video(name, grid), grid, exact=False)
    assert tree.rounds <= 6 * math.log2(grid.num_tokens)


def test_without_guests_rounds_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = VideoGrid(1, 1, 300)
    x = hard_video("parabola", grid)
    assert tree_of(x, grid).rounds <= 50
    monkeypatch.setattr(ward, "FEW_PAIRS", 0.0)
    assert tree_of(x, grid).rounds > 100


def test_prices_of_several_videos_are_comparable() -> None:
    grid = VideoGrid(4, 6, 6)
    still = make_video("static", grid, 8, 1) + 0.01 * make_video("noise", grid, 8, 2)
    busy = 3 * make_video("noise", grid, 8, 3)
    trees = merge_trees([(still, grid), (busy, VideoGrid(2, 12, 6))], exact=True)
    made = cheapest_merges(trees, 150)
    assert sum(int(own.sum()) for own in made) == 150
    assert int(made[0].sum()) > int(made[1].sum())
    highest = max(float(t.price[own].max()) for t, own in zip(trees, made, strict=True) if any(own))
    lowest = min(float(t.price[~own].min()) for t, own in zip(trees, made, strict=True))
    assert highest <= lowest
    unit = float(busy.abs().max()) ** 2
    alone = tree_of(busy, VideoGrid(2, 12, 6))
    torch.testing.assert_close(trees[1].cost * unit, alone.cost * unit)


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e-3, 1e6, 1e30, 3e37])
def test_the_scale_of_the_features_does_not_matter(scale: float) -> None:
    grid = VideoGrid(3, 5, 4)
    for channels in (6, 300):
        x = make_video("zeros", grid, channels, 9)
        scaled = (x.double() * scale).float()
        tree, same = tree_of(scaled, grid), tree_of((scaled.double() / scale).float(), grid)
        if scale > 1e-38:  # below, float32 itself is coarse
            assert torch.equal(tree.pairs, same.pairs)
        assert tree.distortion(tree.cost >= 0) == pytest.approx(
            same.distortion(same.cost >= 0), rel=1e-3
        )


def test_features_of_zero_cost_nothing() -> None:
    grid = VideoGrid(2, 3, 3)
    tree = tree_of(torch.zeros(18, 5), grid)
    assert merges_within([tree], 0.0) == 17
    assert tree.distortion(tree.cost >= 0) == 0.0


def test_narrow_features_are_compared_as_they_are() -> None:
    x = torch.randn(10, ward.SKETCH_CHANNELS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ward.sketch(x), x)


@pytest.mark.parametrize("channels", [129, 256, 896, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sketch_nearly_keeps_distances(channels: int, dtype: torch.dtype) -> None:
    x = torch.randn(400, channels, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[7] = x[8]
    small = ward.sketch(x)
    assert small.shape == (400, ward.SKETCH_CHANNELS)
    assert small.dtype == torch.float32
    assert torch.equal(small[7], small[8])
    wanted = torch.pdist(x.float()).square()
    ratio = torch.pdist(small).square()[wanted > 0] / wanted[wanted > 0]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(ratio.std()) < 1.2 * math.sqrt(2 / ward.SKETCH_CHANNELS)


def test_sketched_merges_are_nearly_as_good() -> None:
    grid = VideoGrid(8, 10, 10)
    x = make_video("smooth", grid, 1024, 2)
    sketched = tree_of(x, grid, exact=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ward, "SKETCH_CHANNELS", 1024)
        whole = tree_of(x, grid)
    for merges in (400, 560, 720):
        got, wanted = (squared_error(x, labels(tree, merges)) for tree in (sketched, whole))
        assert got <= 1.05 * wanted
        estimated = sketched.distortion(cheapest_merges([sketched], merges)[0])
        assert estimated == pytest.approx(got / float(x.double().square().sum()), rel=0.25)


def test_every_run_gives_the_same_bits() -> None:
    grid = VideoGrid(6, 9, 7)
    x = make_video("smooth", grid, 200, 4).half()
    one, other = tree_of(x, grid, exact=False), tree_of(x, grid, exact=False)
    assert torch.equal(one.pairs, other.pairs)
    assert torch.equal(one.price, other.price)


def test_a_video_in_pieces_merges_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = VideoGrid(6, 9, 7)
    x = make_video("smooth", grid, 20, 4)
    whole = tree_of(x, grid)
    monkeypatch.setattr("sttm.ops.similarity._CPU_PIECE", 300)
    pieces = tree_of(x, grid)
    assert torch.equal(whole.pairs, pieces.pairs)
    assert torch.equal(whole.cost, pieces.cost)
