import pytest
import torch

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import UniformFrames, VideoFeatures
from tests.methods.field_cases import every_count, noisy, promises

test_every_budget_is_met_exactly = promises(lambda keep: UniformFrames(keep=keep))


def test_whole_frames_are_evenly_spaced() -> None:
    grid = VideoGrid(8, 2, 3)
    plan = UniformFrames(keep=0.5).plan(VideoFeatures(noisy(grid), grid))
    # The middles of four spans of two frames each.
    assert plan.anchor.tolist() == [6 * t + i for t in (1, 3, 5, 7) for i in range(6)]
    assert UniformFrames(keep=6).plan(VideoFeatures(noisy(grid), grid)).anchor.tolist() == [
        *range(24, 30)
    ]


def test_the_rest_is_spread_over_the_last_frame() -> None:
    grid = VideoGrid(8, 2, 3)
    plan = UniformFrames(keep=9).plan(VideoFeatures(noisy(grid), grid))
    assert plan.anchor.tolist() == [*range(12, 18), 37, 39, 41]
    assert UniformFrames(keep=1).plan(VideoFeatures(noisy(grid), grid)).anchor.tolist() == [27]


def test_every_count() -> None:
    grid = VideoGrid(5, 3, 4)
    every_count(lambda keep: UniformFrames(keep=keep), noisy(grid), grid)


def test_only_the_grid_matters() -> None:
    grid = VideoGrid(5, 3, 4)
    method = UniformFrames(keep=0.4)
    anchors = [method.plan(VideoFeatures(noisy(grid, seed=seed), grid)).anchor for seed in (0, 1)]
    assert torch.equal(*anchors)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep"):
        UniformFrames(keep=0.0)
    with pytest.raises(ConfigError, match="shape"):
        UniformFrames(keep=0.5).plan(VideoFeatures(torch.zeros(3, 2), VideoGrid(1, 2, 2)))
