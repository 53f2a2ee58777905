import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.ops import naive
from sttm.ops.pyramid import (
    cell_tables,
    level_sizes,
    neighbour_tables,
    parent_index,
    pool,
    used_sizes,
)


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((14, 14), [(14, 14), (7, 7), (4, 4), (2, 2)]),
        ((20, 36), [(20, 36), (10, 18), (5, 9), (3, 5), (2, 3)]),
        ((1, 9), [(1, 9)]),
        ((2, 9), [(2, 9)]),
        ((3, 3), [(3, 3), (2, 2)]),
        ((1, 1), [(1, 1)]),
    ],
)
def test_levels_follow_the_specification(
    size: tuple[int, int], levels: list[tuple[int, int]]
) -> None:
    assert level_sizes(*size) == levels


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_full_pyramid_ends_in_one_cell(height: int, width: int) -> None:
    sizes = level_sizes(height, width, to_single=True)
    assert sizes[-1] == (1, 1)
    stopped = level_sizes(height, width)
    assert sizes[: len(stopped)] == stopped


def test_root_level_counts_from_the_coarsest_and_stops_at_the_finest() -> None:
    assert used_sizes(14, 14, 1)[-1] == (4, 4)
    assert used_sizes(14, 14, 0)[-1] == (2, 2)
    assert used_sizes(14, 14, 3) == used_sizes(14, 14, 99) == used_sizes(14, 14, -1) == [(14, 14)]
    assert used_sizes(1, 7, 0) == [(1, 7)]


@settings(deadline=None)
@given(st.integers(1, 50))
def test_children_are_halved_as_in_the_twin(size: int) -> None:
    parents = parent_index(size).tolist()
    children = [[c for c in range(size) if parents[c] == p] for p in range((size + 1) // 2)]
    assert children == naive.halve(size)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_pooling_equals_its_twin(height: int, width: int, weighted: bool, seed: int) -> None:
    x = torch.randn(2, height, width, 3, generator=torch.Generator().manual_seed(seed))
    before = x.clone()
    sizes = level_sizes(height, width, to_single=True)
    tables = cell_tables(tuple(sizes), weighted, x.device)
    patches = torch.split(tables.patches, [rows * columns for rows, columns in sizes])
    fast = x
    twin = [
        [
            [naive.Cell((t, r, c, r + 1, c + 1), x[t, r, c].double()) for c in range(width)]
            for r in range(height)
        ]
        for t in range(2)
    ]
    for size, count, scale in zip(sizes, patches, tables.scale, strict=False):
        fast = pool(fast, scale, count.view(size) if weighted else None)
        twin = [naive.coarsen(frame, weighted, torch.float64) for frame in twin]
        expected = [[[cell.feature for cell in line] for line in frame] for frame in twin]
        stacked = torch.stack([torch.stack([torch.stack(ln) for ln in f]) for f in expected])
        torch.testing.assert_close(fast.double(), stacked, atol=1e-6, rtol=0)
    assert torch.equal(x, before)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_tables_describe_every_patch(height: int, width: int, weighted: bool) -> None:
    sizes = level_sizes(height, width, to_single=True)
    tables = cell_tables(tuple(sizes), weighted, torch.device("cpu"))
    assert tables is cell_tables(tuple(sizes), weighted, torch.device("cpu"))
    start = 0
    for level, (rows, columns) in enumerate(sizes):
        place, share = tables.place[level], tables.share[level]
        assert sorted(set(place.tolist())) == list(range(start, start + rows * columns))
        total = torch.zeros(rows * columns).index_add_(0, place - start, share)
        torch.testing.assert_close(total, torch.ones(rows * columns))
        assert tables.level[place].eq(level).all()
        assert torch.equal(tables.patches[place], place.bincount()[place].float())
        for coarser, around in enumerate(tables.around[:, place]):
            none = len(tables.first)
            assert around.tolist() == (
                tables.place[coarser].tolist() if coarser > level else [none] * len(place)
            )
        start += rows * columns
        for patch in range(height * width):
            y, x = divmod(patch, width)
            y0, x0, y1, x1 = tables.box[place[patch]].tolist()
            assert y0 <= y < y1
            assert x0 <= x < x1
            assert tables.first[place[patch]] == y0 * width + x0
            assert (y1 - y0) * (x1 - x0) == int((place == place[patch]).sum())
        if weighted:
            torch.testing.assert_close(share, 1.0 / place.bincount()[place])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9))
def test_neighbours_are_the_cells_that_overlap(height: int, width: int) -> None:
    sizes = tuple(level_sizes(height, width, to_single=True))
    tables = cell_tables(sizes, False, torch.device("cpu"))
    pairs = neighbour_tables(sizes, torch.device("cpu"))
    boxes = tables.box.tolist()
    expected = {
        (a, b)
        for a, (y0, x0, y1, x1) in enumerate(boxes)
        for b, (v0, u0, v1, u1) in enumerate(boxes)
        if y0 < v1 and v0 < y1 and x0 < u1 and u0 < x1
    }
    found = list(zip(pairs.earlier.tolist(), pairs.later.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected
