from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import OctreeMerge, VideoFeatures
from sttm.ops import naive_octree, octree
from tests.methods.field_cases import (
    assert_leading,
    assert_same,
    drifting,
    every_count,
    gpu_agrees,
    groups,
    promises,
    scaled_alike,
    survives_extremes,
)

test_every_budget_is_met_exactly = promises(lambda keep: OctreeMerge(keep=keep))

shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))


def tokens_of(cells: list[list[naive_octree.Place]], grid: VideoGrid) -> list[list[int]]:
    """Return the groups of token places as sorted indices."""
    numbered = [[(t * grid.height + y) * grid.width + x for t, y, x in cell] for cell in cells]
    return sorted(sorted(cell) for cell in numbered)


@settings(deadline=None, max_examples=40)
@given(shapes, st.floats(-1.0, 1.0), st.integers(0, 2), st.booleans(), st.integers(0, 99))
def test_thresholds_equal_their_twin(
    shape: tuple[int, int, int], threshold: float, root_level: int, corner: bool, seed: int
) -> None:
    grid = VideoGrid(*shape)
    x = drifting(grid, seed=seed)
    method = OctreeMerge(
        threshold=threshold, root_level=root_level, missing="corner" if corner else "ignored"
    )
    plan = method.plan(VideoFeatures(x, grid)).check()
    assert_leading(plan)
    roots = naive_octree.octree_roots(x, shape, len(plan.info["levels"]), corner)
    cells = [cell for root in roots for cell in root.cut(threshold)]
    assert groups(plan) == tokens_of([cell.tokens() for cell in cells], grid)
    features = sorted((tokens_of([c.tokens()], grid)[0][0], c.feature) for c in cells)
    expected = torch.tensor([feature for _, feature in features])
    torch.testing.assert_close(plan.apply(x), expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(shapes, st.floats(0.0, 1.0), st.integers(0, 99))
def test_budgets_equal_their_twin(shape: tuple[int, int, int], part: float, seed: int) -> None:
    grid = VideoGrid(*shape)
    x = drifting(grid, seed=seed)
    count = max(1, round(part * grid.num_tokens))
    plan = OctreeMerge(keep=count).plan(VideoFeatures(x, grid))
    sizes = plan.info["levels"]
    whole = sizes[-1] == (1, 1, 1) and sizes[0] == shape  # the last resort
    roots = naive_octree.octree_roots(x, shape, len(sizes), corner=True, whole=whole)
    assert groups(plan) == tokens_of(naive_octree.octree_groups(roots, count), grid)


def test_sides_halve_together() -> None:
    assert octree.octree_sizes(14, 14, 14) == [
        (14, 14, 14),
        (7, 7, 7),
        (4, 4, 4),
        (2, 2, 2),
    ]
    assert octree.octree_sizes(2, 5, 3, to_single=True)[1:] == [(1, 3, 2), (1, 2, 1), (1, 1, 1)]


def test_a_change_over_time_splits_a_cube() -> None:
    grid = VideoGrid(4, 4, 4)
    x = torch.tensor([[1.0, 0.0]]).repeat(64, 1)
    assert OctreeMerge(threshold=1.0, root_level=0).plan(VideoFeatures(x, grid)).num_out == 8
    # One token of the third frame: its cube falls into 8 tokens.
    x[37] = torch.tensor([0.0, 1.0])
    plan = OctreeMerge(threshold=0.9, root_level=0).plan(VideoFeatures(x, grid))
    assert plan.num_out == 15
    assert [37] in groups(plan)


def test_a_cube_opens_in_part() -> None:
    grid = VideoGrid(2, 2, 2)
    x = torch.tensor([[1.0, 0.0]]).repeat(8, 1)
    x[6], x[3] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5])
    method = [OctreeMerge(keep=n, root_level=0) for n in (1, 2, 3)]
    assert groups(method[0].plan(VideoFeatures(x, grid))) == [[*range(8)]]
    assert groups(method[1].plan(VideoFeatures(x, grid))) == [[0, 1, 2, 3, 4, 5, 7], [6]]
    assert len(groups(method[2].plan(VideoFeatures(x, grid)))) == 3
    torch.testing.assert_close(
        method[1].plan(VideoFeatures(x, grid)).apply(x)[0], x[[0, 1, 2, 3, 4, 5, 7]].mean(0)
    )


def test_a_small_budget_goes_on_to_one_cell() -> None:
    grid = VideoGrid(8, 14, 14)
    x = drifting(grid)
    # Eight frames are too few for a cube of fourteen: each has a tree of its own.
    levels = [
        OctreeMerge(keep=keep).plan(VideoFeatures(x, grid)).info["levels"]
        for keep in (128, 127, 8, 7)
    ]
    assert [sizes[0] for sizes in levels] == [(1, 14, 14)] * 3 + [(8, 14, 14)]
    assert [sizes[-1] for sizes in levels] == [(1, 4, 4)] + [(1, 1, 1)] * 3


def test_time_is_cut_into_cubes() -> None:
    grid = VideoGrid(11, 4, 3)
    x = torch.ones(grid.num_tokens, 2)
    plan = OctreeMerge(root_level=0).plan(VideoFeatures(x, grid))
    # Three cubes of as many frames as columns, each of 2x2x2 cells, then two frames of 2x2 cells.
    frames = plan.group.reshape(grid.frames, -1)
    assert [len(set(frame.tolist())) for frame in frames] == [4] * 11
    assert plan.num_out == 3 * 8 + 2 * 4


def test_a_missing_child_is_scored_as_the_first_cell() -> None:
    grid = VideoGrid(1, 3, 3)
    x = torch.ones(9, 1) * torch.tensor([0.0, 1.0])
    x[0] = torch.tensor([1.0, 0.0])  # the corner is unlike the others
    method = OctreeMerge(threshold=0.5, root_level=0)
    one = method.plan(VideoFeatures(x, grid))
    other = replace(method, missing="ignored").plan(VideoFeatures(x, grid))
    # Of the four roots three are short of children; with a stand-in two of them fall apart.
    assert (one.num_out, other.num_out) == (6, 4)


def test_means_are_over_children() -> None:
    grid = VideoGrid(1, 7, 7)
    plan = OctreeMerge(threshold=-1.0, root_level=0).plan(VideoFeatures(drifting(grid), grid))
    # 7 -> 4 -> 2: the first root holds children of one, two, two and four tokens.
    first = plan.weight.reshape(7, 7)[:3, :3]
    expected = torch.tensor([[4.0, 2.0, 2.0], [2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]) / 16
    torch.testing.assert_close(first, expected)


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for frames in (7, 8):
        grid = VideoGrid(frames, 5, 6)
        x = drifting(grid)
        whole = OctreeMerge(threshold=0.7).plan(VideoFeatures(x, grid))
        monkeypatch.setattr(octree, "piece_rows", lambda *_: 1)
        assert_same(whole, OctreeMerge(threshold=0.7).plan(VideoFeatures(x, grid)))
        monkeypatch.undo()


def test_every_count_and_scale() -> None:
    grid = VideoGrid(3, 5, 4)
    every_count(lambda keep: OctreeMerge(keep=keep), drifting(grid), grid)
    scaled_alike(OctreeMerge(keep=0.4), grid)
    scaled_alike(OctreeMerge(threshold=0.7), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(OctreeMerge(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(OctreeMerge(keep=0.3), VideoGrid(16, 14, 14))
    gpu_agrees(OctreeMerge(), VideoGrid(16, 14, 14))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"keep": 0.5, "threshold": 0.8}, "together with keep"),
        ({"root_level": -1}, "root_level"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OctreeMerge(**options)
