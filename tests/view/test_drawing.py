import subprocess
import sys

import numpy as np
import pytest
import torch

import sttm
from sttm.view import find_cells, overlay, sheet
from sttm.view.drawing import (
    DARK,
    DROPPED,
    LIGHT,
    LINE,
    PALE,
    PAPER,
    caption,
    paint,
    scale,
    shorten,
    summary,
    text_width,
)
from sttm.view.overlay import MAX_SIDE
from sttm.view.sheet import MAX_TILES

from .scenes import Scene, plan_of, two_steps

GREY = 100


def over(grey: float, below: float) -> int:
    """The grey of a border line on a picture."""
    return round(LINE * grey + (1 - LINE) * below)


def test_new_tokens_keep_the_picture_and_those_of_an_earlier_frame_fade() -> None:
    scene = two_steps(grey=GREY)
    cells = find_cells(scene.plan, scene.grid)
    painted = paint(scene.frames[0], cells, 0)
    assert painted[0, 0].tolist() == painted[0, 10].tolist() == [GREY] * 3
    again = paint(scene.frames[1], cells, 1)
    assert again[0, 0].tolist() == [round((1 - PALE) * GREY + PALE * paper) for paper in PAPER]
    assert again[0, 6].tolist() == [GREY] * 3


def test_a_dropped_token_is_dark() -> None:
    scene = two_steps(grey=GREY)
    painted = paint(scene.frames[1], find_cells(scene.plan, scene.grid), 1)
    assert painted[0, 11].tolist() == [round(DROPPED * GREY)] * 3


def test_a_border_is_a_dark_line_beside_a_light_one() -> None:
    plan, grid = plan_of([[[0, 1], [0, 2]]])
    picture = np.full((8, 12, 3), GREY, dtype=np.uint8)
    painted = paint(picture, find_cells(plan, grid), 0)[:, :, 0].tolist()
    dark, light = over(DARK, GREY), over(LIGHT, GREY)
    assert painted[0] == [GREY] * 5 + [dark, light] + [GREY] * 5
    assert [row[8] for row in painted] == [GREY] * 3 + [dark, light] + [GREY] * 3
    # None inside the token on the left, which is two rows high.
    assert [row[0] for row in painted] == [GREY] * 8


def test_a_frame_of_one_token_has_no_border() -> None:
    picture = np.full((6, 6, 3), GREY, dtype=np.uint8)
    assert np.array_equal(paint(picture, find_cells(*plan_of([[[0, 0], [0, 0]]])), 0), picture)


@pytest.mark.parametrize(("width", "edge"), [(9, 3), (10, 4), (11, 4)])
def test_the_grid_is_stretched_over_the_frame(width: int, edge: int) -> None:
    plan, grid = plan_of([[[0, 1, 1]]])
    picture = np.full((4, width, 3), GREY, dtype=np.uint8)
    painted = paint(picture, find_cells(plan, grid), 0)
    assert painted[0, edge, 0] == over(LIGHT, GREY)


def test_frames_are_not_modified() -> None:
    scene = two_steps(grey=GREY)
    sheet(*scene.arguments)
    overlay(*scene.arguments)
    assert bool((scene.frames == GREY).all())


def test_captions_count() -> None:
    scene = two_steps()
    cells = find_cells(scene.plan, scene.grid)
    assert caption(cells, 0, 3.0) == "t=3.0s  2 new tokens"
    assert caption(cells, 1, 4.25) == "t=4.2s  1 new token"
    assert summary(cells) == "6 -> 3 tokens (50.0 %)"


def test_a_sheet_holds_every_step() -> None:
    scene = two_steps(frames=4, height=16, width=24)
    one = sheet(*scene.arguments)
    assert one.mode == "RGB"
    assert one.width > 2 * 232


def test_a_narrow_sheet_has_room_for_its_title() -> None:
    scene = two_steps(height=16, width=12)
    plain, long = (sheet(*scene.arguments, title=title).width for title in ("", 30 * "name"))
    assert long > plain + 500


