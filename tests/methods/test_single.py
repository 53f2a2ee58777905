from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import SingleGranularity, VideoFeatures
from tests.methods.field_cases import assert_leading, every_count, groups, noisy, promises

test_every_budget_is_met_exactly = promises(lambda keep: SingleGranularity(keep=keep))
test_every_budget_is_met_by_corners = promises(
    lambda keep: SingleGranularity(keep=keep, mode="nearest")
)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_size_equals_adaptive_sampling_and_spans(
    frames: int, height: int, width: int, data: st.DataObject
) -> None:
    grid = VideoGrid(frames, height, width)
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    x = noisy(grid, 3)
    merged = SingleGranularity(size=(rows, columns)).plan(VideoFeatures(x, grid)).check().apply(x)
    sampled = (
        SingleGranularity(size=(rows, columns), mode="nearest")
        .plan(VideoFeatures(x, grid))
        .check()
        .apply(x)
    )
    field = x.reshape(frames, height, width, 3)
    tops = [i * height // rows for i in range(rows + 1)]
    lefts = [i * width // columns for i in range(columns + 1)]
    expected, corner = [], []
    for t in range(frames):
        for i in range(rows):
            for j in range(columns):
                box = field[t, tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]]
                expected.append(box.mean(dim=(0, 1)))
                corner.append(box[0, 0])
    torch.testing.assert_close(merged, torch.stack(expected))
    assert torch.equal(sampled, torch.stack(corner))


@pytest.mark.parametrize("side", [13, 11, 9])
def test_the_published_sizes_equal_nearest_interpolation_and_their_budgets(side: int) -> None:
    grid = VideoGrid(2, 14, 14)
    x = noisy(grid)
    field = x.reshape(2, 14, 14, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(field, size=(side, side), mode="nearest")
    plan = SingleGranularity(size=(side, side), mode="nearest").plan(VideoFeatures(x, grid))
    assert torch.equal(plan.apply(x), resized.permute(0, 2, 3, 1).reshape(-1, x.shape[1]))
    budget = SingleGranularity(keep=2 * side * side, mode="nearest").plan(VideoFeatures(x, grid))
    assert torch.equal(budget.anchor, plan.anchor)


def test_a_budget_spreads_the_remainder() -> None:
    grid = VideoGrid(2, 2, 2)
    plan = SingleGranularity(keep=5).plan(VideoFeatures(noisy(grid), grid))
    # Two tokens for the first frame (one row of two), three for the second (rows of one and two).
    assert groups(plan) == [[0, 2], [1, 3], [4, 5], [6], [7]]
    plan = SingleGranularity(keep=1).plan(VideoFeatures(noisy(grid), grid))
    assert groups(plan) == [[*range(8)]]


def test_below_one_token_per_frame_frames_merge() -> None:
    grid = VideoGrid(5, 2, 2)
    plan = SingleGranularity(keep=2).plan(VideoFeatures(noisy(grid), grid))
    assert groups(plan) == [[*range(8)], [*range(8, 20)]]
    plan = SingleGranularity(keep=2, mode="nearest").plan(VideoFeatures(noisy(grid), grid))
    assert plan.anchor.tolist() == [0, 8]


def test_frames_differ_by_one_token_at_most() -> None:
    grid = VideoGrid(7, 5, 9)
    for keep in (8, 50, 123, 200, 314):
        plan = SingleGranularity(keep=keep).plan(VideoFeatures(noisy(grid), grid))
        assert_leading(plan)
        counts = torch.bincount(plan.anchor // 45, minlength=7)
        assert int(counts.max() - counts.min()) <= 1


def test_every_count() -> None:
    grid = VideoGrid(3, 3, 5)
    every_count(lambda keep: SingleGranularity(keep=keep), noisy(grid), grid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of them"),
        ({"size": (2, 2), "keep": 0.5}, "expected one of them"),
        ({"keep": 0}, "keep"),
        ({"size": (0, 2)}, "two integers"),
        ({"size": (2.0, 2)}, "two integers"),
        ({"size": 0}, "two integers"),
        ({"size": True}, "two integers"),
        ({"keep": 0.5, "mode": "bilinear"}, "mode"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SingleGranularity(**options)


def test_one_integer_is_a_square() -> None:
    assert SingleGranularity(size=3) == SingleGranularity(size=(3, 3))


def test_a_size_larger_than_the_grid_is_refused() -> None:
    grid = VideoGrid(1, 4, 4)
    with pytest.raises(ConfigError, match="at most 4x4"):
        SingleGranularity(size=(5, 4)).plan(VideoFeatures(noisy(grid), grid))
