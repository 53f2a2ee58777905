import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import EVS, VideoFeatures
from sttm.ops import naive_field
from tests.methods.field_cases import (
    drifting,
    every_count,
    gpu_agrees,
    promises,
    scaled_alike,
    survives_extremes,
)

test_every_budget_is_met_exactly = promises(lambda keep: EVS(keep=keep))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 4), st.floats(0.0, 1.0), st.integers(0, 99))
def test_it_equals_its_twin(frames: int, side: int, part: float, seed: int) -> None:
    grid = VideoGrid(frames, side, 3)
    x = drifting(grid, seed=seed)
    count = 3 * side + round(part * (frames - 1) * 3 * side)
    expected = naive_field.evs_kept(naive_field.video(x, frames), count)
    assert EVS(keep=count).plan(VideoFeatures(x, grid)).anchor.tolist() == expected


def test_the_first_frame_and_the_changes_stay() -> None:
    grid = VideoGrid(3, 1, 4)
    x = torch.tensor([[1.0, 0.0]]).repeat(12, 1)
    # Token 5 turns away in the second frame and stays so; token 11 turns halfway in the third.
    x[5] = x[9] = torch.tensor([0.0, 1.0])
    x[11] = torch.tensor([1.0, 1.0])
    assert EVS(keep=5).plan(VideoFeatures(x, grid)).anchor.tolist() == [0, 1, 2, 3, 5]
    assert EVS(keep=6).plan(VideoFeatures(x, grid)).anchor.tolist() == [0, 1, 2, 3, 5, 11]
    # Equal changes: the earliest tokens.
    assert EVS(keep=8).plan(VideoFeatures(x, grid)).anchor.tolist() == [0, 1, 2, 3, 4, 5, 6, 11]


def test_below_one_frame_the_first_is_thinned() -> None:
    grid = VideoGrid(3, 1, 4)
    x = drifting(grid)
    assert EVS(keep=2).plan(VideoFeatures(x, grid)).anchor.tolist() == [1, 3]
    assert EVS(keep=1).plan(VideoFeatures(x, grid)).anchor.tolist() == [2]


def test_every_count_and_scale() -> None:
    grid = VideoGrid(4, 3, 3)
    every_count(lambda keep: EVS(keep=keep), drifting(grid), grid)
    scaled_alike(EVS(keep=0.4), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(EVS(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(EVS(keep=0.3), VideoGrid(16, 14, 14))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep"):
        EVS(keep=2.0)
    with pytest.raises(ConfigError, match="NaN"):
        EVS(keep=1).plan(VideoFeatures(torch.full((4, 2), torch.nan), VideoGrid(1, 2, 2)))