def test_a_long_sheet_stays_bounded() -> None:
    steps = 3 * MAX_TILES
    plan, grid = plan_of([[[t]] for t in range(steps)])
    frames = np.zeros((steps, 4, 4, 3), dtype=np.uint8)
    scene = Scene(frames, plan, grid, tuple(float(t) for t in range(steps)))
    picture = sheet(*scene.arguments)
    assert picture.width * picture.height < MAX_TILES * 300 * 300


def test_tokens_on_a_sheet_are_never_too_small_to_see() -> None:
    plan, grid = plan_of([[list(range(60))]])
    frames = np.zeros((1, 10, 60, 3), dtype=np.uint8)
    assert sheet(frames, plan, grid, [0.0]).width >= 8 * 60


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns", "steps"),
    [
        *((16, 4096, 8, 8, 2), (4096, 16, 8, 8, 2), (2, 65_536, 2, 2, 60), (1, 1, 1, 1, 100)),
        *((2160, 3840, 130, 130, 48), (1024, 1024, 1024, 1024, 2), (40, 40, 8, 8, 60)),
    ],
)
def test_pictures_are_bounded_whatever_the_frames_are(
    height: int, width: int, rows: int, columns: int, steps: int
) -> None:
    grid = sttm.VideoGrid(steps, rows, columns)
    every = torch.arange(grid.num_tokens)
    plan = sttm.MergePlan.from_groups(every, every)
    frames = np.broadcast_to(np.uint8(90), (steps, height, width, 3))
    times = [float(t) for t in range(steps)]
    picture = sheet(frames, plan, grid, times, title="a\nb \udcff" + 9999 * "x")
    assert picture.width * picture.height < 2**26
    assert max(picture.size) < 2**14
    if steps > 2:
        return
    drawn = overlay(frames, plan, grid, times)
    assert drawn.shape[1] - 34 <= MAX_SIDE >= drawn.shape[2]
    assert drawn.shape[1] - 34 >= min(8 * rows, MAX_SIDE)
    assert drawn.shape[2] >= min(8 * columns, MAX_SIDE)


def test_a_large_frame_is_reduced_smoothly_and_quickly() -> None:
    rows = np.linspace(0, 250, 4320).astype(np.uint8)
    large = np.broadcast_to(rows[:, None, None], (4320, 7680, 3))
    small = scale(large, 412, 232)
    assert small.shape == (232, 412, 3)
    assert np.abs(small[:, 0, 0].astype(int) - np.linspace(0, 250, 232)).max() < 3


def test_a_title_is_cut_to_its_width() -> None:
    assert shorten("clip.mp4", 22, 500) == "clip.mp4"
    cut = shorten(10_000 * "clip", 22, 500)
    assert cut.startswith("clipclip")
    assert cut.endswith("...")
    assert 450 < text_width(cut, 22) <= 500


def test_an_overlay_has_a_frame_per_frame_and_even_sides() -> None:
    scene = two_steps(frames=3, height=7, width=13)
    drawn = overlay(*scene.arguments)
    assert drawn.dtype == np.uint8
    assert len(drawn) == 3
    assert drawn.shape[1] % 2 == drawn.shape[2] % 2 == 0
    assert min(drawn.shape[1:3]) >= 480


def test_an_overlay_does_not_shrink_large_frames() -> None:
    scene = two_steps(height=600, width=800)
    assert overlay(*scene.arguments).shape[2] == 800


def test_what_does_not_fit_is_refused() -> None:
    scene = two_steps()
    for draw in (sheet, overlay):
        with pytest.raises(sttm.ConfigError, match="timestamps"):
            draw(scene.frames, scene.plan, scene.grid, [0.0])


def test_drawing_does_not_import_transformers() -> None:
    code = "import sys, sttm.view; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
