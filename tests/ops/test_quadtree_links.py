"""Scores, cuts and links, each against its own twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.grid import VideoGrid
from sttm.ops import naive
from sttm.ops.links import Links, find_links, parent_links
from sttm.ops.pyramid import used_sizes
from sttm.ops.quadtree import Pooling, Quadtree, boxes, cut, grow
from tests.ops.merge_cases import make_video, videos


def grown(x: torch.Tensor, grid: VideoGrid, pooling: Pooling | None = None) -> Quadtree:
    sizes = used_sizes(grid.height, grid.width, 0)
    return grow(x, grid.frames, tuple(sizes), pooling or Pooling())


def feature(tree: Quadtree, row: int) -> torch.Tensor:
    """Return the float64 feature of a cell."""
    tokens = tree.num_tokens
    rows = tree.x if row < tokens else tree.coarse.flatten(0, 1)
    return rows[row if row < tokens else row - tokens].double()


def all_cells(cells: list[naive.Cell]) -> list[naive.Cell]:
    """Return the cells and everything below them."""
    found = list(cells)
    for cell in cells:
        found += all_cells([child for child in cell.slots if child is not None])
    return found


@pytest.mark.parametrize("published", [False, True])
@settings(deadline=None, max_examples=40)
@given(video=videos(), weighted=st.booleans())
def test_scores_equal_their_twin(
    published: bool, video: tuple[torch.Tensor, VideoGrid], weighted: bool
) -> None:
    x, grid = video
    tree = grown(x, grid, Pooling(weighted, 1, published))
    linking = "published" if published else "directed"
    twin = naive.Settings(root_level=0, linking=linking, weighted=weighted)
    for t, frame in enumerate(x.double().reshape(grid.frames, grid.height, grid.width, -1)):
        for cell in all_cells(naive.pyramid(frame, t, twin, torch.float64)):
            if not cell.slots:
                continue
            _, y0, x0, _, _ = cell.box
            token = torch.tensor([(t * grid.height + y0) * grid.width + x0])
            level = only_level_with(tree, token, cell.box)
            if level is None:
                continue
            place = tree.tables.place[level, int(token) % tree.patches_per_frame]
            row = int(tree.rows[t, place])
            torch.testing.assert_close(feature(tree, row), cell.feature, atol=1e-5, rtol=1e-5)
            score = float(tree.scores.flatten()[row - tree.num_tokens])
            assert score == pytest.approx(naive.score(cell, twin), abs=1e-5)


def only_level_with(tree: Quadtree, token: torch.Tensor, box: naive.Box) -> int | None:
    """Return the only level with this box, or None where single children make several."""
    levels = [
        level
        for level in range(tree.num_levels)
        if tuple(boxes(tree, token, torch.tensor([level]))[0].tolist()) == box
    ]
    return levels[0] if len(levels) == 1 else None


@settings(deadline=None, max_examples=50)
@given(videos(), st.sampled_from([None, -1.0, 0.3, 0.6, 0.9, 2.0]))
def test_links_equal_their_twin(
    video: tuple[torch.Tensor, VideoGrid], threshold: float | None
) -> None:
    x, grid = video
    tree = grown(x, grid)
    cells = cut(tree, threshold)
    anchor = cells.is_anchor.nonzero().squeeze(1)
    level = cells.level[anchor]
    row = [feature(tree, int(each)) for each in cells.row[anchor]]
    emitted = boxes(tree, anchor, level).tolist()
    twins = [naive.Cell(tuple(b), f) for b, f in zip(emitted, row, strict=True)]
    token = anchor.tolist()
    expected = {(token[a], token[b]): value for a, b, value in naive.find_links(twins)}
    links = find_links(tree, cells)
    pairs = list(zip(links.earlier.tolist(), links.later.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == set(expected)
    for pair, value in zip(pairs, links.similarity.tolist(), strict=True):
        assert value == pytest.approx(expected[pair], abs=1e-5)


def test_the_smallest_of_equally_similar_parents_is_chosen() -> None:
    links = Links(
        torch.tensor([2, 0, 1, 1]), torch.tensor([5, 5, 5, 4]), torch.tensor([0.9, 0.7, 0.9, 0.2])
    )

    def pairs(chosen: Links) -> list[tuple[int, int]]:
        found = chosen.selected()
        return list(zip(found.later.tolist(), found.earlier.tolist(), strict=True))

    assert pairs(parent_links(links, 6)) == [(4, 1), (5, 1)]
    assert pairs(parent_links(links, 6, "top_left")) == [(4, 1), (5, 0)]
    assert pairs(parent_links(links.at_least(0.5), 6)) == [(5, 1)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_float32_unless_published(dtype: torch.dtype) -> None:
    grid = VideoGrid(2, 8, 9)
    x = make_video("smooth", grid, 6, 0).to(dtype)
    exact = grown(x.float(), grid)
    ours, published = (grown(x, grid, Pooling(published=mode)) for mode in (False, True))
    assert torch.equal(ours.coarse, exact.coarse)
    assert torch.equal(ours.scores, exact.scores)
    finest = exact.coarse_sizes[0]
    assert published.coarse.dtype == dtype
    assert torch.equal(published.coarse[:, :finest], exact.coarse[:, :finest].to(dtype))


def test_the_input_is_not_copied() -> None:
    grid = VideoGrid(2, 8, 9)
    x = make_video("smooth", grid, 6, 0).bfloat16()
    assert grown(x, grid).x.data_ptr() == x.data_ptr()
