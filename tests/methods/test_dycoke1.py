import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import DyCokeStage1, VideoFeatures
from sttm.ops import naive_field
from tests.methods.field_cases import (
    drifting,
    every_count,
    gpu_agrees,
    promises,
    scaled_alike,
    survives_extremes,
)

test_every_budget_is_met_exactly = promises(lambda keep: DyCokeStage1(keep=keep))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 11), st.integers(1, 4), st.integers(0, 12), st.integers(0, 99))
def test_it_equals_its_twin(frames: int, side: int, each: int, seed: int) -> None:
    grid = VideoGrid(frames, side, 3)
    x = drifting(grid, seed=seed)
    each = min(each, 3 * side)
    expected = naive_field.dycoke_kept(naive_field.video(x, frames), each)
    assert DyCokeStage1(keep=len(expected)).plan(VideoFeatures(x, grid)).anchor.tolist() == expected


def test_frames_are_compared_as_published() -> None:
    grid = VideoGrid(6, 1, 2)
    a, b = [1.0, 0.0], [0.0, 1.0]
    # Second against first: place 1 changed. Third against first: place 0. Fourth against third: 1.
    x = torch.tensor([a, a, a, b, b, a, b, b, a, a, a, b])
    kept = DyCokeStage1(keep=8).plan(VideoFeatures(x, grid)).anchor.tolist()
    assert kept == [0, 1, 3, 4, 7, 8, 9, 11]


def test_what_the_authors_loops_leave_out() -> None:
    """Of eight frames the seventh stays whole, of seven the last one goes."""
    grid = VideoGrid(8, 2, 2)
    kept = DyCokeStage1(keep=12 + 5).plan(VideoFeatures(drifting(grid), grid)).anchor
    assert torch.bincount(kept // 4).tolist() == [4, 1, 1, 1, 4, 1, 4, 1]
    grid = VideoGrid(7, 2, 2)
    kept = DyCokeStage1(keep=8 + 8).plan(VideoFeatures(drifting(grid), grid)).anchor
    assert torch.bincount(kept // 4, minlength=7).tolist() == [4, 2, 2, 2, 4, 2, 0]
    # Not dropped if the budget wants it.
    kept = DyCokeStage1(keep=26).plan(VideoFeatures(drifting(grid), grid)).anchor
    assert torch.bincount(kept // 4, minlength=7).tolist() == [4, 4, 4, 4, 4, 4, 2]


def test_the_remainder_goes_to_the_earliest_frames() -> None:
    grid = VideoGrid(8, 2, 2)
    x = drifting(grid)
    kept = DyCokeStage1(keep=12 + 5 * 2 + 2).plan(VideoFeatures(x, grid)).anchor
    assert torch.bincount(kept // 4).tolist() == [4, 3, 3, 2, 4, 2, 4, 2]


def test_below_a_quarter_the_first_frames_are_reduced_alike() -> None:
    grid = VideoGrid(16, 2, 2)
    x = drifting(grid)
    firsts = x.reshape(16, 4, -1)[::4].reshape(16, -1)
    inner = DyCokeStage1(keep=7).plan(VideoFeatures(firsts, VideoGrid(4, 2, 2))).anchor
    kept = DyCokeStage1(keep=7).plan(VideoFeatures(x, grid)).anchor
    assert torch.equal(kept, inner // 4 * 16 + inner % 4)
    assert DyCokeStage1(keep=4).plan(VideoFeatures(x, grid)).anchor.tolist() == [0, 1, 2, 3]
    assert DyCokeStage1(keep=2).plan(VideoFeatures(x, grid)).anchor.tolist() == [1, 3]


def test_every_count_and_scale() -> None:
    grid = VideoGrid(18, 2, 2)
    every_count(lambda keep: DyCokeStage1(keep=keep), drifting(grid), grid)
    scaled_alike(DyCokeStage1(keep=0.4), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(DyCokeStage1(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(DyCokeStage1(keep=0.4), VideoGrid(16, 14, 14))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep"):
        DyCokeStage1(keep=-1)
