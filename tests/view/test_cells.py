import pytest
import torch

import sttm
from sttm.methods import VideoFeatures
from sttm.view import find_cells
from sttm.view.cells import check_frames, step_of_frame

from .scenes import plan_of, two_steps


def test_every_token_has_its_cells() -> None:
    scene = two_steps()
    cells = find_cells(scene.plan, scene.grid)
    assert cells.label.tolist() == [[[0, 0, 1]], [[0, 2, -1]]]
    assert cells.first.tolist() == [0, 0, 1]
    assert cells.new_tokens.tolist() == [2, 1]
    assert (cells.num_in, cells.num_out) == (6, 3)


def test_a_token_is_new_in_one_step_only() -> None:
    assert find_cells(*plan_of([[[0]], [[1]], [[0]]])).new_tokens.tolist() == [1, 1, 0]


def test_new_tokens_add_up_for_a_real_method() -> None:
    grid = sttm.VideoGrid(5, 6, 7)
    x = torch.randn(grid.num_tokens, 8, generator=torch.Generator().manual_seed(0))
    plan = sttm.STTM(keep=0.4).plan(VideoFeatures(x, grid))
    cells = find_cells(plan, grid)
    assert int(cells.new_tokens.sum()) == plan.num_out


def test_a_plan_for_another_grid_is_refused() -> None:
    with pytest.raises(sttm.ConfigError, match="got 6 input tokens, expected 8"):
        find_cells(two_steps().plan, sttm.VideoGrid(2, 2, 2))


@pytest.mark.parametrize(
    ("frames", "steps", "wanted"),
    [
        (3, 3, [0, 1, 2]),
        (4, 2, [0, 0, 1, 1]),
        (5, 3, [0, 0, 1, 1, 2]),  # the processor repeated the last frame
        (7, 4, [0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_frames_share_steps(frames: int, steps: int, wanted: list[int]) -> None:
    assert step_of_frame(frames, steps).tolist() == wanted


def test_the_first_frame_stands_for_a_step() -> None:
    scene = two_steps(frames=4)
    assert check_frames(scene.frames, scene.grid, scene.timestamps).tolist() == [0, 2]


def test_what_does_not_fit_is_refused() -> None:
    scene = two_steps()
    with pytest.raises(sttm.ConfigError, match="got 1, expected at least 2"):
        check_frames(scene.frames[:1], scene.grid)
    with pytest.raises(sttm.ConfigError, match="uint8"):
        check_frames(scene.frames[0], scene.grid)
    with pytest.raises(sttm.ConfigError, match="2x8 pixels"):
        check_frames(scene.frames[:, :, :2], scene.grid)
    with pytest.raises(sttm.ConfigError, match="got 1 for 2 frames"):
        check_frames(scene.frames, scene.grid, [0.0])
